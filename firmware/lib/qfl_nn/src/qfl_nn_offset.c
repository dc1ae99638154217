/*
 * Operators of uint8 models (TensorFlow 1) as they are in int8: convolutions and dense layers whose kernel has a zero-point, and
 * AVERAGE_POOL_2D that rounds halves up, as it does among unsigned numbers. flags says which.
 *
 * Convolution: the table's bias has the input's zero-point folded in; what the kernel's zero-point adds is the sum of the patch
 * times it, taken once a pixel. Taps outside of the image are zero-points. Depthwise: the table's bias is the model's own.
 */
#include "qfl_nn_more.h"

/* The taps of output (oy, ox) in a row, those outside as the zero-point; returns their sum. */
static int32_t gather(const op_record *op, const int8_t *src, uint32_t oy, uint32_t ox, int8_t *patch)
{
    uint32_t c = op->in_c;
    int32_t sum = 0, top = (int32_t)(oy * op->stride_h) - op->pad_t,
            left = (int32_t)(ox * op->stride_w) - op->pad_l;
    int8_t *p = patch;
    for (int32_t i = 0; i < op->k_h; i++)
        for (int32_t j = 0; j < op->k_w; j++, p += c) {
            int32_t y = top + i * op->dil_h, x = left + j * op->dil_w;
            if (y < 0 || y >= op->in_h || x < 0 || x >= op->in_w)
                memset(p, op->src_zero, c);
            else
                memcpy(p, src + ((uint32_t)y * op->in_w + (uint32_t)x) * c, c);
        }
    while (patch != p)
        sum += *patch++;
    return sum;
}

static void conv(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *src = op_src(a), *weights = op_weights(a);
    int8_t *dst = op_dst(a), *patch = (int8_t *)(a->arena + op->scratch);
    uint32_t k = (uint32_t)op->k_h * op->k_w * op->in_c;
    uint32_t zero = (uint32_t)op->extra[0];
    finisher f = finisher_of(op);
    for (uint32_t oy = 0; oy < op->out_h; oy++)
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            uint32_t less = (uint32_t)gather(op, src, oy, ox, patch) * zero;
            for (uint32_t n = 0; n < op->out_c; n++) {
                uint32_t acc =
                    (uint32_t)row[n].bias + (uint32_t)qfl_nn_dot(patch, weights + n * k, k, 0) - less;
                *dst++ = finish((int32_t)acc, &row[n], f);
            }
        }
}

static void depthwise(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *src = op_src(a), *weights = op_weights(a);
    int8_t *dst = op_dst(a);
    int32_t zero = op->extra[0];
    finisher f = finisher_of(op);
    for (uint32_t oy = 0; oy < op->out_h; oy++)
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            int32_t top = (int32_t)(oy * op->stride_h) - op->pad_t,
                    left = (int32_t)(ox * op->stride_w) - op->pad_l;
            for (uint32_t n = 0; n < op->out_c; n++) {
                int32_t acc = row[n].bias;
                for (int32_t i = 0; i < op->k_h; i++)
                    for (int32_t j = 0; j < op->k_w; j++) {
                        int32_t y = top + i * op->dil_h, x = left + j * op->dil_w;
                        if (y < 0 || y >= op->in_h || x < 0 || x >= op->in_w)
                            continue;
                        uint32_t at = ((uint32_t)y * op->in_w + (uint32_t)x) * op->in_c + n / op->multiplier;
                        acc += (src[at] - op->src_zero) *
                               (weights[(uint32_t)(i * op->k_w + j) * op->out_c + n] - zero);
                    }
                *dst++ = finish(acc, &row[n], f);
            }
        }
}

/* Mean of the taps inside, halves up. */
static void average(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    for (uint32_t oy = 0; oy < op->out_h; oy++)
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            int32_t top = (int32_t)(oy * op->stride_h) - op->pad_t,
                    left = (int32_t)(ox * op->stride_w) - op->pad_l;
            int32_t bottom = top + op->k_h, right = left + op->k_w;
            top = top < 0 ? 0 : top;
            left = left < 0 ? 0 : left;
            bottom = bottom > op->in_h ? op->in_h : bottom;
            right = right > op->in_w ? op->in_w : right;
            int32_t count = (bottom - top) * (right - left);
            for (uint32_t n = 0; n < op->in_c; n++) {
                int32_t sum = 128 * count;
                for (int32_t y = top; y < bottom; y++)
                    for (int32_t x = left; x < right; x++)
                        sum += src[((uint32_t)y * op->in_w + (uint32_t)x) * op->in_c + n];
                *dst++ = (int8_t)clamp((sum + count / 2) / count - 128, op->low, op->high);
            }
        }
}

void qfl_nn_offset(const kernel_args *a)
{
    if (a->op->flags == OFFSET_CONV)
        conv(a);
    else if (a->op->flags == OFFSET_DEPTHWISE)
        depthwise(a);
    else
        average(a);
}
