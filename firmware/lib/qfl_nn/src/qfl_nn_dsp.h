/*
 * DSP instructions of Cortex-M4 and later (ARMv7E-M): bytes spread to halfwords with SXTB16, two products a SMLAD.
 * Private to qfl_nn; everything here has a portable counterpart that gives the same bytes.
 *
 * Four input pixels are kept as halfwords, interleaved: per four elements and pixel two words, (e0, e2) and (e1, e3), as
 * SXTB16 of a word and of the word turned by 8 give them. One pointer then walks all four pixels.
 */
#ifndef QFL_NN_DSP_H
#define QFL_NN_DSP_H

#include "qfl_nn_internal.h"

#if QFL_NN_DSP

enum { DSP_PIXELS = 4, DSP_WORDS = 8 }; /* words per group of four elements */

static inline uint32_t load4(const int8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline int32_t even2(uint32_t v) { return __sxtb16((int8x4_t)v); }
static inline int32_t odd2(uint32_t v)
{
    int32_t r;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(v)); /* GCC does not fold the rotation by itself */
    return r;
}

/* One group of four elements of one pixel. */
static inline void spread4(uint32_t v, int32_t *out)
{
    out[0] = even2(v);
    out[1] = odd2(v);
}

/* The last 1..3 elements of a row, the missing ones zero. */
static inline void spread_tail(const int8_t *p, uint32_t n, int32_t *out)
{
    int8_t last[4] = {0, 0, 0, 0};
    for (uint32_t i = 0; i < n; i++)
        last[i] = p[i];
    spread4(load4(last), out);
}

#endif
#endif
