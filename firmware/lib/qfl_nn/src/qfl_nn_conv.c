/*
 * CONV_2D. The patch under each output pixel is gathered into scratch (padding written as the zero-point, which the
 * folded bias cancels), two pixels at a time; a 1x1 convolution with stride 1 reads its input in place.
 */
#include "qfl_nn_internal.h"

static void gather(const kernel_args *a, uint32_t oy, uint32_t ox, int8_t *out)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int32_t y0 = (int32_t)(oy * op->stride_h) - op->pad_t, x0 = (int32_t)(ox * op->stride_w) - op->pad_l;
    uint32_t c = op->in_c, row = op->k_w * c;
    for (uint32_t i = 0; i < op->k_h; i++) {
        int32_t y = y0 + (int32_t)(i * op->dil_h);
        if (y < 0 || y >= op->in_h) {
            memset(out, op->src_zero, row);
            out += row;
            continue;
        }
        const int8_t *line = src + (uint32_t)y * op->in_w * c;
        if (op->dil_w == 1 && x0 >= 0 && x0 + op->k_w <= op->in_w) {
            memcpy(out, line + (uint32_t)x0 * c, row);
            out += row;
            continue;
        }
        for (uint32_t j = 0; j < op->k_w; j++, out += c) {
            int32_t x = x0 + (int32_t)(j * op->dil_w);
            if (x < 0 || x >= op->in_w)
                memset(out, op->src_zero, c);
            else
                memcpy(out, line + (uint32_t)x * c, c);
        }
    }
}

/* Two pixels x0 and x1 [k] against all output channels; x1 == x0 for a last odd pixel, whose second result is dropped. */
static void pixels(const kernel_args *a, const int8_t *x0, const int8_t *x1, uint32_t k, int8_t *y0, int8_t *y1)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *w = op_weights(a);
    uint32_t o = 0, channels = op->out_c;
    for (; o + 2 <= channels; o += 2, row += 2, w += 2 * k) {
        int32_t acc[4] = {row[0].bias, row[1].bias, row[0].bias, row[1].bias};
        qfl_nn_dot2x2(x0, x1, w, w + k, k, acc);
        y0[o] = finish(acc[0], row, op);
        y0[o + 1] = finish(acc[1], row + 1, op);
        y1[o] = finish(acc[2], row, op);
        y1[o + 1] = finish(acc[3], row + 1, op);
    }
    if (o < channels) {
        int32_t p = qfl_nn_dot(x0, w, k, row->bias), q = qfl_nn_dot(x1, w, k, row->bias);
        y0[o] = finish(p, row, op);
        y1[o] = finish(q, row, op);
    }
}

void qfl_nn_conv(const kernel_args *a)
{
    const op_record *op = a->op;
    uint32_t count = (uint32_t)op->out_h * op->out_w, k = (uint32_t)op->k_h * op->k_w * op->in_c;
    int pointwise = op->k_h == 1 && op->k_w == 1 && op->stride_h == 1 && op->stride_w == 1 && op->pad_t == 0 && op->pad_l == 0;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a), *patch = (int8_t *)(a->arena + op->scratch), *second = patch + ((k + 3) & ~3u);
    uint32_t ox = 0, oy = 0;
    for (uint32_t p = 0; p < count; p += 2) {
        uint32_t more = p + 1 < count;
        const int8_t *x0 = src + p * k, *x1 = more ? x0 + k : x0;
        if (!pointwise) {
            gather(a, oy, ox, patch);
            if (++ox == op->out_w)
                ox = 0, oy++;
            x0 = x1 = patch;
            if (more) {
                gather(a, oy, ox, second);
                if (++ox == op->out_w)
                    ox = 0, oy++;
                x1 = second;
            }
        }
        pixels(a, x0, x1, k, dst, more ? dst + op->out_c : dst);
        dst += 2 * op->out_c;
    }
}
