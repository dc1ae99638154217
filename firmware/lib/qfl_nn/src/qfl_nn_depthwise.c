/* DEPTHWISE_CONV_2D: each input channel with its own taps. Four channels at a time where the multiplier is 1. */
#include "qfl_nn_internal.h"

/* The valid taps of one output pixel. */
typedef struct window {
    uint32_t i0, i1, j0, j1; /* rows [i0, i1) and columns [j0, j1) of the kernel lie inside the input */
    const int8_t *x;         /* input under tap (i0, j0), channel 0 */
} window;

/* First tap inside and first tap beyond, along one axis. */
static void clip(int32_t start, uint32_t taps, uint32_t dilation, uint32_t n, uint32_t *first, uint32_t *end)
{
    uint32_t a = 0, b = taps;
    while (a < taps && start + (int32_t)(a * dilation) < 0)
        a++;
    while (b > a && start + (int32_t)((b - 1) * dilation) >= (int32_t)n)
        b--;
    *first = a;
    *end = b;
}

/* Sum of the weights of channel c over the taps that lie in the padding: the folded bias counts them as zero-points. */
static int32_t outside(const op_record *op, const int8_t *w, const window *win, uint32_t c)
{
    int32_t s = 0;
    for (uint32_t i = 0; i < op->k_h; i++)
        for (uint32_t j = 0; j < op->k_w; j++)
            if (i < win->i0 || i >= win->i1 || j < win->j0 || j >= win->j1)
                s += w[(i * op->k_w + j) * op->out_c + c];
    return s;
}

static int32_t one_channel(const op_record *op, const int8_t *w, const window *win, uint32_t c, int32_t acc)
{
    uint32_t step_x = op->dil_w * op->in_c, step_y = op->dil_h * op->in_w * op->in_c, in = c / op->multiplier;
    const int8_t *x = win->x + in;
    for (uint32_t i = win->i0; i < win->i1; i++, x += step_y) {
        const int8_t *p = x, *q = w + (i * op->k_w + win->j0) * op->out_c + c;
        for (uint32_t j = win->j0; j < win->j1; j++, p += step_x, q += op->out_c)
            acc += (int32_t)*p * *q;
    }
    return acc;
}

/* Channels c..c+3, multiplier 1. */
static void four_channels(const op_record *op, const int8_t *w, const window *win, uint32_t c, int32_t *acc)
{
    uint32_t step_x = op->dil_w * op->in_c, step_y = op->dil_h * op->in_w * op->in_c;
    const int8_t *x = win->x + c;
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (uint32_t i = win->i0; i < win->i1; i++, x += step_y) {
        const int8_t *p = x, *q = w + (i * op->k_w + win->j0) * op->out_c + c;
        for (uint32_t j = win->j0; j < win->j1; j++, p += step_x, q += op->out_c) {
#if QFL_NN_DSP
            int8x4_t u, v;
            memcpy(&u, p, 4);
            memcpy(&v, q, 4);
            int16x2_t u0 = __sxtb16(u), v0 = __sxtb16(v);
            int16x2_t u1 = __sxtb16((int8x4_t)((uint32_t)u >> 8 | (uint32_t)u << 24));
            int16x2_t v1 = __sxtb16((int8x4_t)((uint32_t)v >> 8 | (uint32_t)v << 24));
            a0 = __smlabb(u0, v0, a0);
            a1 = __smlabb(u1, v1, a1);
            a2 = __smlatt(u0, v0, a2);
            a3 = __smlatt(u1, v1, a3);
#else
            a0 += (int32_t)p[0] * q[0];
            a1 += (int32_t)p[1] * q[1];
            a2 += (int32_t)p[2] * q[2];
            a3 += (int32_t)p[3] * q[3];
#endif
        }
    }
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
    uint32_t channels = op->out_c;
    window win;
    for (uint32_t oy = 0; oy < op->out_h; oy++) {
        int32_t y = (int32_t)(oy * op->stride_h) - op->pad_t;
        clip(y, op->k_h, op->dil_h, op->in_h, &win.i0, &win.i1);
        for (uint32_t ox = 0; ox < op->out_w; ox++, dst += channels) {
            int32_t x = (int32_t)(ox * op->stride_w) - op->pad_l;
            clip(x, op->k_w, op->dil_w, op->in_w, &win.j0, &win.j1);
            int whole = win.i0 == 0 && win.i1 == op->k_h && win.j0 == 0 && win.j1 == op->k_w;
            win.x = src;
            if (win.i0 < win.i1 && win.j0 < win.j1)
                win.x += ((uint32_t)(y + (int32_t)(win.i0 * op->dil_h)) * op->in_w +
                          (uint32_t)(x + (int32_t)(win.j0 * op->dil_w))) * op->in_c;
            uint32_t c = 0;
            if (op->multiplier == 1)
                for (; c + 4 <= channels; c += 4) {
                    int32_t acc[4];
                    for (uint32_t k = 0; k < 4; k++)
                        acc[k] = rows[c + k].bias + (whole ? 0 : op->src_zero * outside(op, w, &win, c + k));
                    four_channels(op, w, &win, c, acc);
                    for (uint32_t k = 0; k < 4; k++)
                        dst[c + k] = finish(acc[k], &rows[c + k], op);
                }
            for (; c < channels; c++) {
                int32_t acc = rows[c].bias + (whole ? 0 : op->src_zero * outside(op, w, &win, c));
                dst[c] = finish(one_channel(op, w, &win, c, acc), &rows[c], op);
            }
        }
    }
}
