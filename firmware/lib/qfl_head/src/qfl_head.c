/* Shapes, forward and backward of the whole stack, evaluation. Scratch holds one row per layer boundary. */
#include "qfl_head.h"
#include "qfl_head_dense.h"

static uint32_t layer_params(const qfl_head_shape *s, uint32_t i) { return (s->dims[i] + 1) * s->dims[i + 1]; }

uint32_t qfl_head_param_count(const qfl_head_shape *shape)
{
    uint64_t n = 0;
    if (shape->layers < 1 || shape->layers > QFL_HEAD_MAX_LAYERS)
        return 0;
    for (uint32_t i = 0; i <= shape->layers; i++)
        if (shape->dims[i] < 1 || shape->dims[i] > 65535)
            return 0;
    for (uint32_t i = 0; i < shape->layers; i++)
        n += (uint64_t)(shape->dims[i] + 1) * shape->dims[i + 1];
    return n < (1u << 28) ? (uint32_t)n : 0;
}

uint32_t qfl_head_scratch_size(const qfl_head_shape *shape)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i <= shape->layers; i++)
        n += shape->dims[i];
    return n * (uint32_t)sizeof(float);
}

static void dequantise(const int8_t *q, float scale, int32_t zero_point, float *x, uint32_t n)
{
    QFL_HEAD_UNROLL
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)(q[i] - zero_point) * scale;
}

/* Fills scratch with the activations of every layer; returns the logits, its last row. */
static float *forward(const qfl_head_shape *s, const float *w, const int8_t *q, float scale, int32_t zero_point, float *scratch)
{
    float *x = scratch;
    dequantise(q, scale, zero_point, x, s->dims[0]);
    for (uint32_t i = 0; i < s->layers; i++) {
        uint32_t in = s->dims[i], out = s->dims[i + 1];
        qfl_head_dense_forward(w, w + in * out, x, x + in, in, out, i + 1 < s->layers);
        w += layer_params(s, i);
        x += in;
    }
    return x;
}

const float *qfl_head_logits(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale,
                             int32_t zero_point, float *scratch)
{
    return forward(shape, w, q, scale, zero_point, scratch);
}

/* Softmax cross-entropy of z [k] against `label`; z becomes weight * (p - onehot) when error is 1. Returns the loss. */
static float cross_entropy(float *z, uint32_t k, uint32_t label, float weight, int error)
{
    float max = z[0], sum = 0.0f, at_label = z[label];
    for (uint32_t i = 1; i < k; i++)
        if (z[i] > max)
            max = z[i];
    if (!error) {
        for (uint32_t i = 0; i < k; i++)
            sum += qfl_head_exp(z[i] - max);
        return qfl_head_log(sum) - (at_label - max);
    }
    for (uint32_t i = 0; i < k; i++) {
        z[i] = qfl_head_exp(z[i] - max);
        sum += z[i];
    }
    float f = weight / sum;
    for (uint32_t i = 0; i < k; i++)
        z[i] = z[i] * f;
    z[label] -= weight;
    return qfl_head_log(sum) - (at_label - max);
}

float qfl_head_gradient(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale, int32_t zero_point,
                        uint32_t label, float weight, float *grad, float *scratch)
{
    float *d = forward(shape, w, q, scale, zero_point, scratch);
    float loss = cross_entropy(d, shape->dims[shape->layers], label, weight, 1);
    uint32_t at = 0;
    for (uint32_t i = 0; i < shape->layers; i++)
        at += layer_params(shape, i);
    for (uint32_t i = shape->layers; i-- > 0;) {
        uint32_t in = shape->dims[i], out = shape->dims[i + 1];
        float *x = d - in;
        at -= layer_params(shape, i);
        qfl_head_dense_gradient(grad + at, grad + at + in * out, x, d, in, out);
        if (i != 0)
            qfl_head_dense_back(w + at, x, d, in, out);
        d = x;
    }
    return loss;
}

void qfl_head_evaluate(const qfl_head_shape *shape, const float *w, const qfl_head_data *data, uint32_t holdout,
                       uint32_t first, uint32_t limit, qfl_head_score *score, float *scratch)
{
    uint32_t k = shape->dims[shape->layers];
    for (uint32_t i = first; i < data->count && i - first < limit; i++) {
        if (holdout != 0 && i % holdout != holdout - 1)
            continue;
        float *z = forward(shape, w, data->q + (uint64_t)i * shape->dims[0], data->scale, data->zero_point, scratch);
        uint32_t best = 0;
        for (uint32_t j = 1; j < k; j++)
            if (z[j] > z[best])
                best = j;
        score->count++;
        score->correct += best == data->labels[i];
        score->loss += cross_entropy(z, k, data->labels[i], 0.0f, 0);
    }
}

void qfl_head_score_finish(qfl_head_score *score)
{
    if (score->count != 0)
        score->loss = score->loss / (float)score->count;
}
