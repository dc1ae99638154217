/*
 * Convolutions whose int8 kernel stays in flash: output k is g[k] * (s[k] * sum of x * kernel) + b[k], where s is the kernel's scale
 * and g and b are trained. The sums are not kept from the forward pass: they are formed again where the error is not zero.
 */
#include <string.h>

#include "qfl_head_dense.h"
#include "qfl_head_layers.h"

static const int8_t *kernel_of(const qfl_head_shape *shape, const qfl_head_layer *l)
{
    return (const int8_t *)shape->base + l->kernel;
}

static const float *scales_of(const qfl_head_shape *shape, const qfl_head_layer *l)
{
    return (const float *)(const void *)(shape->base + l->scales);
}

static float dot(const float *x, const int8_t *w, uint32_t n)
{
    float sum = 0.0f;
    QFL_HEAD_UNROLL
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * (float)w[i];
    return sum;
}

/* Unscaled sums [out] of output (y, x) into u; d: errors, where they are 0 a convolution leaves the sum out; NULL: all are due. */
static void sums_of(const qfl_head_shape *shape, const qfl_head_layer *l, const qfl_head_source *s,
                    uint32_t y, uint32_t x, float *u, const float *d)
{
    uint32_t out = l->out_c, n = qfl_head_taps(l) * l->in_c, at;
    const int8_t *w = kernel_of(shape, l);
    if (l->kind == QFL_HEAD_CONV) {
        const float *patch = qfl_head_patch(l, s, y, x);
        for (uint32_t k = 0; k < out; k++, w += n)
            if (d == 0 || d[k] != 0.0f)
                u[k] = dot(patch, w, n);
        return;
    }
    memset(u, 0, out * sizeof *u);
    for (uint32_t i = 0; i < l->k_h; i++)
        for (uint32_t j = 0; j < l->k_w; j++, w += out) {
            if (!qfl_head_tap(l, y, x, i, j, &at))
                continue;
            const float *v = qfl_head_values(s, at, out, s->room);
            for (uint32_t k = 0; k < out; k++)
                u[k] += v[k] * (float)w[k];
        }
}

void qfl_head_scales_forward(const qfl_head_shape *shape, const qfl_head_layer *l, qfl_head_part w,
                             const qfl_head_source *s, float *y)
{
    const float *scales = scales_of(shape, l);
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, y += l->out_c) {
            sums_of(shape, l, s, oy, ox, y, 0);
            for (uint32_t k = 0; k < l->out_c; k++)
                y[k] = qfl_head_activate(y[k] * scales[k] * w.kernel[k] + w.bias[k], l->activation);
        }
}

/* Adds one output's error to that of its inputs: all, or those of its own channel. */
static void spread(const qfl_head_shape *shape, const qfl_head_layer *l, float *apart, uint32_t y, uint32_t x,
                   uint32_t k, float error)
{
    uint32_t at, conv = l->kind == QFL_HEAD_CONV, c = l->in_c;
    const int8_t *w = kernel_of(shape, l) + (conv ? k * qfl_head_taps(l) * c : k);
    for (uint32_t i = 0; i < l->k_h; i++)
        for (uint32_t j = 0; j < l->k_w; j++, w += c) {
            if (!qfl_head_tap(l, y, x, i, j, &at))
                continue;
            if (!conv) {
                apart[at + k] += error * (float)w[0];
                continue;
            }
            float *a = apart + at;
            for (uint32_t f = 0; f < c; f++)
                a[f] += error * (float)w[f];
        }
}

void qfl_head_scales_backward(const qfl_head_shape *shape, const qfl_head_layer *l, qfl_head_part w,
                              qfl_head_part grad, const qfl_head_source *s, const qfl_head_error *e)
{
    const float *scales = scales_of(shape, l), *d = e->d;
    float *u = s->room + qfl_head_room(l, s->q != 0) - l->out_c; /* behind the patch */
    if (e->below >= 0)
        memset(e->apart, 0, qfl_head_in_size(l) * sizeof *e->apart);
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, d += l->out_c) {
            sums_of(shape, l, s, oy, ox, u, d);
            for (uint32_t k = 0; k < l->out_c; k++) {
                if (d[k] == 0.0f)
                    continue;
                grad.kernel[k] += d[k] * (u[k] * scales[k]);
                grad.bias[k] += d[k];
                if (e->below >= 0)
                    spread(shape, l, e->apart, oy, ox, k, d[k] * w.kernel[k] * scales[k]);
            }
        }
    if (e->below >= 0)
        qfl_head_settle(l, s, e);
}
