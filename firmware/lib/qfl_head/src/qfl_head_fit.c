/* Minibatch SGD: order of samples, gradient accumulation, the step. */
#include <stddef.h>
#include <string.h>

#include "qfl_head.h"
#include "qfl_head_dense.h"
#include "qfl_head_layers.h"
#include "qfl_head_pair.h"

static uint32_t mix(uint32_t h) /* the finaliser of MurmurHash3 */
{
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ h >> 16;
}

static void order_begin(qfl_head_epoch *o, uint32_t seed, uint32_t epoch, uint32_t count)
{
    uint32_t mask = 1, bits = 1, key = mix(seed ^ mix(epoch + 0x9E3779B9u));
    while (mask < count - 1) {
        mask = mask << 1 | 1u;
        bits++;
    }
    o->count = count;
    o->mask = mask;
    o->shift = (bits + 1) / 2;
    for (int round = 0; round < 3; round++, key = mix(key + 0x9E3779B9u)) {
        o->add[round] = key;
        o->multiply[round] = mix(key) | 1u;
    }
}

static uint32_t order_at(const qfl_head_epoch *o, uint32_t n)
{
    do /* each line is a bijection of [0, mask]; walking the cycle keeps it one of [0, count) */
        for (int round = 0; round < 3; round++) {
            n = ((n + o->add[round]) * o->multiply[round]) &
                o->mask; /* lower bits of a product know nothing of higher ones */
            n ^= n >> o->shift;
        }
    while (n >= o->count);
    return n;
}

uint32_t qfl_head_order(uint32_t seed, uint32_t epoch, uint32_t count, uint32_t n)
{
    qfl_head_epoch o;
    order_begin(&o, seed, epoch, count);
    return order_at(&o, n);
}

static int valid(float x, float low, float high) { return x >= low && x <= high; } /* false for NaN */

QFL_COLD qfl_status qfl_head_fit_begin(qfl_head_fit *fit, const qfl_head_shape *shape,
                                       const qfl_head_config *config, const qfl_head_data *data, float *w,
                                       const float *w_global, float *v, float *scratch)
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
    fit->pairs =
        !data->one_row && qfl_head_pairs(shape) && data->zero_point >= -128 && data->zero_point <= 127;
    order_begin(&fit->order, config->seed, 0, fit->train_count);
    memset(v, 0, params * sizeof *v);
    return QFL_OK;
}

/* Sample index of the n-th sample that is not held back. */
static uint32_t not_held_back(uint32_t n, uint32_t holdout)
{
    return holdout == 0 ? n : n + n / (holdout - 1);
}

static inline void plain_step(float *w, float *v, float lr, float mu)
{
    float t = *v;
    *w -= lr * t;
    *v = mu * t;
}

/* Weight decay and FedProx go into the gradient first; most runs have neither. */
static void regularise(const qfl_head_fit *fit)
{
    float *v = fit->v, decay = fit->config.weight_decay, prox = fit->config.prox;
    const float *w = fit->w, *w0 = fit->w_global;
    for (uint32_t i = 0; i < fit->params; i++) {
        float t = v[i] + decay * w[i];
        v[i] = prox != 0.0f ? t + prox * (w[i] - w0[i]) : t;
    }
}

/* Four steps of plain_step, w and v moving behind them. GCC would copy registers between loads into the same ones. */
#if QFL_HEAD_ROWS
#define FOUR(op)       op(0, 4, 8) op(1, 5, 9) op(2, 6, 10) op(3, 7, 11)
#define BY_LR(v, w, t) "vmul.f32 s" #t ", s" #v ", %[lr]\n\t"
#define LESS(v, w, t)  "vsub.f32 s" #w ", s" #w ", s" #t "\n\t"
#define BY_MU(v, w, t) "vmul.f32 s" #v ", s" #v ", %[mu]\n\t"
QFL_HEAD_INLINE void four_steps(float **w, float **v, float lr, float mu)
{
    float *at_w = *w, *at_v = *v;
    __asm volatile("vldmia %[v], {s0-s3}\n\tvldmia %[w], {s4-s7}\n\t" FOUR(BY_LR)
                       FOUR(LESS) "vstmia %[w]!, {s4-s7}\n\t" FOUR(BY_MU) "vstmia %[v]!, {s0-s3}"
                   : [w] "+r"(at_w), [v] "+r"(at_v)
                   : [lr] "t"(lr), [mu] "t"(mu)
                   : "memory", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11");
    *w = at_w;
    *v = at_v;
}
#else
QFL_HEAD_INLINE void four_steps(float **w, float **v, float lr, float mu)
{
    QFL_HEAD_WHOLLY
    for (int i = 0; i < 4; i++)
        plain_step((*w)++, (*v)++, lr, mu);
}
#endif

static QFL_HEAD_APART void sgd_step(const qfl_head_fit *fit)
{
    float *w = fit->w, *v = fit->v, *end = v + (fit->params & ~3u), lr = fit->config.lr,
          mu = fit->config.momentum;
    if (fit->config.prox != 0.0f || fit->config.weight_decay != 0.0f)
        regularise(fit);
    while (v != end)
        four_steps(&w, &v, lr, mu);
    for (end += fit->params & 3u; v != end; v++, w++)
        plain_step(w, v, lr, mu);
}

/* The n-th sample of the rest of the epoch. */
static uint32_t next(const qfl_head_fit *fit, uint32_t n)
{
    return not_held_back(order_at(&fit->order, fit->position + n), fit->config.holdout);
}

uint32_t qfl_head_fit_next(const qfl_head_fit *fit) { return next(fit, 0); }

int qfl_head_fit_step(qfl_head_fit *fit)
{
    const qfl_head_config *c = &fit->config;
    if (fit->epoch >= c->epochs)
        return 0;
    uint32_t left = fit->train_count - (fit->position - fit->in_batch);
    uint32_t size = left < c->batch ? left : c->batch; /* of the batch under way */
    uint32_t n = QFL_HEAD_PAIRS && fit->pairs && fit->in_batch + 1 < size ? 2 : 1, i = next(fit, 0);
    const qfl_head_data *d = &fit->data;
    float weight = 1.0f / (float)size;
    size_t features = d->one_row ? 0 : qfl_head_in_size(&fit->shape.layer[0]);
    if (n == 2) {
        uint32_t j = next(fit, 1);
        const int8_t *q[2] = {d->q + i * features, d->q + j * features};
        const uint16_t label[2] = {d->labels[i], d->labels[j]};
        qfl_head_gradient_pair(&fit->shape, fit->w, q, d->scale, d->zero_point, label, weight, fit->v,
                               fit->scratch, &fit->loss_sum);
    } else {
        fit->loss_sum += qfl_head_gradient(&fit->shape, fit->w, d->q + i * features, d->scale, d->zero_point,
                                           d->labels[i], weight, fit->v, fit->scratch);
    }
    fit->position += n;
    fit->in_batch += n;
    if (fit->in_batch == size) {
        sgd_step(fit);
        fit->in_batch = 0;
    }
    if (fit->position == fit->train_count) {
        fit->loss = fit->loss_sum / (float)fit->train_count;
        fit->loss_sum = 0.0f;
        fit->position = 0;
        fit->epoch++;
        order_begin(&fit->order, c->seed, fit->epoch, fit->train_count);
    }
    return fit->epoch < c->epochs;
}
