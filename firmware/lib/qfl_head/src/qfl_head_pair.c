/*
 * One dense layer trained on two samples of a minibatch at once: weights and gradients are loaded once for both. Every sum runs in the
 * order it has sample by sample (the gradient takes the first sample's part, then the second's), so the bytes are the same.
 *
 * Outputs are taken in blocks of two to five, as equal as possible, with their sums in registers, features two or, where outputs are so
 * few that making a float of a feature is most of the work, four at a time. Looking for zeros one by one would not pay there. Two
 * classes, whose rows lie together and which no other layer's blocks are of, have functions of their own and all rows of a word at once.
 */
#include <stddef.h>

#include "qfl_head_pair.h"
#include "qfl_head_dense.h"

enum { MOST = 5, FEW = 3, TOGETHER = 8 };

/* Features that are read at a time as a word: two or four int8 as they lie. */
QFL_HEAD_INLINE int at_a_time(uint32_t n) { return QFL_HEAD_PAIRS > 1 && n <= FEW ? 4 : 2; }

QFL_HEAD_INLINE uint32_t word(const int8_t *q, const int count)
{
    const uint8_t *b = (const uint8_t *)q;
    uint32_t low = b[0] | (uint32_t)b[1] << 8;
    return count == 2 ? low : low | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Feature j of a word less the zero point. GCC does not find the instruction that turns, extends and adds. */
QFL_HEAD_INLINE int32_t lane(uint32_t word, const int j, int32_t zero)
{
#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
    int32_t t = ((int32_t)word >> 24) - zero;
    if (j == 0)
        __asm("sxtab %0, %1, %2" : "=r"(t) : "r"(-zero), "r"(word));
    else if (j == 1)
        __asm("sxtab %0, %1, %2, ror #8" : "=r"(t) : "r"(-zero), "r"(word));
    else if (j == 2)
        __asm("sxtab %0, %1, %2, ror #16" : "=r"(t) : "r"(-zero), "r"(word));
    return t;
#else
    return (int8_t)(word >> 8 * j) - zero;
#endif
}

/* Two numbers as floats; cores with an FPU take both there at once. j: of four places by turns, so that none waits for another. */
#if QFL_HEAD_ROWS
#define FLOATS(turn, first, second)                                                                          \
    if (j == turn) {                                                                                         \
        register float a __asm(first), b __asm(second);                                                      \
        __asm("vmov %0, %1, %2, %3\n\tvcvt.f32.s32 %0, %0\n\tvcvt.f32.s32 %1, %1"                            \
              : "=t"(a), "=t"(b)                                                                             \
              : "r"(s), "r"(t));                                                                             \
        *u = a, *v = b;                                                                                      \
    }
QFL_HEAD_INLINE void floats(int32_t s, int32_t t, const int j, float *u, float *v){
    FLOATS(0, "s14", "s15") FLOATS(1, "s12", "s13") FLOATS(2, "s10", "s11") FLOATS(3, "s8", "s9")}
#else
QFL_HEAD_INLINE void floats(int32_t s, int32_t t, const int j, float *u, float *v)
{
    (void)j;
    *u = (float)s;
    *v = (float)t;
}
#endif

/* n columns of y += x w for both samples; y and z are their rows. */
QFL_HEAD_INLINE void forward(const float *w, const qfl_head_pair *p, float *y, float *z, uint32_t in,
                             uint32_t stride, const uint32_t n)
{
    float a[MOST], b[MOST], r[TOGETHER], scale = p->scale, u, v;
    const int step = at_a_time(n);
    const int8_t *q = p->q[0], *end = q + in;
    ptrdiff_t other = p->q[1] - q;
    int32_t zero = p->zero_point;
    uint32_t zeros = (uint8_t)zero * (step == 2 ? 0x0101u : 0x01010101u);
    const uint32_t rows = n == 2 ? (uint32_t)step : 1;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        a[i] = y[i], b[i] = z[i];
    for (; q != end; q += step, w += rows == 1 ? 0 : (uint32_t)step * stride) {
        uint32_t c = word(q, step), d = word(q + other, step);
        if (n <= FEW && c == zeros && d == zeros) {
            w += rows == 1 ? (uint32_t)step * stride : 0;
            continue;
        }
        QFL_HEAD_WHOLLY
        for (int j = 0; j < step; j++) {
            int32_t s = lane(c, j, zero), t = lane(d, j, zero);
            if (n > FEW && (s | t) == 0) {
                w += stride;
                continue;
            }
            uint32_t k = n * ((uint32_t)j % rows);
            if (k == 0)
                qfl_head_load(r, &w, n * rows, rows != 1);
            if (rows == 1)
                w += stride - n;
            floats(s, t, j, &u, &v);
            u *= scale, v *= scale;
            QFL_HEAD_WHOLLY
            for (uint32_t i = 0; i < n; i++) {
                a[i] += u * r[k + i];
                b[i] += v * r[k + i];
            }
        }
    }
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i], z[i] = b[i];
}

/* n columns of the gradient; y and z are the errors of the two samples. */
QFL_HEAD_INLINE void gradient(float *g, const qfl_head_pair *p, const float *y, const float *z, uint32_t in,
                              uint32_t stride, const uint32_t n)
{
    float a[MOST], b[MOST], r[TOGETHER], scale = p->scale, u, v;
    const int step = at_a_time(n);
    const int8_t *q = p->q[0], *end = q + in;
    ptrdiff_t other = p->q[1] - q;
    int32_t zero = p->zero_point;
    uint32_t zeros = (uint8_t)zero * (step == 2 ? 0x0101u : 0x01010101u);
    const uint32_t rows = n == 2 ? (uint32_t)step : 1;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        a[i] = y[i], b[i] = z[i];
    for (; q != end; q += step) {
        uint32_t c = word(q, step), d = word(q + other, step);
        if (n <= FEW && c == zeros && d == zeros) {
            g += (uint32_t)step * stride;
            continue;
        }
        QFL_HEAD_WHOLLY
        for (int j = 0; j < step; j++) {
            int32_t s = lane(c, j, zero), t = lane(d, j, zero);
            if (n > FEW && (s | t) == 0) {
                g += stride;
                continue;
            }
            uint32_t k = n * ((uint32_t)j % rows);
            if (k == 0) {
                const float *from = g;
                qfl_head_load(r, &from, n * rows, 1);
            }
            floats(s, t, j, &u, &v);
            u *= scale, v *= scale;
            QFL_HEAD_WHOLLY
            for (uint32_t i = 0; i < n; i++)
                r[k + i] = (r[k + i] + u * a[i]) + v * b[i];
            if (k + n == n * rows)
                qfl_head_store(r, &g, n * rows);
            if (rows == 1)
                g += stride - n;
        }
    }
}

static QFL_HEAD_APART void forward_two(const float *w, const float *b, const qfl_head_pair *p, float *y,
                                       uint32_t in, uint32_t out)
{
    (void)out;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < 2; i++)
        y[i] = y[2 + i] = b[i];
    forward(w, p, y, y + 2, in, 2, 2);
}

static QFL_HEAD_APART void gradient_two(float *g, float *b, const qfl_head_pair *p, const float *d,
                                        uint32_t in, uint32_t out)
{
    (void)out;
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < 2; i++)
        b[i] = (b[i] + d[i]) + d[2 + i];
    gradient(g, p, d, d + 2, in, 2, 2);
}

/* The next of the blocks that `left` outputs make: two only of two; a single output, which only K = 1 has, is a block of its own. */
static uint32_t block_of(uint32_t left) { return left / ((left + MOST - 1) / MOST); }

#if QFL_HEAD_PAIRS > 1
#define BLOCKS BLOCK(3) BLOCK(4) BLOCK(5)
#else
#define BLOCKS BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5)
#endif

static QFL_HEAD_APART void forward_more(const float *w, const float *b, const qfl_head_pair *p, float *y,
                                        uint32_t in, uint32_t out)
{
    for (uint32_t i = 0; i < out; i++)
        y[i] = y[out + i] = b[i];
    for (uint32_t k = 0, n; k < out; k += n) {
        n = block_of(out - k);
        switch (n) {
#define BLOCK(size)                                                                                          \
    case size: forward(w + k, p, y + k, y + out + k, in, out, size); break;
            BLOCKS
#undef BLOCK
        }
    }
}

static QFL_HEAD_APART void gradient_more(float *g, float *b, const qfl_head_pair *p, const float *d,
                                         uint32_t in, uint32_t out)
{
    for (uint32_t i = 0; i < out; i++)
        b[i] = (b[i] + d[i]) + d[out + i];
    for (uint32_t k = 0, n; k < out; k += n) {
        n = block_of(out - k);
        switch (n) {
#define BLOCK(size)                                                                                          \
    case size: gradient(g + k, p, d + k, d + out + k, in, out, size); break;
            BLOCKS
#undef BLOCK
        }
    }
}

void qfl_head_pair_forward(const float *w, const float *b, const qfl_head_pair *p, float *y, uint32_t in,
                           uint32_t out)
{
    if (QFL_HEAD_PAIRS > 1 && out == 2)
        forward_two(w, b, p, y, in, out);
    else
        forward_more(w, b, p, y, in, out);
}

void qfl_head_pair_gradient(float *grad_w, float *grad_b, const qfl_head_pair *p, const float *d, uint32_t in,
                            uint32_t out)
{
    if (QFL_HEAD_PAIRS > 1 && out == 2)
        gradient_two(grad_w, grad_b, p, d, in, out);
    else
        gradient_more(grad_w, grad_b, p, d, in, out);
}
