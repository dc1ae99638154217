/* Dense layers on float rows; private to qfl_head. Kernels are [in][out] row-major. */
#ifndef QFL_HEAD_DENSE_H
#define QFL_HEAD_DENSE_H

#include "qfl_head_layers.h"

/* Short loops, whose counting costs as much as their work on small cores. The order of operations stays. */
#if defined(__GNUC__) && !defined(__clang__)
#define QFL_HEAD_UNROLL _Pragma("GCC unroll 4")
#else
#define QFL_HEAD_UNROLL
#endif

/* Loops over a block of outputs, whose size is a constant once inlined: sums stay in registers. */
#if defined(__GNUC__)
#define QFL_HEAD_INLINE static inline __attribute__((always_inline))
#define QFL_HEAD_APART  __attribute__((noinline)) /* with a prologue of its own */
#else
#define QFL_HEAD_INLINE static inline
#define QFL_HEAD_APART
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define QFL_HEAD_WHOLLY _Pragma("GCC unroll 8")
#else
#define QFL_HEAD_WHOLLY
#endif

/*
 * n floats (2 to 5 or 8, a constant) that lie together, from or to *at, which moves behind them unless a load is to stay. Each is one
 * instruction on Arm cores with an FPU; GCC does not find it, and it wants registers in ascending order, hence the fixed ones.
 */
#if defined(__arm__) && defined(__ARM_FP) && !defined(__SOFTFP__) && defined(__GNUC__) && !defined(__clang__)
#define QFL_HEAD_ROWS 1
#define QFL_HEAD_LOAD(count, last, ...)                                                                      \
    if (n == count && stay)                                                                                  \
        __asm("vldmia %[p], {s0-" last "}" : __VA_ARGS__ : [p] "r"(p), "m"(*(const float (*)[count])p));     \
    else if (n == count)                                                                                     \
    __asm("vldmia %[p]!, {s0-" last "}" : [p] "+r"(p), __VA_ARGS__ : "m"(*(const float (*)[count])p))
#define QFL_HEAD_STORE(count, last, ...)                                                                     \
    if (n == count)                                                                                          \
    __asm("vstmia %[p]!, {s0-" last "}" : [p] "+r"(p), "=m"(*(float (*)[count])p) : __VA_ARGS__)
QFL_HEAD_INLINE void qfl_head_load(float *r, const float **at, const uint32_t n, const int stay)
{
    register float r0 __asm("s0"), r1 __asm("s1"), r2 __asm("s2") = 0, r3 __asm("s3") = 0, r4 __asm("s4") = 0;
    register float r5 __asm("s5") = 0, r6 __asm("s6") = 0, r7 __asm("s7") = 0;
    const float *p = *at;
    QFL_HEAD_LOAD(2, "s1", "=t"(r0), "=t"(r1));
    QFL_HEAD_LOAD(3, "s2", "=t"(r0), "=t"(r1), "=t"(r2));
    QFL_HEAD_LOAD(4, "s3", "=t"(r0), "=t"(r1), "=t"(r2), "=t"(r3));
    QFL_HEAD_LOAD(5, "s4", "=t"(r0), "=t"(r1), "=t"(r2), "=t"(r3), "=t"(r4));
    QFL_HEAD_LOAD(8, "s7", "=t"(r0), "=t"(r1), "=t"(r2), "=t"(r3), "=t"(r4), "=t"(r5), "=t"(r6), "=t"(r7));
    r[0] = r0, r[1] = r1;
    if (n > 2)
        r[2] = r2;
    if (n > 3)
        r[3] = r3;
    if (n > 4)
        r[4] = r4;
    if (n == 8)
        r[5] = r5, r[6] = r6, r[7] = r7;
    *at = p;
}
QFL_HEAD_INLINE void qfl_head_store(const float *r, float **at, const uint32_t n)
{
    register float r0 __asm("s0") = r[0], r1 __asm("s1") = r[1];
    register float r2 __asm("s2") = r[n > 2 ? 2 : 1], r3 __asm("s3") = r[n > 3 ? 3 : 1],
                      r4 __asm("s4") = r[n > 4 ? 4 : 1];
    register float r5 __asm("s5") = r[n > 5 ? 5 : 1], r6 __asm("s6") = r[n > 6 ? 6 : 1],
                      r7 __asm("s7") = r[n > 7 ? 7 : 1];
    float *p = *at;
    QFL_HEAD_STORE(2, "s1", "t"(r0), "t"(r1));
    QFL_HEAD_STORE(3, "s2", "t"(r0), "t"(r1), "t"(r2));
    QFL_HEAD_STORE(4, "s3", "t"(r0), "t"(r1), "t"(r2), "t"(r3));
    QFL_HEAD_STORE(5, "s4", "t"(r0), "t"(r1), "t"(r2), "t"(r3), "t"(r4));
    QFL_HEAD_STORE(8, "s7", "t"(r0), "t"(r1), "t"(r2), "t"(r3), "t"(r4), "t"(r5), "t"(r6), "t"(r7));
    *at = p;
}
#else
#define QFL_HEAD_ROWS 0
QFL_HEAD_INLINE void qfl_head_load(float *r, const float **at, const uint32_t n, const int stay)
{
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        r[i] = (*at)[i];
    *at += stay ? 0 : n;
}
QFL_HEAD_INLINE void qfl_head_store(const float *r, float **at, const uint32_t n)
{
    QFL_HEAD_WHOLLY
    for (uint32_t i = 0; i < n; i++)
        (*at)[i] = r[i];
    *at += n;
}
#endif

/* y[k] = b[k] + sum over f ascending of x[f] * w[f][k], x being the `in` values s begins with, those that are 0 skipped. Then the
 * activation (qfl_head_activation). */
void qfl_head_dense_forward(const float *w, const float *b, const qfl_head_source *s, float *y, uint32_t in,
                            uint32_t out, int activation);

/* grad_w[f][k] += x[f] * d[k], rows with x[f] == 0 skipped; grad_b[k] += d[k]. */
void qfl_head_dense_gradient(float *grad_w, float *grad_b, const qfl_head_source *s, const float *d,
                             uint32_t in, uint32_t out);

/* x[f] = sum over k ascending of w[f][k] * d[k] where the activation below has let x[f] pass, else 0: the error in place of it. */
void qfl_head_dense_back(const float *w, float *x, const float *d, uint32_t in, uint32_t out, int activation);

#endif
