/* Dense layers on float rows; private to qfl_head. Kernels are [in][out] row-major. */
#ifndef QFL_HEAD_DENSE_H
#define QFL_HEAD_DENSE_H

#include <stdint.h>

/* Short loops, whose counting costs as much as their work on small cores. The order of operations stays. */
#if defined(__GNUC__) && !defined(__clang__)
#define QFL_HEAD_UNROLL _Pragma("GCC unroll 4")
#else
#define QFL_HEAD_UNROLL
#endif

/* y[k] = b[k] + sum over f ascending of x[f] * w[f][k]; terms with x[f] == 0 are skipped. relu: y = max(y, 0). */
void qfl_head_dense_forward(const float *w, const float *b, const float *x, float *y, uint32_t in, uint32_t out, int relu);

/* grad_w[f][k] += x[f] * d[k], rows with x[f] == 0 skipped; grad_b[k] += d[k]. */
void qfl_head_dense_gradient(float *grad_w, float *grad_b, const float *x, const float *d, uint32_t in, uint32_t out);

/* x[f] = x[f] > 0 ? sum over k ascending of w[f][k] * d[k] : 0: the error below a ReLU, in place of its output. */
void qfl_head_dense_back(const float *w, float *x, const float *d, uint32_t in, uint32_t out);

#endif
