/* The program's records and the arithmetic shared by the kernels; private to qfl_nn. Layout: docs/PACKAGE.md. */
#ifndef QFL_NN_INTERNAL_H
#define QFL_NN_INTERNAL_H

#include <stddef.h>
#include <string.h>

#include "qfl_nn.h"
#include "qfl_options.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && !defined(QFL_NN_PORTABLE) &&                    \
    !defined(QFL_NN_NO_MVE)
#define QFL_NN_MVE 1
#else
#define QFL_NN_MVE 0
#endif
#if defined(__ARM_FEATURE_DSP) && !defined(QFL_NN_PORTABLE)
#define QFL_NN_DSP 1
#include <arm_acle.h>
#else
#define QFL_NN_DSP 0
#endif

enum {
    OP_CONV_2D = 1,
    OP_DEPTHWISE_CONV_2D = 2,
    OP_FULLY_CONNECTED = 3,
    OP_AVERAGE_POOL_2D = 4,
    OP_MAX_POOL_2D = 5,
    OP_MEAN = 6,
    OP_ADD = 7,
    OP_PAD = 8,
    OP_RESHAPE = 9,
    OP_SOFTMAX = 10,
    OP_RELU = 11,
    OP_CONCATENATION = 12,
    OP_SPLIT = 13,
    OP_STRIDED_SLICE = 14,
    OP_RESIZE_NEAREST = 15,
    OP_LUT = 16,
    OP_MUL = 17,
    OP_PRELU = 18,
    OP_TRANSPOSE_CONV = 19,
    OP_RESIZE_BILINEAR = 20,
    OP_MORE = 21, /* the first of those in qfl_nn_more.h */
    OP_OFFSET = 21,
    OP_LAST = 21
};

/* Whether an operator is in this build. */
#define LINKED(code) ((QFL_NN_OPS >> (code)) & 1u)

/* Flags of ADD, MUL: where operand 2 lies, and the signs of ADD's operands (SUB). Extents of STRIDED_SLICE. */
enum { OPERAND_IN_FILE = 1, NEGATE_FIRST = 2, NEGATE_SECOND = 4, STRIDED_DIMS = 5 };

typedef qfl_nn_record op_record;
_Static_assert(sizeof(op_record) == 120, "as in files");

/*
 * Per output channel: bias with the input zero-point folded in (bias - zero * sum of weights), Q31 multiplier, shift.
 * A channel whose accumulator may reach 2^30 has WIDE subtracted from its shift, which keeps it off the fast path.
 */
typedef struct channel_row {
    int32_t bias, multiplier, shift;
} channel_row;

/* RESIZE_BILINEAR: fractions of a row or column are in units of 1 / (1 << FRACTION_BITS). */
enum { FRACTION_BITS = 10 };

enum { WIDE = 64, POINTER = sizeof(void *) };
_Static_assert(sizeof(qfl_nn_header) == 112, "as in files");

typedef struct kernel_args {
    const qfl_nn *nn;
    const op_record *op;
    uint8_t *arena;
} kernel_args;

static inline const int8_t *op_src(const kernel_args *a) { return (const int8_t *)(a->arena + a->op->src); }
static inline int8_t *op_dst(const kernel_args *a) { return (int8_t *)(a->arena + a->op->dst); }
static inline const int8_t *op_weights(const kernel_args *a)
{
    return (const int8_t *)(a->nn->file + a->op->weights);
}
static inline const channel_row *op_table(const kernel_args *a)
{
    return (const channel_row *)(const void *)(a->nn->file + a->op->table);
}

/* Saturating rounding doubling high multiplication (gemmlowp): round(a * b / 2^31), ties towards plus infinity. */
static inline int32_t high_mul(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31); }

/* Division by 2^e, 0 <= e <= 31, rounding half away from zero (gemmlowp RoundingDivideByPOT). */
static inline int32_t shift_right(int32_t x, int32_t e)
{
    if (e == 0)
        return x;
    int64_t half = (int64_t)1 << (e - 1);
    return (int32_t)((x + half + (x >> 31)) >> e);
}

/* x * multiplier / 2^31 * 2^shift with two roundings, as tflite-micro does it. */
static inline int32_t requantise(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0)
        return high_mul((int32_t)((uint32_t)x << shift), multiplier);
    return shift_right(high_mul(x, multiplier), -shift);
}

static inline int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* What the outputs of an operator have in common; kept in locals, for stores to int8 may alias the record. */
typedef struct finisher {
    int32_t zero, low, high;
    int open; /* the clamp is the whole of int8 */
} finisher;

static inline finisher finisher_of(const op_record *op)
{
    finisher f = {op->dst_zero, op->low, op->high, op->low == -128 && op->high == 127};
    return f;
}

/* requantise() and that of a convolution's accumulator, where they are rare: one copy of the code. qfl_nn_dot.c. */
int32_t qfl_nn_requantise(int32_t x, int32_t multiplier, int32_t shift);
int32_t qfl_nn_requantise_channel(int32_t acc, const channel_row *row);

/* One accumulator of a convolution to its int8 output. */
static inline int8_t finish(int32_t acc, const channel_row *row, finisher f)
{
    int32_t y, shift = -row->shift;
#if QFL_NN_DSP
    if ((uint32_t)(shift - 1) < 31u) {
        __asm("smmulr %0, %1, %2"
              : "=r"(y)
              : "r"(acc * 2), "r"(row->multiplier)); /* high_mul in one instruction */
        y = ((y + (y >> 31) + (1 << (shift - 1))) >> shift) + f.zero;
        return (int8_t)(f.open ? __ssat(y, 8) : clamp(y, f.low, f.high));
    }
    y = qfl_nn_requantise_channel(acc, row);
#else
    y = requantise(acc, row->multiplier, shift > 31 ? WIDE - shift : -shift);
#endif
    return (int8_t)clamp(y + f.zero, f.low, f.high);
}

/* Runs one operator by its code; 0 when it is not linked. qfl_nn.c. */
int qfl_nn_run_op(const kernel_args *a);

void qfl_nn_conv(const kernel_args *a);
void qfl_nn_depthwise(const kernel_args *a);
void qfl_nn_fully_connected(const kernel_args *a);
void qfl_nn_average_pool(const kernel_args *a);
void qfl_nn_max_pool(const kernel_args *a);
void qfl_nn_mean(const kernel_args *a);
void qfl_nn_add(const kernel_args *a);
void qfl_nn_pad(const kernel_args *a);
void qfl_nn_softmax(const kernel_args *a);
void qfl_nn_relu(const kernel_args *a);
void qfl_nn_concat(const kernel_args *a);
void qfl_nn_split(const kernel_args *a);
void qfl_nn_strided(const kernel_args *a);
void qfl_nn_resize(const kernel_args *a);
void qfl_nn_resize_bilinear(const kernel_args *a);
void qfl_nn_lut(const kernel_args *a);
void qfl_nn_mul(const kernel_args *a);
void qfl_nn_prelu(const kernel_args *a);
void qfl_nn_transpose_conv(const kernel_args *a);

/* 1: the record can be run as it is. qfl_nn_check.c */
int qfl_nn_record_ok(const qfl_nn *nn, const op_record *op);

/* Dot products of x0, x1 [k] with w0, w1 [k], added to acc: x0w0, x0w1, x1w0, x1w1. Any alignment. */
void qfl_nn_dot2x2(const int8_t *x0, const int8_t *x1, const int8_t *w0, const int8_t *w1, uint32_t k,
                   int32_t *acc);
/* Dot product of x and w [k], added to acc. */
int32_t qfl_nn_dot(const int8_t *x, const int8_t *w, uint32_t k, int32_t acc);

#endif
