/*
 * The three inner loops of training. Outputs are taken up to eight at a time so that sums stay in registers; each output's sum
 * runs over the inputs in ascending order whatever the block, so blocking does not change a bit.
 * Inputs are floats or int8 features, which are dequantised on the way; those that are 0 are skipped.
 * A head of one layer, with its few classes, runs here only for a sample that is left over (qfl_head_pair.c) and in evaluation.
 */
#include "qfl_head_dense.h"

/* Size of the next block of n outputs that are left; every size is code in flash. */
static uint32_t block_of(uint32_t n) { return n >= 8 ? 8 : n >= 4 ? 4 : 1; }

/* Input i as a float; 0: it is zero. n and quantised are constants where these are inlined. */
QFL_HEAD_INLINE int input(const int8_t *q, const float *x, uint32_t f, const int quantised, float scale,
                          int32_t zero, float *v)
{
    if (quantised) {
        int32_t t = q[f] - zero;
        *v = (float)t * scale;
        return t != 0;
    }
    *v = x[f];
    return *v != 0.0f;
}

/* y += x w for n columns of w. */
QFL_HEAD_INLINE void forward(const float *w, const qfl_head_source *s, float *y, uint32_t in, uint32_t stride,
                             const uint32_t n, const int quantised)
{
    float a[8], scale = s->scale, v;
    const int8_t *q = quantised ? s->q : 0;
    const float *x = quantised ? 0 : s->x;
    int32_t zero = s->zero_point;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        a[i] = y[i];
    for (uint32_t f = 0; f < in; f++, w += stride) {
        if (!input(q, x, f, quantised, scale, zero, &v))
            continue;
        QFL_HEAD_WHOLLY
        for (uint32_t i = 0; i < n; i++)
            a[i] += v * w[i];
    }
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i];
}

/* n columns of the gradient; their errors stay in registers. Every element is its own sum. */
QFL_HEAD_INLINE void gradient(float *g, const qfl_head_source *s, const float *d, uint32_t in,
                              uint32_t stride, const uint32_t n, const int quantised)
{
    float e[8], scale = s->scale, v;
    const int8_t *q = quantised ? s->q : 0;
    const float *x = quantised ? 0 : s->x;
    int32_t zero = s->zero_point;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        e[i] = d[i];
    for (uint32_t f = 0; f < in; f++, g += stride) {
        if (!input(q, x, f, quantised, scale, zero, &v))
            continue;
        QFL_HEAD_WHOLLY
        for (uint32_t i = 0; i < n; i++)
            g[i] += v * e[i];
    }
}

#define BLOCK(n)                                                                                             \
    case n: DO(n); break;
#define BLOCKS BLOCK(1) BLOCK(4) BLOCK(8)

/* One block; the choice of its size is outside of the loops over inputs. */
static void forward_block(const float *w, const qfl_head_source *s, float *y, uint32_t in, uint32_t stride,
                          uint32_t n)
{
    if (s->q != 0) {
        switch (n) {
#define DO(size) forward(w, s, y, in, stride, size, 1)
            BLOCKS
#undef DO
        }
        return;
    }
    switch (n) {
#define DO(size) forward(w, s, y, in, stride, size, 0)
        BLOCKS
#undef DO
    }
}

static void gradient_block(float *g, const qfl_head_source *s, const float *d, uint32_t in, uint32_t stride,
                           uint32_t n)
{
    if (s->q != 0) {
        switch (n) {
#define DO(size) gradient(g, s, d, in, stride, size, 1)
            BLOCKS
#undef DO
        }
        return;
    }
    switch (n) {
#define DO(size) gradient(g, s, d, in, stride, size, 0)
        BLOCKS
#undef DO
    }
}

void qfl_head_dense_forward(const float *w, const float *b, const qfl_head_source *s, float *y, uint32_t in,
                            uint32_t out, int activation)
{
    for (uint32_t i = 0; i < out; i++)
        y[i] = b[i];
    for (uint32_t k = 0, n; k < out; k += n) {
        n = block_of(out - k);
        forward_block(w + k, s, y + k, in, out, n);
    }
    if (activation != QFL_HEAD_LINEAR)
        for (uint32_t i = 0; i < out; i++)
            y[i] = qfl_head_activate(y[i], activation);
}

void qfl_head_dense_gradient(float *grad_w, float *grad_b, const qfl_head_source *s, const float *d,
                             uint32_t in, uint32_t out)
{
    for (uint32_t k = 0; k < out; k++)
        grad_b[k] += d[k];
    for (uint32_t k = 0, n; k < out; k += n) {
        n = block_of(out - k);
        gradient_block(grad_w + k, s, d + k, in, out, n);
    }
}

void qfl_head_dense_back(const float *w, float *x, const float *d, uint32_t in, uint32_t out, int activation)
{
    for (uint32_t f = 0; f < in; f++, w += out) {
        float s = 0.0f;
        if (qfl_head_passed(x[f], 1.0f, activation) != 0.0f) {
            QFL_HEAD_UNROLL
            for (uint32_t k = 0; k < out; k++)
                s += w[k] * d[k];
        }
        x[f] = s;
    }
}
