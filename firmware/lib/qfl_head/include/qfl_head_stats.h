/*
 * Sufficient statistics of cached features, from which a host computes a dense layer in closed form (one-shot heads from Gram statistics:
 * Fed3R, Fani et al., ICML 2024; the shared within-class scatter is that of Fisher's linear discriminant).
 *
 * With a = q - zero_point (integers), optionally sketched to d < F values, value j being the sum of features j, j + d, j + 2d ...
 * with signs that follow from a seed (after the count sketch, Charikar et al. 2002), shifted down to 9 bits:
 *     count[k]      samples of class k
 *     sum[j][k]     sum of a_j over them
 *     scatter[i][j] sum over all samples of a_i a_j, less sum over classes of sum[i][k] sum[j][k] / count[k], rounded to 0
 * All integers: exact, and the same in any order of the samples. Rows of the scatter are computed one at a time from the cached
 * features, so its memory is one row.
 */
#ifndef QFL_HEAD_STATS_H
#define QFL_HEAD_STATS_H

#include <stdint.h>

#include "qfl_head.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qfl_head_stats {
    const qfl_head_data *data;
    uint32_t features; /* F */
    uint32_t classes;  /* K */
    uint32_t dims;     /* d: F, or fewer with a sketch */
    uint32_t seed;     /* of the sketch */
    uint32_t shift;    /* right shift that keeps sketched values within 9 bits */
    int32_t *sums;     /* [d][K], then count [K] */
} qfl_head_stats;

/*
 * Sets *s up over `data` and fills sums [(dims + 1) * classes int32]. dims 0: no sketch.
 * QFL_E_INVAL: dims above the number of features. QFL_E_RANGE: more than 30000 samples, whose products might overflow.
 * QFL_E_STATE: no samples.
 */
qfl_status qfl_head_stats_begin(qfl_head_stats *s, const qfl_head_data *data, uint32_t features,
                                uint32_t classes, uint32_t dims, uint32_t seed, int32_t *sums);

/* Elements i..d-1 of row i of the scatter, into row [d - i]. */
void qfl_head_stats_row(const qfl_head_stats *s, uint32_t i, int32_t *row);

/* Mean of the scatter's diagonal. */
float qfl_head_stats_diagonal(const qfl_head_stats *s);

/* Sign of a feature in a sketch, +1 or -1. */
int qfl_head_stats_sign(uint32_t feature, uint32_t seed);

#ifdef __cplusplus
}
#endif

#endif
