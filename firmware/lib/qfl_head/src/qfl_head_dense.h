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
#else
#define QFL_HEAD_INLINE static inline
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define QFL_HEAD_WHOLLY _Pragma("GCC unroll 8")
#else
#define QFL_HEAD_WHOLLY
#endif

/* y[k] = b[k] + sum over f ascending of x[f] * w[f][k], x being the `in` values s begins with, those that are 0 skipped. Then the
 * activation (qfl_head_activation). */
void qfl_head_dense_forward(const float *w, const float *b, const qfl_head_source *s, float *y, uint32_t in, uint32_t out,
                            int activation);

/* grad_w[f][k] += x[f] * d[k], rows with x[f] == 0 skipped; grad_b[k] += d[k]. */
void qfl_head_dense_gradient(float *grad_w, float *grad_b, const qfl_head_source *s, const float *d, uint32_t in, uint32_t out);

/* x[f] = sum over k ascending of w[f][k] * d[k] where the activation below has let x[f] pass, else 0: the error in place of it. */
void qfl_head_dense_back(const float *w, float *x, const float *d, uint32_t in, uint32_t out, int activation);

#endif
