/* What the checks of records have in common; private to qfl_nn. */
#ifndef QFL_NN_RULES_H
#define QFL_NN_RULES_H

#include "qfl_nn_internal.h"

/* Builds without the operators of qfl_nn_more.h have one file of checks, whose functions the compiler may then take apart. */
#if (QFL_NN_OPS >> 21) != 0
#define QFL_NN_RULE
#else
#define QFL_NN_RULE static
#endif

/* a * b, or more than any size it is compared with. */
QFL_NN_RULE uint32_t qfl_nn_times(uint32_t a, uint32_t b);

/* The record's table has `rows` rows, all inside the file. */
QFL_NN_RULE int qfl_nn_table_ok(const qfl_nn *nn, const op_record *op, uint32_t rows);

/* Shifts of every row within what the arithmetic takes, and no sum of `terms` products can overflow. */
QFL_NN_RULE int qfl_nn_rows_ok(const qfl_nn *nn, const op_record *op, uint32_t terms);

/* Sizes of input and output are those of their images. */
QFL_NN_RULE int qfl_nn_images_ok(const op_record *op);

/* Every window begins inside the padded input; a tap outside of the input is padding. */
QFL_NN_RULE int qfl_nn_window_ok(const op_record *op);

/* Neither of two stretches of the arena lies over the other. */
QFL_NN_RULE int qfl_nn_apart(uint32_t a, uint32_t an, uint32_t b, uint32_t bn);

#endif
