/* qfl_nn_selftest: does this board compute what it should? Known answers through every kernel path that is linked. */
#ifndef QFL_NN_SELFTEST_H
#define QFL_NN_SELFTEST_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_NN_SELFTEST_BYTES = 1536 };

/* Number of cases. */
uint32_t qfl_nn_selftest_count(void);

/*
 * Runs all cases in mem [QFL_NN_SELFTEST_BYTES], at a 16-byte boundary, which is overwritten. Returns how many failed; *first gets
 * the number of the first of them, counted from 1, or 0. Kernels that are not linked (QFL_NN_OPS) count as passed.
 */
uint32_t qfl_nn_selftest(void *mem, uint32_t *first);

/* Hash of what case `index`, below the count, writes; for making the vectors and for tests. */
uint32_t qfl_nn_selftest_hash(uint32_t index, void *mem);

#ifdef __cplusplus
}
#endif

#endif
