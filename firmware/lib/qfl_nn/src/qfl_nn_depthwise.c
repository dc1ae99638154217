/*
 * DEPTHWISE_CONV_2D: each input channel with its own taps. For every output pixel a table of pointers to the input under
 * each tap is made, taps in the padding pointing to a row of zero-points (which the folded bias cancels), so that the
 * channels need no special cases. Four channels at a time where the multiplier is 1, with Helium sixteen.
 */
#include "qfl_nn_dsp.h"
#include "qfl_nn_mve.h"

/* Fills taps [k_h * k_w] for the output pixel at (oy, ox). */
static void find_taps(const op_record *op, const int8_t *src, const int8_t *padding, uint32_t oy, uint32_t ox,
                      const int8_t **taps)
{
    int32_t y = (int32_t)(oy * op->stride_h) - op->pad_t, x0 = (int32_t)(ox * op->stride_w) - op->pad_l;
    for (uint32_t i = 0; i < op->k_h; i++, y += op->dil_h) {
        const int8_t *line = src + y * op->in_w * op->in_c;
        int32_t x = x0;
        int inside = y >= 0 && y < op->in_h;
        for (uint32_t j = 0; j < op->k_w; j++, x += op->dil_w)
            *taps++ = inside && x >= 0 && x < op->in_w ? line + x * op->in_c : padding;
    }
}

/* Whether no tap of the output pixel lies in the padding. */
static inline int all_inside(const op_record *op, uint32_t oy, uint32_t ox)
{
    int32_t y = (int32_t)(oy * op->stride_h) - op->pad_t, x = (int32_t)(ox * op->stride_w) - op->pad_l;
    return y >= 0 && x >= 0 && y + (op->k_h - 1) * op->dil_h < op->in_h &&
           x + (op->k_w - 1) * op->dil_w < op->in_w;
}

static int32_t one_channel(const int8_t *const *taps, uint32_t n, uint32_t in, const int8_t *w,
                           uint32_t stride, int32_t acc)
{
    for (uint32_t t = 0; t < n; t++, w += stride)
        acc += (int32_t)taps[t][in] * *w;
    return acc;
}

/* Channels c..c+3; w points to their weights of tap 0. */
static inline void four_channels(const int8_t *const *taps, uint32_t n, uint32_t c, const int8_t *w,
                                 uint32_t stride, int32_t *acc)
{
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
#if QFL_NN_DSP
    for (const int8_t *const *end = taps + n; taps != end; taps++, w += stride) {
        uint32_t u = load4(*taps + c), v = load4(w);
        int32_t u0 = even2(u), v0 = even2(v), u1 = odd2(u), v1 = odd2(v);
        a0 = __smlabb(u0, v0, a0);
        a1 = __smlabb(u1, v1, a1);
        a2 = __smlatt(u0, v0, a2);
        a3 = __smlatt(u1, v1, a3);
    }
#else
    for (uint32_t t = 0; t < n; t++, w += stride) {
        const int8_t *p = taps[t] + c;
        a0 += (int32_t)p[0] * w[0];
        a1 += (int32_t)p[1] * w[1];
        a2 += (int32_t)p[2] * w[2];
        a3 += (int32_t)p[3] * w[3];
    }
#endif
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

void qfl_nn_depthwise(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *rows = op_table(a);
    const int8_t *w = op_weights(a), *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t n = (uint32_t)op->k_h * op->k_w, channels = op->out_c;
    const int8_t **taps = (const int8_t **)(void *)(a->arena + op->scratch);
    finisher f = finisher_of(op);
    int8_t *padding = (int8_t *)(taps + n);
    memset(padding, op->src_zero, op->in_c);
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        int inside = 0;
        for (uint32_t ox = 0; ox < op->out_w; ox++, dst += channels) {
            uint32_t c = 0;
            int before = inside;
            inside = all_inside(op, oy, ox);
            if (before && inside)
                for (uint32_t t = 0; t < n; t++)
                    taps[t] += op->stride_w * op->in_c;
            else
                find_taps(op, src, padding, oy, ox, taps);
#if QFL_NN_MVE
            if (op->multiplier == 1) {
                qfl_nn_mve_depthwise(a, taps, n, dst);
                continue;
            }
#endif
            if (op->multiplier == 1)
                for (const channel_row *row = rows; c + 4 <= channels; c += 4, row += 4) {
                    int32_t acc[4] = {row[0].bias, row[1].bias, row[2].bias, row[3].bias};
                    four_channels(taps, n, c, w + c, channels, acc);
                    dst[c] = finish(acc[0], row, f);
                    dst[c + 1] = finish(acc[1], row + 1, f);
                    dst[c + 2] = finish(acc[2], row + 2, f);
                    dst[c + 3] = finish(acc[3], row + 3, f);
                }
            for (uint32_t in = c / op->multiplier, k = c % op->multiplier; c < channels; c++) {
                dst[c] = finish(one_channel(taps, n, in, w + c, channels, rows[c].bias), &rows[c], f);
                if (++k == op->multiplier)
                    k = 0, in++;
            }
        }
    }
}
