/*
 * CONV_2D. Padding is written as the zero-point, which the folded bias cancels, so no tap is special.
 *
 * Portable: the patch under each output pixel is gathered into scratch, two pixels at a time; a 1x1 convolution with
 * stride 1 reads its input in place. DSP: four pixels are gathered as interleaved halfwords (qfl_nn_dsp.h) and every
 * output channel walks them once: 15 instructions for 16 products. Helium: patches as they are (qfl_nn_mve.h).
 */
#include "qfl_nn_dsp.h"
#include "qfl_nn_mve.h"

static int is_pointwise(const op_record *op)
{
    return op->k_h == 1 && op->k_w == 1 && op->stride_h == 1 && op->stride_w == 1 && op->pad_t == 0 &&
           op->pad_l == 0;
}

/* memcpy for the short, odd pieces of a patch; small C libraries copy byte by byte. */
static inline int8_t *copy(int8_t *out, const int8_t *p, uint32_t n)
{
    for (; n >= 4; n -= 4, p += 4, out += 4)
        memcpy(out, p, 4);
    for (; n != 0; n--)
        *out++ = *p++;
    return out;
}

static inline int8_t *fill(int8_t *out, int8_t v, uint32_t n)
{
    while (n--)
        *out++ = v;
    return out;
}

/* The patch under output pixel (oy, ox), int8 [k_h * k_w * in_c]. */
static void gather(const kernel_args *a, uint32_t oy, uint32_t ox, int8_t *out)
{
    const op_record *op = a->op;
    const int8_t *src = op_src(a);
    int32_t y0 = (int32_t)(oy * op->stride_h) - op->pad_t, x0 = (int32_t)(ox * op->stride_w) - op->pad_l;
    uint32_t c = op->in_c, row = op->k_w * c;
    for (uint32_t i = 0; i < op->k_h; i++, y0 += op->dil_h) {
        const int8_t *line = src + y0 * op->in_w * (int32_t)c;
        if (y0 < 0 || y0 >= op->in_h) {
            out = fill(out, (int8_t)op->src_zero, row);
        } else if (op->dil_w == 1 && x0 >= 0 && x0 + op->k_w <= op->in_w) {
            out = copy(out, line + (uint32_t)x0 * c, row);
        } else {
            int32_t x = x0;
            for (uint32_t j = 0; j < op->k_w; j++, x += op->dil_w)
                out = x < 0 || x >= op->in_w ? fill(out, (int8_t)op->src_zero, c)
                                             : copy(out, line + (uint32_t)x * c, c);
        }
    }
}

#if QFL_NN_MVE

/* Eight patches are gathered at a time; those of a pointwise convolution lie in the input. */
void qfl_nn_conv(const kernel_args *a)
{
    const op_record *op = a->op;
    uint32_t count = (uint32_t)op->out_h * op->out_w, k = (uint32_t)op->k_h * op->k_w * op->in_c;
    int8_t *patches = (int8_t *)(a->arena + op->scratch), *dst = op_dst(a);
    if (is_pointwise(op)) {
        qfl_nn_mve_patches(a, op_src(a), count, k, dst);
        return;
    }
    for (uint32_t p = 0, n; p < count; p += n, dst += n * op->out_c) {
        n = count - p < 8 ? count - p : 8;
        for (uint32_t i = 0; i < n; i++)
            gather(a, (p + i) / op->out_w, (p + i) % op->out_w, patches + i * k);
        qfl_nn_mve_patches(a, patches, n, k, dst);
    }
}

#elif QFL_NN_DSP

/* int8 [n] to every fourth pair of words of `out`; returns where the next elements go. */
static inline int32_t *spread(const int8_t *p, uint32_t n, int32_t *out)
{
    for (const int8_t *stop = p + (n & ~3u); p != stop; p += 4, out += DSP_WORDS)
        spread4(load4(p), out);
    if ((n & 3u) != 0)
        spread_tail(p, n & 3u, out);
    return out;
}

/* n (a multiple of 4) times the same value. */
static inline int32_t *spread_fill(int32_t v, uint32_t n, int32_t *out)
{
    int32_t pair = (int32_t)((uint32_t)v << 16 | ((uint32_t)v & 0xFFFFu));
    for (; n != 0; n -= 4, out += DSP_WORDS)
        out[0] = out[1] = pair;
    return out;
}

/* gather() straight to halfwords, for a number of channels that is a multiple of 4. */
static void gather_spread(const kernel_args *a, uint32_t oy, uint32_t ox, int32_t *out)
{
    const op_record *op = a->op;
    int32_t y = (int32_t)(oy * op->stride_h) - op->pad_t, x0 = (int32_t)(ox * op->stride_w) - op->pad_l;
    uint32_t c = op->in_c, row = op->k_w * c;
    for (uint32_t i = 0; i < op->k_h; i++, y += op->dil_h) {
        const int8_t *line = op_src(a) + y * op->in_w * (int32_t)c;
        if (y < 0 || y >= op->in_h) {
            out = spread_fill(op->src_zero, row, out);
        } else if (op->dil_w == 1 && x0 >= 0 && x0 + op->k_w <= op->in_w) {
            out = spread(line + (uint32_t)x0 * c, row, out);
        } else {
            int32_t x = x0;
            for (uint32_t j = 0; j < op->k_w; j++, x += op->dil_w)
                out = x < 0 || x >= op->in_w ? spread_fill(op->src_zero, c, out)
                                             : spread(line + (uint32_t)x * c, c, out);
        }
    }
}

/*
 * Four accumulators over `whole` weights (a multiple of 4): one load of weights, four of inputs, eight SMLAD for 16 products.
 * Written out because GCC neither pairs the loads (LDRD) nor keeps everything in registers. Returns the end of x.
 */
static inline const int32_t *four_dots(const int32_t *x, const int8_t *w, uint32_t whole,
                                       int32_t acc[DSP_PIXELS])
{
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3], e, o, u, v;
    const int8_t *stop = w + whole;
    if (whole != 0)
        __asm volatile("1:\n\t"
                       "ldr %[o], [%[w]], #4\n\t"
                       "ldrd %[u], %[v], [%[x]], #8\n\t"
                       "sxtb16 %[e], %[o]\n\t"
                       "sxtb16 %[o], %[o], ror #8\n\t"
                       "smlad %[a0], %[u], %[e], %[a0]\n\t"
                       "smlad %[a0], %[v], %[o], %[a0]\n\t"
                       "ldrd %[u], %[v], [%[x]], #8\n\t"
                       "smlad %[a1], %[u], %[e], %[a1]\n\t"
                       "smlad %[a1], %[v], %[o], %[a1]\n\t"
                       "ldrd %[u], %[v], [%[x]], #8\n\t"
                       "smlad %[a2], %[u], %[e], %[a2]\n\t"
                       "smlad %[a2], %[v], %[o], %[a2]\n\t"
                       "ldrd %[u], %[v], [%[x]], #8\n\t"
                       "cmp %[w], %[stop]\n\t"
                       "smlad %[a3], %[u], %[e], %[a3]\n\t"
                       "smlad %[a3], %[v], %[o], %[a3]\n\t"
                       "bne 1b"
                       : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [a3] "+r"(a3), [w] "+r"(w), [x] "+r"(x),
                         [e] "=&r"(e), [o] "=&r"(o), [u] "=&r"(u), [v] "=&r"(v)
                       : [stop] "r"(stop)
                       : "cc", "memory");
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
    return x;
}

/* One accumulator on the fast path: shift in 1..31, clamp to the whole of int8. */
static inline int8_t finish_fast(int32_t acc, int32_t multiplier, int32_t half, int32_t shift, int32_t zero)
{
    int32_t v;
    __asm("smmulr %0, %1, %2" : "=r"(v) : "r"(acc * 2), "r"(multiplier));
    return (int8_t)__ssat(((v + (v >> 31) + half) >> shift) + zero, 8);
}

/* All output channels of four pixels; pixel i's outputs go to y + at[i]. */
static void channels_of_four(const kernel_args *a, const int32_t *x, uint32_t k, int8_t *y,
                             const uint32_t at[DSP_PIXELS])
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *w = op_weights(a);
    uint32_t whole = k & ~3u, tail = k & 3u, at1 = at[1], at2 = at[2], at3 = at[3];
    finisher f = finisher_of(op);
    for (const channel_row *end = row + op->out_c; row != end; row++, w += k, y++) {
        int32_t acc[DSP_PIXELS] = {row->bias, row->bias, row->bias, row->bias};
        const int32_t *p = four_dots(x, w, whole, acc);
        if (tail != 0) {
            int32_t v[2];
            spread_tail(w + whole, tail, v);
            acc[0] = __smlad(p[1], v[1], __smlad(p[0], v[0], acc[0]));
            acc[1] = __smlad(p[3], v[1], __smlad(p[2], v[0], acc[1]));
            acc[2] = __smlad(p[5], v[1], __smlad(p[4], v[0], acc[2]));
            acc[3] = __smlad(p[7], v[1], __smlad(p[6], v[0], acc[3]));
        }
        int32_t shift = -row->shift;
        if (f.open && (uint32_t)(shift - 1) < 31u) {
            int32_t half = 1 << (shift - 1), m = row->multiplier;
            y[at3] = finish_fast(acc[3], m, half, shift, f.zero);
            y[at2] = finish_fast(acc[2], m, half, shift, f.zero);
            y[at1] = finish_fast(acc[1], m, half, shift, f.zero);
            y[0] = finish_fast(acc[0], m, half, shift, f.zero);
        } else {
            y[at3] = finish(acc[3], row, f);
            y[at2] = finish(acc[2], row, f);
            y[at1] = finish(acc[1], row, f);
            y[0] = finish(acc[0], row, f);
        }
    }
}

void qfl_nn_conv(const kernel_args *a)
{
    const op_record *op = a->op;
    uint32_t count = (uint32_t)op->out_h * op->out_w, k = (uint32_t)op->k_h * op->k_w * op->in_c;
    int32_t *x = (int32_t *)(void *)(a->arena + op->scratch);
    int8_t *patch = (int8_t *)(x + (k + 3) / 4 * DSP_WORDS), *dst = op_dst(a);
    const int8_t *src = op_src(a);
    int pointwise = is_pointwise(op);
    for (uint32_t p = 0; p < count; p += DSP_PIXELS) {
        uint32_t n = count - p < DSP_PIXELS ? count - p : DSP_PIXELS, at[DSP_PIXELS];
        for (uint32_t i = 0; i < DSP_PIXELS; i++) {
            /* Fewer than four are left: the others repeat pixel 0, whose outputs they share. */
            uint32_t pixel = i < n ? p + i : p;
            at[i] = (pixel - p) * op->out_c;
            if (pointwise) {
                spread(src + pixel * k, k, x + 2 * i);
            } else if ((op->in_c & 3u) == 0) {
                gather_spread(a, pixel / op->out_w, pixel % op->out_w, x + 2 * i);
            } else {
                gather(a, pixel / op->out_w, pixel % op->out_w, patch);
                spread(patch, k, x + 2 * i);
            }
        }
        channels_of_four(a, x, k, dst, at);
        dst += n * op->out_c;
    }
}

#else

/* Two pixels x0 and x1 [k] against all output channels; x1 == x0 for a last odd pixel. */
static void pixels(const kernel_args *a, const int8_t *x0, const int8_t *x1, uint32_t k, int8_t *y0,
                   int8_t *y1)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *w = op_weights(a);
    finisher f = finisher_of(op);
    uint32_t o = 0, channels = op->out_c;
    for (; o + 2 <= channels; o += 2, row += 2, w += 2 * k) {
        int32_t acc[4] = {row[0].bias, row[1].bias, row[0].bias, row[1].bias};
        qfl_nn_dot2x2(x0, x1, w, w + k, k, acc);
        y0[o] = finish(acc[0], row, f);
        y0[o + 1] = finish(acc[1], row + 1, f);
        y1[o] = finish(acc[2], row, f);
        y1[o + 1] = finish(acc[3], row + 1, f);
    }
    if (o < channels) {
        int32_t p = qfl_nn_dot(x0, w, k, row->bias), q = qfl_nn_dot(x1, w, k, row->bias);
        y0[o] = finish(p, row, f);
        y1[o] = finish(q, row, f);
    }
}

void qfl_nn_conv(const kernel_args *a)
{
    const op_record *op = a->op;
    uint32_t count = (uint32_t)op->out_h * op->out_w, k = (uint32_t)op->k_h * op->k_w * op->in_c;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a), *patch = (int8_t *)(a->arena + op->scratch), *second = patch + ((k + 3) & ~3u);
    int pointwise = is_pointwise(op);
    for (uint32_t p = 0; p < count; p += 2) {
        uint32_t more = p + 1 < count;
        const int8_t *x0 = src + p * k, *x1 = more ? x0 + k : x0;
        if (!pointwise) {
            gather(a, p / op->out_w, p % op->out_w, patch);
            x0 = x1 = patch;
            if (more) {
                gather(a, (p + 1) / op->out_w, (p + 1) % op->out_w, second);
                x1 = second;
            }
        }
        pixels(a, x0, x1, k, dst, more ? dst + op->out_c : dst);
        dst += 2 * op->out_c;
    }
}

#endif
