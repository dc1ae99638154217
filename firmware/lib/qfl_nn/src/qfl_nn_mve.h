/*
 * Helium (M-profile vector extension, Armv8.1-M: Cortex-M55, M85). Sixteen products an instruction; the last lanes of a row are
 * masked, so any number of channels and any alignment runs here. Private to qfl_nn; everything has a portable counterpart that
 * gives the same bytes.
 */
#ifndef QFL_NN_MVE_H
#define QFL_NN_MVE_H

#include "qfl_nn_internal.h"

#if QFL_NN_MVE

#include <arm_mve.h>

/*
 * requantise() of four values with one multiplier and shift. VQRDMULH is high_mul (it saturates only where both factors are -2^31).
 * VRSHL rounds halves up; with 1 taken from negative values before, it rounds them away from zero. The saturation of that step changes no
 * result: -2^31 and -2^31 - 1 have the same quotients.
 */
static inline int32x4_t mve_requantise(int32x4_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0)
        return vqrdmulhq_n_s32(vshlq_r_s32(x, shift), multiplier);
    x = vqrdmulhq_n_s32(x, multiplier);
    if (shift == 0)
        return x;
    return vrshlq_n_s32(vqaddq_s32(x, vshrq_n_s32(x, 31)), shift);
}

static inline int32x4_t mve_clamp(int32x4_t x, finisher f)
{
    return vmaxq_s32(vminq_s32(vaddq_n_s32(x, f.zero), vdupq_n_s32(f.high)), vdupq_n_s32(f.low));
}

/* The rows of four channels: `row` and those 1, 2, 3 times `step` behind it, the last of the `left` that there are instead of others. */
typedef struct mve_rows {
    int32x4_t bias, multiplier, left, down; /* shifts to the left and, negative, to the right */
} mve_rows;

static inline mve_rows mve_rows_at(const channel_row *row, uint32_t first, uint32_t step, uint32_t left)
{
    const uint32x4_t all = {0, 12 * step, 24 * step, 36 * step};
    const int32_t *p = (const int32_t *)(const void *)row;
    uint32x4_t at = vminq_u32(vaddq_n_u32(all, 12 * first), vdupq_n_u32(12 * (left - 1)));
    int32x4_t shift = vshrq_n_s32(vshlq_n_s32(vldrwq_gather_offset_s32(p + 2, at), 26),
                                  26); /* WIDE is not needed: nothing overflows */
    int32x4_t down = vminq_s32(shift, vdupq_n_s32(0));
    mve_rows r = {vldrwq_gather_offset_s32(p, at), vldrwq_gather_offset_s32(p + 1, at),
                  vsubq_s32(shift, down), down};
    return r;
}

/* finish() of four accumulators without bias, each with its own row. */
static inline int32x4_t mve_finish(int32x4_t acc, mve_rows r, finisher f)
{
    acc = vqrdmulhq_s32(vshlq_s32(vaddq_s32(acc, r.bias), r.left), r.multiplier);
    acc = vqaddq_s32(acc,
                     vshrq_n_s32(vandq_s32(acc, r.down), 31)); /* no halves to round where the shift is 0 */
    return mve_clamp(vrshlq_s32(acc, r.down), f);
}

/* All output channels of `count` patches of k bytes each, one behind the other; their outputs likewise from y on. */
void qfl_nn_mve_patches(const kernel_args *a, const int8_t *x, uint32_t count, uint32_t k, int8_t *y);

/* All output channels of one pixel of a depthwise convolution with multiplier 1; taps [n] point to the channels under each. */
void qfl_nn_mve_depthwise(const kernel_args *a, const int8_t *const *taps, uint32_t n, int8_t *y);

/* n elements of ADD whose operands are neither broadcast nor negated. */
void qfl_nn_mve_add(const kernel_args *a, const int8_t *x, const int8_t *y, uint32_t n);

/* Sums, and largest, of `rows` lines of `columns` pixels of c channels; consecutive lines are `line` bytes apart. */
void qfl_nn_mve_sums(const int8_t *p, uint32_t rows, uint32_t columns, uint32_t line, uint32_t c,
                     uint32_t first, int32_t sum[4]);
void qfl_nn_mve_largest(const int8_t *p, uint32_t rows, uint32_t columns, uint32_t line, uint32_t c,
                        int8_t *dst);

#endif
#endif
