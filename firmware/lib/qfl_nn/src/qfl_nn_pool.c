/* AVERAGE_POOL_2D (mean of the taps inside, half away from zero), MAX_POOL_2D, MEAN, PAD. */
#include "qfl_nn_dsp.h"
#include "qfl_nn_mve.h"

typedef struct span {
    uint32_t first, end;
} span;

/* Input positions [first, end) under output position o along one axis. */
static span under(uint32_t o, uint32_t stride, uint32_t pad, uint32_t k, uint32_t n)
{
    int32_t start = (int32_t)(o * stride) - (int32_t)pad, end = start + (int32_t)k;
    span s = {(uint32_t)(start < 0 ? 0 : start), (uint32_t)(end > (int32_t)n ? (int32_t)n : end)};
    return s;
}

/* Half away from zero. */
static inline int8_t mean(int32_t sum, int32_t count, const op_record *op)
{
    sum = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
    return (int8_t)clamp(sum, op->low, op->high);
}

void qfl_nn_average_pool(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c, row = op->in_w * c;
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        span v = under(oy, op->stride_h, op->pad_t, op->k_h, op->in_h);
        for (uint32_t ox = 0; ox < op->out_w; ox++) {
            span h = under(ox, op->stride_w, op->pad_l, op->k_w, op->in_w);
            int32_t count = (int32_t)((v.end - v.first) * (h.end - h.first));
#if QFL_NN_MVE
            for (uint32_t k = 0; k < c; k += 4) {
                int32_t sum[4];
                qfl_nn_mve_sums(src + v.first * row + h.first * c, v.end - v.first, h.end - h.first, row, c,
                                k, sum);
                for (uint32_t i = 0; i < 4 && k + i < c; i++)
                    *dst++ = mean(sum[i], count, op);
            }
#else
            for (uint32_t k = 0; k < c; k++) {
                int32_t sum = 0;
                for (uint32_t y = v.first; y < v.end; y++) {
                    const int8_t *p = src + y * row + h.first * c + k;
                    for (uint32_t x = h.first; x < h.end; x++, p += c)
                        sum += *p;
                }
                *dst++ = mean(sum, count, op);
            }
#endif
        }
    }
}

/* The largest of the taps of `rows` lines of `columns` pixels for channels [c, ...): four at a time where the core can, or sixteen. */
#if QFL_NN_MVE
#define largest qfl_nn_mve_largest
#else
static void largest(const int8_t *p, uint32_t rows, uint32_t columns, uint32_t line, uint32_t c, int8_t *dst)
{
    uint32_t k = 0;
#if QFL_NN_DSP
    for (; k + 4 <= c; k += 4) {
        uint32_t m = 0x80808080u;
        const int8_t *q = p + k;
        for (uint32_t y = 0; y < rows; y++, q += line) {
            const int8_t *r = q;
            for (uint32_t x = 0; x < columns; x++, r += c) {
                uint32_t v = load4(r);
                (void)__ssub8((int8x4_t)v,
                              (int8x4_t)m); /* its GE flags say which bytes of v are not below m's */
                m = (uint32_t)__sel((uint8x4_t)v, (uint8x4_t)m);
            }
        }
        memcpy(dst + k, &m, 4);
    }
#endif
    for (; k < c; k++) {
        int32_t m = -128;
        const int8_t *q = p + k;
        for (uint32_t y = 0; y < rows; y++, q += line)
            for (uint32_t x = 0; x < columns; x++)
                if (q[x * c] > m)
                    m = q[x * c];
        dst[k] = (int8_t)m;
    }
}
#endif

void qfl_nn_max_pool(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c, row = op->in_w * c;
    int open = op->low == -128 && op->high == 127;
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        span v = under(oy, op->stride_h, op->pad_t, op->k_h, op->in_h);
        for (uint32_t ox = 0; ox < op->out_w; ox++, dst += c) {
            span h = under(ox, op->stride_w, op->pad_l, op->k_w, op->in_w);
            largest(src + v.first * row + h.first * c, v.end - v.first, h.end - h.first, row, c, dst);
            for (uint32_t k = 0; !open && k < c; k++)
                dst[k] = (int8_t)clamp(dst[k], op->low, op->high);
        }
    }
}

/* Of each of out_h groups of pixels; height and width of an image are one group. */
void qfl_nn_mean(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *p = op_src(a);
    int8_t *dst = op_dst(a);
    int32_t *sum = (int32_t *)(void *)(a->arena + op->scratch);
    uint32_t c = op->in_c, n = (uint32_t)op->extra[2];
    for (uint32_t g = 0; g < op->out_h; g++) {
        memset(sum, 0, 4 * c);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < c; k++)
                sum[k] += *p++;
        for (uint32_t k = 0; k < c; k++) {
            int32_t y = qfl_nn_requantise(sum[k] - (int32_t)n * op->src_zero, op->extra[0], op->extra[1]) +
                        op->dst_zero;
            *dst++ = (int8_t)clamp(y, -128, 127);
        }
    }
}

void qfl_nn_pad(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c, row = op->in_w * c, out_row = op->out_w * c;
    memset(dst, op->dst_zero, op->dst_size);
    for (uint32_t y = 0; y < op->in_h; y++)
        memcpy(dst + (y + op->pad_t) * out_row + op->pad_l * c, src + y * row, row);
}
