/* Minibatch SGD: order of samples, gradient accumulation, the step. */
#include <string.h>

#include "qfl_head.h"
#include "qfl_head_dense.h"
#include "qfl_head_layers.h"

static uint32_t mix(uint32_t h) /* the finaliser of MurmurHash3 */
{
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ h >> 16;
}

uint32_t qfl_head_order(uint32_t seed, uint32_t epoch, uint32_t count, uint32_t n)
{
    uint32_t mask = 1, bits = 1, key = mix(seed ^ mix(epoch + 0x9E3779B9u));
    while (mask < count - 1) {
        mask = mask << 1 | 1u;
        bits++;
    }
    uint32_t shift = (bits + 1) / 2;
    do { /* each line is a bijection of [0, mask]; walking the cycle keeps it one of [0, count) */
        uint32_t k = key;
        for (int round = 0; round < 3; round++) {
            n = (n + k) & mask;
            n = (n * (mix(k) | 1u)) & mask;
            n ^= n >> shift;
            k = mix(k + 0x9E3779B9u);
        }
    } while (n >= count);
    return n;
}

static int valid(float x, float low, float high) { return x >= low && x <= high; } /* false for NaN */

QFL_COLD qfl_status qfl_head_fit_begin(qfl_head_fit *fit, const qfl_head_shape *shape, const qfl_head_config *config,
                              const qfl_head_data *data, float *w, const float *w_global, float *v, float *scratch)
{
    uint32_t params = qfl_head_param_count(shape);
    if (params == 0 || w == 0 || v == 0 || scratch == 0 || (config->prox != 0.0f && w_global == 0))
        return QFL_E_INVAL;
    if (!valid(config->lr, 1e-30f, 1e6f) || !valid(config->momentum, 0.0f, 0.9999f) ||
        !valid(config->weight_decay, 0.0f, 1e6f) || !valid(config->prox, 0.0f, 1e6f) || config->epochs < 1 ||
        config->batch < 1 || config->holdout == 1 || !valid(data->scale, 1e-30f, 1e30f))
        return QFL_E_RANGE;
    for (uint32_t i = 0; i < data->count; i++)
        if (data->labels[i] >= qfl_head_classes(shape))
            return QFL_E_RANGE;
    memset(fit, 0, sizeof *fit);
    fit->shape = *shape;
    fit->config = *config;
    fit->data = *data;
    fit->w = w;
    fit->w_global = w_global;
    fit->v = v;
    fit->scratch = scratch;
    fit->params = params;
    fit->train_count = data->count - (config->holdout != 0 ? data->count / config->holdout : 0);
    if (fit->train_count == 0)
        return QFL_E_STATE;
    memset(v, 0, params * sizeof *v);
    return QFL_OK;
}

/* Sample index of the n-th sample that is not held back. */
static uint32_t not_held_back(uint32_t n, uint32_t holdout) { return holdout == 0 ? n : n + n / (holdout - 1); }

static void sgd_step(qfl_head_fit *fit)
{
    const qfl_head_config *c = &fit->config;
    float *w = fit->w, *v = fit->v, lr = c->lr, mu = c->momentum;
    uint32_t n = fit->params;
    const float *w0 = fit->w_global;
    if (c->prox != 0.0f) {
        QFL_HEAD_UNROLL
        for (uint32_t i = 0; i < n; i++) {
            float t = v[i] + c->weight_decay * w[i] + c->prox * (w[i] - w0[i]);
            w[i] -= lr * t;
            v[i] = mu * t;
        }
    } else if (c->weight_decay != 0.0f) {
        QFL_HEAD_UNROLL
        for (uint32_t i = 0; i < n; i++) {
            float t = v[i] + c->weight_decay * w[i];
            w[i] -= lr * t;
            v[i] = mu * t;
        }
    } else {
        QFL_HEAD_UNROLL
        for (uint32_t i = 0; i < n; i++) {
            float t = v[i];
            w[i] -= lr * t;
            v[i] = mu * t;
        }
    }
}

uint32_t qfl_head_fit_next(const qfl_head_fit *fit)
{
    const qfl_head_config *c = &fit->config;
    return not_held_back(qfl_head_order(c->seed, fit->epoch, fit->train_count, fit->position), c->holdout);
}

int qfl_head_fit_step(qfl_head_fit *fit)
{
    const qfl_head_config *c = &fit->config;
    if (fit->epoch >= c->epochs)
        return 0;
    uint32_t left = fit->train_count - (fit->position - fit->in_batch);
    uint32_t size = left < c->batch ? left : c->batch; /* of the batch under way */
    uint32_t i = qfl_head_fit_next(fit);
    const qfl_head_data *d = &fit->data;
    const int8_t *q = d->one_row ? d->q : d->q + (uint64_t)i * qfl_head_features(&fit->shape);
    fit->loss_sum += qfl_head_gradient(&fit->shape, fit->w, q, d->scale, d->zero_point, d->labels[i], 1.0f / (float)size, fit->v,
                                       fit->scratch);
    fit->position++;
    if (++fit->in_batch == size) {
        sgd_step(fit);
        fit->in_batch = 0;
    }
    if (fit->position == fit->train_count) {
        fit->loss = fit->loss_sum / (float)fit->train_count;
        fit->loss_sum = 0.0f;
        fit->position = 0;
        fit->epoch++;
    }
    return fit->epoch < c->epochs;
}
