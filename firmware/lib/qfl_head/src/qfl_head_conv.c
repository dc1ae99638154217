/* Convolutions as dense layers over patches, and depthwise convolutions. Outputs row by row, taps row by row, channels ascending. */
#include <string.h>

#include "qfl_head_dense.h"
#include "qfl_head_layers.h"

const float *qfl_head_values(const qfl_head_source *s, uint32_t at, uint32_t n, float *room)
{
    if (s->q == 0)
        return s->x + at;
    const int8_t *q = s->q + at;
    float scale = s->scale;
    int32_t zero = s->zero_point;
    for (uint32_t i = 0; i < n; i++)
        room[i] = (float)(q[i] - zero) * scale;
    return room;
}

uint32_t qfl_head_room(const qfl_head_layer *l, int first)
{
    uint32_t patch = first && (l->kind == QFL_HEAD_DEPTHWISE || l->mode == QFL_HEAD_SCALES) ? l->in_c : 0;
    if (l->kind == QFL_HEAD_AVERAGE || l->kind == QFL_HEAD_MAXIMUM)
        return 0;
    if (l->kind == QFL_HEAD_CONV && !qfl_head_pointwise(l))
        patch = qfl_head_taps(l) * l->in_c;
    return patch + (l->mode == QFL_HEAD_SCALES ? l->out_c : 0);
}

int qfl_head_tap(const qfl_head_layer *l, uint32_t y, uint32_t x, uint32_t i, uint32_t j, uint32_t *at)
{
    uint32_t row = y * l->stride_h + i - l->pad_t,
             column = x * l->stride_w + j - l->pad_l; /* wraps above 2^31 when negative */
    if (row >= l->in_h || column >= l->in_w)
        return 0;
    *at = (row * l->in_w + column) * l->in_c;
    return 1;
}

void qfl_head_settle(const qfl_head_layer *l, const qfl_head_source *s, const qfl_head_error *e)
{
    uint32_t n = qfl_head_in_size(l);
    for (uint32_t i = 0; i < n; i++)
        s->x[i] = qfl_head_passed(s->x[i], e->apart[i], e->below);
}

const float *qfl_head_patch(const qfl_head_layer *l, const qfl_head_source *s, uint32_t y, uint32_t x)
{
    uint32_t c = l->in_c, at;
    if (qfl_head_pointwise(l))
        return qfl_head_values(s, (y * l->in_w + x) * c, c, s->room);
    float *p = s->room;
    for (uint32_t i = 0; i < l->k_h; i++)
        for (uint32_t j = 0; j < l->k_w; j++, p += c) {
            if (!qfl_head_tap(l, y, x, i, j, &at)) {
                memset(p, 0, c * sizeof *p);
                continue;
            }
            const float *v = qfl_head_values(s, at, c, p);
            if (v != p)
                memcpy(p, v, c * sizeof *p);
        }
    return s->room;
}

/* What output (y, x) is a dense layer of. */
static qfl_head_source patch_source(const qfl_head_layer *l, const qfl_head_source *s, uint32_t y, uint32_t x)
{
    qfl_head_source p = *s;
    uint32_t at = (y * l->in_w + x) * l->in_c;
    if (!qfl_head_pointwise(l)) {
        p.q = 0;
        p.x = (float *)(uintptr_t)qfl_head_patch(l, s, y, x);
    } else if (s->q != 0) {
        p.q += at;
    } else {
        p.x += at;
    }
    return p;
}

void qfl_head_conv_forward(const qfl_head_layer *l, qfl_head_part w, const qfl_head_source *s, float *y)
{
    uint32_t in = qfl_head_taps(l) * l->in_c, out = l->out_c;
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, y += out) {
            qfl_head_source p = patch_source(l, s, oy, ox);
            qfl_head_dense_forward(w.kernel, w.bias, &p, y, in, out, l->activation);
        }
}

/* Adds a patch's error, in room, to that of the image. */
static void scatter(const qfl_head_layer *l, const qfl_head_source *s, float *apart, uint32_t y, uint32_t x)
{
    uint32_t c = l->in_c, at;
    const float *p = s->room;
    for (uint32_t i = 0; i < l->k_h; i++)
        for (uint32_t j = 0; j < l->k_w; j++, p += c)
            if (qfl_head_tap(l, y, x, i, j, &at))
                for (uint32_t k = 0; k < c; k++)
                    apart[at + k] += p[k];
}

void qfl_head_conv_backward(const qfl_head_layer *l, qfl_head_part w, qfl_head_part grad,
                            const qfl_head_source *s, const qfl_head_error *e)
{
    uint32_t in = qfl_head_taps(l) * l->in_c, out = l->out_c;
    int pointwise = qfl_head_pointwise(l);
    const float *d = e->d;
    if (!pointwise && e->below >= 0)
        memset(e->apart, 0, qfl_head_in_size(l) * sizeof *e->apart);
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, d += out) {
            qfl_head_source p = patch_source(l, s, oy, ox);
            qfl_head_dense_gradient(grad.kernel, grad.bias, &p, d, in, out);
            if (e->below < 0)
                continue;
            if (pointwise) {
                qfl_head_dense_back(w.kernel, p.x, d, in, out, e->below);
            } else {
                qfl_head_dense_back(w.kernel, s->room, d, in, out, QFL_HEAD_LINEAR);
                scatter(l, s, e->apart, oy, ox);
            }
        }
    if (!pointwise && e->below >= 0)
        qfl_head_settle(l, s, e);
}

void qfl_head_depthwise_forward(const qfl_head_layer *l, qfl_head_part w, const qfl_head_source *s, float *y)
{
    uint32_t c = l->in_c, at;
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, y += c) {
            const float *kernel = w.kernel;
            memcpy(y, w.bias, c * sizeof *y);
            for (uint32_t i = 0; i < l->k_h; i++)
                for (uint32_t j = 0; j < l->k_w; j++, kernel += c) {
                    if (!qfl_head_tap(l, oy, ox, i, j, &at))
                        continue;
                    const float *x = qfl_head_values(s, at, c, s->room);
                    for (uint32_t k = 0; k < c; k++)
                        y[k] += x[k] * kernel[k];
                }
            for (uint32_t k = 0; k < c; k++)
                y[k] = qfl_head_activate(y[k], l->activation);
        }
}

void qfl_head_depthwise_backward(const qfl_head_layer *l, qfl_head_part w, qfl_head_part grad,
                                 const qfl_head_source *s, const qfl_head_error *e)
{
    uint32_t c = l->in_c, at;
    const float *d = e->d;
    if (e->below >= 0)
        memset(e->apart, 0, qfl_head_in_size(l) * sizeof *e->apart);
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++, d += c) {
            const float *kernel = w.kernel;
            float *g = grad.kernel;
            for (uint32_t i = 0; i < l->k_h; i++)
                for (uint32_t j = 0; j < l->k_w; j++, kernel += c, g += c) {
                    if (!qfl_head_tap(l, oy, ox, i, j, &at))
                        continue;
                    const float *x = qfl_head_values(s, at, c, s->room);
                    for (uint32_t k = 0; k < c; k++)
                        g[k] += x[k] * d[k];
                    if (e->below < 0)
                        continue;
                    for (uint32_t k = 0; k < c; k++)
                        e->apart[at + k] += kernel[k] * d[k];
                }
            for (uint32_t k = 0; k < c; k++)
                grad.bias[k] += d[k];
        }
    if (e->below >= 0)
        qfl_head_settle(l, s, e);
}
