/* Operators beyond those of plain convolutional networks, each left out of builds that do not name it; private to qfl_nn. */
#ifndef QFL_NN_MORE_H
#define QFL_NN_MORE_H

#include "qfl_nn_internal.h"

/* Codes of these operators. */
#define QFL_NN_MORE (0xFFFFFFFFu << OP_MORE & ((2u << OP_LAST) - 2u))

/* flags of an OFFSET record */
enum { OFFSET_CONV = 0, OFFSET_DEPTHWISE = 1, OFFSET_AVERAGE = 2 };

void qfl_nn_offset(const kernel_args *a);

/* Runs one of them by its code; 0 when it is not linked. qfl_nn_more.c */
int qfl_nn_run_more(const kernel_args *a);

/* 1: what is particular to the record's operator can be run as it is. qfl_nn_more.c */
int qfl_nn_more_ok(const qfl_nn *nn, const op_record *op);

#endif
