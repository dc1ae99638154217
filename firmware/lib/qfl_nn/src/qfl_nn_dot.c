/* int8 dot products of the portable convolution and of dense layers. */
#include "qfl_nn_dsp.h"

QFL_COLD int32_t qfl_nn_requantise(int32_t x, int32_t multiplier, int32_t shift)
{
    return requantise(x, multiplier, shift);
}

/* Off the fast path: shifts to the left, and accumulators that may not be doubled. */
QFL_COLD int32_t qfl_nn_requantise_channel(int32_t acc, const channel_row *row)
{
    return qfl_nn_requantise(acc, row->multiplier, row->shift < -31 ? row->shift + WIDE : row->shift);
}

void qfl_nn_dot2x2(const int8_t *x0, const int8_t *x1, const int8_t *w0, const int8_t *w1, uint32_t k,
                   int32_t *acc)
{
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
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

int32_t qfl_nn_dot(const int8_t *x, const int8_t *w, uint32_t k, int32_t acc)
{
#if QFL_NN_DSP
    for (; k >= 4; k -= 4, x += 4, w += 4) {
        uint32_t u = load4(x), v = load4(w);
        acc = __smlad(odd2(u), odd2(v), __smlad(even2(u), even2(v), acc));
    }
#endif
    for (; k != 0; k--)
        acc += (int32_t)*x++ * *w++;
    return acc;
}
