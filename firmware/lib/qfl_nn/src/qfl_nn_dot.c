/*
 * int8 dot products, the inside of convolution and dense layers. With DSP instructions four products take two SMLAD
 * after SXTB16 has spread the bytes: 20 instructions for 16 products in the 2x2 tile.
 */
#include "qfl_nn_internal.h"

#if QFL_NN_DSP
static inline int8x4_t load4(const int8_t *p)
{
    int8x4_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline int16x2_t low2(int8x4_t v) { return __sxtb16(v); }
static inline int16x2_t high2(int8x4_t v) { return __sxtb16((int8x4_t)((uint32_t)v >> 8 | (uint32_t)v << 24)); }
#endif

void qfl_nn_dot2x2(const int8_t *x0, const int8_t *x1, const int8_t *w0, const int8_t *w1, uint32_t k, int32_t *acc)
{
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
#if QFL_NN_DSP
    for (; k >= 4; k -= 4) {
        int8x4_t p = load4(x0), q = load4(x1), r = load4(w0), s = load4(w1);
        int16x2_t pl = low2(p), ph = high2(p), rl = low2(r), rh = high2(r);
        a = __smlad(pl, rl, a);
        a = __smlad(ph, rh, a);
        int16x2_t sl = low2(s), sh = high2(s);
        b = __smlad(pl, sl, b);
        b = __smlad(ph, sh, b);
        int16x2_t ql = low2(q), qh = high2(q);
        c = __smlad(ql, rl, c);
        c = __smlad(qh, rh, c);
        d = __smlad(ql, sl, d);
        d = __smlad(qh, sh, d);
        x0 += 4;
        x1 += 4;
        w0 += 4;
        w1 += 4;
    }
#endif
    for (; k != 0; k--) {
        int32_t p = *x0++, q = *x1++, r = *w0++, s = *w1++;
        a += p * r;
        b += p * s;
        c += q * r;
        d += q * s;
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

void qfl_nn_dot1x4(const int8_t *x, const int8_t *w, uint32_t stride, uint32_t k, int32_t *acc)
{
    const int8_t *w1 = w + stride, *w2 = w1 + stride, *w3 = w2 + stride;
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
#if QFL_NN_DSP
    for (; k >= 4; k -= 4) {
        int8x4_t p = load4(x), r;
        int16x2_t pl = low2(p), ph = high2(p);
        r = load4(w);
        a = __smlad(pl, low2(r), a);
        a = __smlad(ph, high2(r), a);
        r = load4(w1);
        b = __smlad(pl, low2(r), b);
        b = __smlad(ph, high2(r), b);
        r = load4(w2);
        c = __smlad(pl, low2(r), c);
        c = __smlad(ph, high2(r), c);
        r = load4(w3);
        d = __smlad(pl, low2(r), d);
        d = __smlad(ph, high2(r), d);
        x += 4;
        w += 4;
        w1 += 4;
        w2 += 4;
        w3 += 4;
    }
#endif
    for (; k != 0; k--) {
        int32_t p = *x++;
        a += p * *w++;
        b += p * *w1++;
        c += p * *w2++;
        d += p * *w3++;
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

int32_t qfl_nn_dot(const int8_t *x, const int8_t *w, uint32_t k, int32_t acc)
{
#if QFL_NN_DSP
    for (; k >= 4; k -= 4) {
        int8x4_t p = load4(x), r = load4(w);
        acc = __smlad(low2(p), low2(r), acc);
        acc = __smlad(high2(p), high2(r), acc);
        x += 4;
        w += 4;
    }
#endif
    for (; k != 0; k--)
        acc += (int32_t)*x++ * *w++;
    return acc;
}
