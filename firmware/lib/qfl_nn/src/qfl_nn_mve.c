/* Kernels for Helium: convolutions over patches, dense layers, depthwise convolutions, ADD, pooling. See qfl_nn_mve.h. */
#include "qfl_nn_mve.h"

#if QFL_NN_MVE

/*
 * Dot products of x [k] with four rows; k > 0. A loop of the processor's own that masks the lanes behind the end: ten instructions for
 * 64 products.
 */
static inline int32x4_t four_dots(const int8_t *x, const int8_t *w0, const int8_t *w1, const int8_t *w2,
                                  const int8_t *w3, uint32_t k)
{
    int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    int32x4_t acc;
    __asm volatile("dlstp.8 lr, %[k]\n"
                   "1:\n\t"
                   "vldrb.u8 q0, [%[x]], #16\n\t"
                   "vldrb.u8 q1, [%[w0]], #16\n\t"
                   "vmladava.s8 %[a0], q0, q1\n\t"
                   "vldrb.u8 q1, [%[w1]], #16\n\t"
                   "vmladava.s8 %[a1], q0, q1\n\t"
                   "vldrb.u8 q1, [%[w2]], #16\n\t"
                   "vmladava.s8 %[a2], q0, q1\n\t"
                   "vldrb.u8 q1, [%[w3]], #16\n\t"
                   "vmladava.s8 %[a3], q0, q1\n\t"
                   "letp lr, 1b\n\t"
                   "vmov %q[acc][2], %q[acc][0], %[a0], %[a2]\n\t"
                   "vmov %q[acc][3], %q[acc][1], %[a1], %[a3]"
                   : [acc] "=&w"(acc), [a0] "+Te"(a0), [a1] "+Te"(a1), [a2] "+Te"(a2), [a3] "+Te"(a3),
                     [x] "+r"(x), [w0] "+r"(w0), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3)
                   : [k] "r"(k)
                   : "lr", "q0", "q1", "memory");
    return acc;
}

void qfl_nn_mve_patches(const kernel_args *a, const int8_t *x, uint32_t count, uint32_t k, int8_t *y)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *w = op_weights(a);
    finisher f = finisher_of(op);
    uint32_t channels = op->out_c;
    for (uint32_t left = channels; left != 0; w += 4 * k, row += 4, y += 4) {
        /* Where fewer than four rows are left the others repeat the first. */
        const int8_t *w1 = left > 1 ? w + k : w, *w2 = left > 2 ? w + 2 * k : w,
                     *w3 = left > 3 ? w + 3 * k : w, *p = x;
        mve_rows rows = mve_rows_at(row, 0, 1, left);
        mve_pred16_t lanes = vctp32q(left);
        int8_t *out = y;
        for (uint32_t i = count; i != 0; i--, p += k, out += channels)
            vstrbq_p_s32(out, mve_finish(four_dots(p, w, w1, w2, w3, k), rows, f), lanes);
        left -= left < 4 ? left : 4;
    }
}

/* Products of sixteen channels added to four sums: lane i of sum j is of channel 4i + j. */
static inline void sixteen(int8x16_t u, int8x16_t v, int32x4_t s[4])
{
    int16x8_t even = vmullbq_int_s8(u, v), odd = vmulltq_int_s8(u, v);
    s[0] = vaddq_s32(s[0], vmovlbq_s16(even));
    s[2] = vaddq_s32(s[2], vmovltq_s16(even));
    s[1] = vaddq_s32(s[1], vmovlbq_s16(odd));
    s[3] = vaddq_s32(s[3], vmovltq_s16(odd));
}

void qfl_nn_mve_depthwise(const kernel_args *a, const int8_t *const *taps, uint32_t n, int8_t *y)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *weights = op_weights(a);
    uint32_t channels = op->out_c;
    finisher f = finisher_of(op);
    for (uint32_t c = 0; c < channels; c += 16, row += 16) {
        uint32_t left = channels - c;
        mve_pred16_t p = vctp8q(left);
        int32x4_t s[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        const int8_t *w = weights + c;
        if (left >= 16)
            for (uint32_t i = 0; i < n; i++, w += channels)
                sixteen(vldrbq_s8(taps[i] + c), vldrbq_s8(w), s);
        else
            for (uint32_t i = 0; i < n; i++, w += channels)
                sixteen(vldrbq_z_s8(taps[i] + c, p), vldrbq_z_s8(w, p), s);
        int16x8_t even =
            vmovnbq_s32(vuninitializedq_s16(), mve_finish(s[0], mve_rows_at(row, 0, 4, left), f));
        even = vmovntq_s32(even, mve_finish(s[2], mve_rows_at(row, 2, 4, left), f));
        int16x8_t odd = vmovnbq_s32(vuninitializedq_s16(), mve_finish(s[1], mve_rows_at(row, 1, 4, left), f));
        odd = vmovntq_s32(odd, mve_finish(s[3], mve_rows_at(row, 3, 4, left), f));
        vstrbq_p_s8(y + c, vmovntq_s16(vmovnbq_s16(vuninitializedq_s8(), even), odd), p);
    }
}

void qfl_nn_mve_add(const kernel_args *a, const int8_t *x, const int8_t *y, uint32_t n)
{
    const op_record *op = a->op;
    const channel_row *q = op_table(a);
    int8_t *dst = op_dst(a);
    int32_t zero1 = op->src_zero, zero2 = op->src2_zero, m1 = q[0].multiplier, m2 = q[1].multiplier,
            m = q[2].multiplier;
    int32_t shift1 = q[0].shift, shift2 = q[1].shift, shift = q[2].shift;
    finisher f = finisher_of(op);
    for (uint32_t i = 0; i < n; i += 4) {
        mve_pred16_t p = vctp32q(n - i);
        int32x4_t u = mve_requantise(vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(x + i, p), zero1), 20), m1, shift1);
        int32x4_t v = mve_requantise(vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(y + i, p), zero2), 20), m2, shift2);
        vstrbq_p_s32(dst + i, mve_clamp(mve_requantise(vaddq_s32(u, v), m, shift), f), p);
    }
}

void qfl_nn_mve_sums(const int8_t *p, uint32_t rows, uint32_t columns, uint32_t line, uint32_t c,
                     uint32_t first, int32_t sum[4])
{
    mve_pred16_t lanes = vctp32q(c - first);
    int32x4_t s = vdupq_n_s32(0);
    for (p += first; rows != 0; rows--, p += line) {
        const int8_t *q = p;
        for (uint32_t x = 0; x < columns; x++, q += c)
            s = vaddq_s32(s, vldrbq_z_s32(q, lanes));
    }
    vstrwq_s32(sum, s);
}

void qfl_nn_mve_largest(const int8_t *p, uint32_t rows, uint32_t columns, uint32_t line, uint32_t c,
                        int8_t *dst)
{
    for (uint32_t k = 0; k < c; k += 16) {
        mve_pred16_t lanes = vctp8q(c - k);
        int8x16_t m = vdupq_n_s8(-128);
        const int8_t *q = p + k;
        for (uint32_t y = 0; y < rows; y++, q += line) {
            const int8_t *r = q;
            for (uint32_t x = 0; x < columns; x++, r += c)
                m = vmaxq_s8(m, vldrbq_z_s8(r, lanes));
        }
        vstrbq_p_s8(dst + k, m, lanes);
    }
}

#endif
