/*
 * TRANSPOSE_CONV: every output pixel gathers the inputs whose windows reach it, so no accumulators are kept. How many taps there are
 * differs between pixels: the input zero-point is subtracted from each input, the table's bias is the model's own.
 */
#include "qfl_nn_internal.h"

/* Sum over the input channels of one tap. */
static int32_t tap(const int8_t *x, const int8_t *w, uint32_t n, int32_t zero)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (x[i] - zero) * w[i];
    return sum;
}

/* Whether output position o is reached by tap k of an input position, and which. */
static int reached(uint32_t o, uint32_t pad, uint32_t k, uint32_t stride, uint32_t inputs, uint32_t *in)
{
    uint32_t at = o + pad;
    if (at < k || (at - k) % stride != 0)
        return 0;
    *in = (at - k) / stride;
    return *in < inputs;
}

void qfl_nn_transpose_conv(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *rows = op_table(a);
    const int8_t *src = op_src(a), *weights = op_weights(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c, filter = (uint32_t)op->k_h * op->k_w * c, iy, ix;
    for (uint32_t oy = 0; oy < op->out_h; oy++)
        for (uint32_t ox = 0; ox < op->out_w; ox++)
            for (uint32_t k = 0; k < op->out_c; k++) {
                const int8_t *w = weights + k * filter;
                int32_t acc = rows[k].bias,
                        shift = rows[k].shift < -31 ? rows[k].shift + WIDE : rows[k].shift;
                for (uint32_t ky = 0; ky < op->k_h; ky++) {
                    if (!reached(oy, op->pad_t, ky, op->stride_h, op->in_h, &iy))
                        continue;
                    for (uint32_t kx = 0; kx < op->k_w; kx++)
                        if (reached(ox, op->pad_l, kx, op->stride_w, op->in_w, &ix))
                            acc += tap(src + (iy * op->in_w + ix) * c, w + (ky * op->k_w + kx) * c, c,
                                       op->src_zero);
                }
                *dst++ = (int8_t)clamp(requantise(acc, rows[k].multiplier, shift) + op->dst_zero, op->low,
                                       op->high);
            }
}
