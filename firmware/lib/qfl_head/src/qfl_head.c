/* The whole stack: scratch, forward and backward, evaluation. */
#include "qfl_head.h"
#include "qfl_head_layers.h"
#include "qfl_head_pair.h"

uint32_t qfl_head_features(const qfl_head_shape *shape) { return qfl_head_in_size(&shape->layer[0]); }

uint32_t qfl_head_classes(const qfl_head_shape *shape)
{
    return qfl_head_out_size(&shape->layer[shape->layers - 1]);
}

void qfl_head_layer_params(const qfl_head_shape *shape, uint32_t i, uint32_t *kernel, uint32_t *bias)
{
    const qfl_head_layer *l = &shape->layer[i];
    int pool = l->kind == QFL_HEAD_AVERAGE || l->kind == QFL_HEAD_MAXIMUM;
    *bias = pool ? 0 : l->out_c;
    *kernel = *bias;
    if (!pool && l->mode == QFL_HEAD_ALL)
        *kernel = qfl_head_taps(l) * l->out_c * (l->kind == QFL_HEAD_CONV ? l->in_c : 1u);
}

QFL_COLD uint32_t qfl_head_layout(const qfl_head_shape *shape, uint32_t *size)
{
    uint32_t n = 0, kernel, bias;
    for (uint32_t i = 0; i < shape->layers; i++) {
        qfl_head_layer_params(shape, i, &kernel, &bias);
        if (bias == 0)
            continue;
        size[n++] = kernel;
        size[n++] = bias;
    }
    return n;
}

uint32_t qfl_head_centred(const qfl_head_shape *shape, uint32_t *columns)
{
    const qfl_head_layer *last = &shape->layer[shape->layers - 1];
    int dense = last->kind == QFL_HEAD_CONV && last->mode == QFL_HEAD_ALL &&
                last->activation == QFL_HEAD_LINEAR && last->in_h == 1 && last->in_w == 1 &&
                last->out_h == 1 && last->out_w == 1 && last->k_h == 1 && last->k_w == 1 && last->out_c > 1;
    *columns = dense ? last->out_c : 0;
    return (last->in_c + 1u) * *columns;
}

QFL_COLD int qfl_head_one_dense(const qfl_head_shape *shape)
{
    const qfl_head_layer *l = &shape->layer[0];
    return shape->layers == 1 && l->mode == QFL_HEAD_ALL && l->in_h == 1 && l->in_w == 1;
}

/* Scratch: room for a patch, the outputs of every layer, errors that are kept apart. */
static uint32_t room_of(const qfl_head_shape *shape)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < shape->layers; i++) {
        const qfl_head_layer *l = &shape->layer[i];
        uint32_t n = qfl_head_room(l, i == 0);
        most = n > most ? n : most;
    }
    return most;
}

QFL_COLD uint32_t qfl_head_scratch_size(const qfl_head_shape *shape)
{
    uint32_t n = room_of(shape), apart = 0;
    for (uint32_t i = 0; i < shape->layers; i++) {
        const qfl_head_layer *l = &shape->layer[i];
        n += qfl_head_out_size(l);
        if (i != 0 && qfl_head_error_apart(l) && qfl_head_in_size(l) > apart)
            apart = qfl_head_in_size(l);
    }
    if (qfl_head_pairs(shape))
        n += qfl_head_classes(shape);
    return (n + apart) * (uint32_t)sizeof(float);
}

QFL_COLD const float *qfl_head_outputs(const qfl_head_shape *shape, uint32_t i, const float *scratch)
{
    scratch += room_of(shape);
    for (uint32_t k = 0; k < i; k++)
        scratch += qfl_head_out_size(&shape->layer[k]);
    return scratch;
}

/* The layer's part of a parameter vector that begins at w; w moves behind it. */
static qfl_head_part part_of(const qfl_head_shape *shape, uint32_t i, float **w)
{
    uint32_t kernel, bias;
    qfl_head_layer_params(shape, i, &kernel, &bias);
    qfl_head_part p = {*w, *w + kernel};
    *w += kernel + bias;
    return p;
}

/* Runs the stack; returns the logits, the last row. *s is left as the first layer's source. */
static float *forward(const qfl_head_shape *shape, const float *w, qfl_head_source *first, float *scratch)
{
    float *at = (float *)(uintptr_t)w, *y = scratch + room_of(shape); /* parameters are only read here */
    qfl_head_source s = *first;
    s.room = first->room = scratch;
    for (uint32_t i = 0;; i++) {
        const qfl_head_layer *l = &shape->layer[i];
        qfl_head_part p = part_of(shape, i, &at);
        if (qfl_head_is_pool(l))
            qfl_head_pool_forward(l, &s, y);
        else if (qfl_head_is_scales(l))
            qfl_head_scales_forward(shape, l, p, &s, y);
        else if (qfl_head_is_depthwise(l))
            qfl_head_depthwise_forward(l, p, &s, y);
        else
            qfl_head_conv_forward(l, p, &s, y);
        if (i + 1 == shape->layers)
            return y;
        s.q = 0;
        s.x = y;
        y += qfl_head_out_size(l);
    }
}

QFL_COLD const float *qfl_head_logits(const qfl_head_shape *shape, const float *w, const int8_t *q,
                                      float scale, int32_t zero_point, float *scratch)
{
    qfl_head_source s = {q, 0, scale, zero_point, 0};
    return forward(shape, w, &s, scratch);
}

/* Softmax cross-entropy of z [k] against `label`; z becomes weight * (p - onehot), of use where weight is not 0. Returns the loss. */
static float cross_entropy(float *z, uint32_t k, uint32_t label, float weight)
{
    float max = z[0], at_label = z[label];
    for (uint32_t i = 1; i < k; i++)
        if (z[i] > max)
            max = z[i];
    float sum = qfl_head_exp_sum(z, k, max);
    if (weight != 0.0f) {
        float f = weight / sum;
        for (uint32_t i = 0; i < k; i++)
            z[i] = z[i] * f;
        z[label] -= weight;
    }
    return qfl_head_log(sum) - (at_label - max);
}

float qfl_head_gradient(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale,
                        int32_t zero_point, uint32_t label, float weight, float *grad, float *scratch)
{
    qfl_head_source first = {q, 0, scale, zero_point, 0};
    float *d = forward(shape, w, &first, scratch);
    uint32_t last = shape->layers - 1, k = qfl_head_out_size(&shape->layer[last]), kernel, bias;
    float loss = cross_entropy(d, k, label, weight), *apart = d + k;
    float *at = (float *)(uintptr_t)w;
    for (uint32_t i = 0; i <= last; i++) {
        qfl_head_layer_params(shape, i, &kernel, &bias);
        at += kernel + bias;
        grad += kernel + bias;
    }
    for (uint32_t i = last;; i--) {
        const qfl_head_layer *l = &shape->layer[i];
        qfl_head_error e = {d, apart, i == 0 ? -1 : shape->layer[i - 1].activation};
        qfl_head_source s = first;
        if (i != 0) {
            s.q = 0;
            s.x = d - qfl_head_in_size(l);
        }
        qfl_head_layer_params(shape, i, &kernel, &bias);
        at -= kernel + bias;
        grad -= kernel + bias;
        qfl_head_part p = {at, at + kernel}, g = {grad, grad + kernel};
        if (qfl_head_is_pool(l))
            qfl_head_pool_backward(l, &s, &e);
        else if (qfl_head_is_scales(l))
            qfl_head_scales_backward(shape, l, p, g, &s, &e);
        else if (qfl_head_is_depthwise(l))
            qfl_head_depthwise_backward(l, p, g, &s, &e);
        else
            qfl_head_conv_backward(l, p, g, &s, &e);
        if (i == 0)
            return loss;
        d = s.x;
    }
}

void qfl_head_gradient_pair(const qfl_head_shape *shape, const float *w, const int8_t *const q[2],
                            float scale, int32_t zero_point, const uint16_t label[2], float weight,
                            float *grad, float *scratch, float *loss)
{
    uint32_t in = shape->layer[0].in_c, k = shape->layer[0].out_c;
    qfl_head_pair p = {{q[0], q[1]}, scale, zero_point};
    qfl_head_pair_forward(w, w + in * k, &p, scratch, in, k);
    for (uint32_t i = 0; i < 2; i++)
        *loss += cross_entropy(scratch + i * k, k, label[i], weight);
    qfl_head_pair_gradient(grad, grad + in * k, &p, scratch, in, k);
}

int qfl_head_held_back(uint32_t i, uint32_t holdout) { return holdout == 0 || i % holdout == holdout - 1; }

QFL_COLD void qfl_head_evaluate(const qfl_head_shape *shape, const float *w, const qfl_head_data *data,
                                uint32_t holdout, uint32_t first, uint32_t limit, qfl_head_score *score,
                                float *scratch)
{
    uint32_t k = qfl_head_classes(shape), f = qfl_head_features(shape);
    for (uint32_t i = first; i < data->count && i - first < limit; i++) {
        if (!qfl_head_held_back(i, holdout))
            continue;
        qfl_head_source s = {data->q + (data->one_row ? 0 : (uint64_t)i * f), 0, data->scale,
                             data->zero_point, 0};
        float *z = forward(shape, w, &s, scratch);
        uint32_t best = 0;
        for (uint32_t j = 1; j < k; j++)
            if (z[j] > z[best])
                best = j;
        score->count++;
        score->correct += best == data->labels[i];
        score->loss += cross_entropy(z, k, data->labels[i], 0.0f);
    }
}

QFL_COLD void qfl_head_score_finish(qfl_head_score *score)
{
    if (score->count != 0)
        score->loss = score->loss / (float)score->count;
}
