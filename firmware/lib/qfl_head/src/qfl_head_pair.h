/* A single dense layer on two samples at once; private to qfl_head. Kernels are [in][out] row-major. */
#ifndef QFL_HEAD_PAIR_H
#define QFL_HEAD_PAIR_H

#include "qfl_head_layers.h"

typedef struct qfl_head_pair {
    const int8_t *q[2]; /* features of both samples */
    float scale;
    int32_t zero_point;
} qfl_head_pair;

/* Whether these may be used: the only layer is dense and trained wholly, its inputs are a multiple of four. */
static inline int qfl_head_pairs(const qfl_head_shape *shape)
{
    const qfl_head_layer *l = &shape->layer[0];
    return QFL_HEAD_PAIRS && shape->layers == 1 && qfl_head_pointwise(l) && !qfl_head_is_scales(l) &&
           l->out_c > 1 && (l->in_c & 3u) == 0;
}

/* y[s][k] = b[k] + sum over f ascending of x[s][f] * w[f][k]; features that are 0 in both samples may be skipped. zero_point is an int8. */
void qfl_head_pair_forward(const float *w, const float *b, const qfl_head_pair *p, float *y, uint32_t in,
                           uint32_t out);

/* grad_w[f][k] += x[0][f] * d[0][k], then x[1][f] * d[1][k]; grad_b likewise. */
void qfl_head_pair_gradient(float *grad_w, float *grad_b, const qfl_head_pair *p, const float *d, uint32_t in,
                            uint32_t out);

#endif
