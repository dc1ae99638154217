/*
 * One output element from one or two input elements: ADD and SUB (both inputs to a common scale with 20 more bits), MUL, PRELU,
 * stand-alone RELU / RELU6 and QUANTIZE, and functions of one variable as tables of 256 bytes. May run in place.
 */
#include "qfl_nn_mve.h"

/* Operand 2 may be a constant, and either may be broadcast: element i of the output takes element (i / div) % size. */
typedef struct operand {
    const int8_t *p;
    uint32_t size, div, at, left;
} operand;

static operand first_operand(const kernel_args *a)
{
    operand o = {op_src(a), a->op->src_size, (uint32_t)a->op->extra[1], 0, (uint32_t)a->op->extra[1]};
    return o;
}

static operand second_operand(const kernel_args *a)
{
    const op_record *op = a->op;
    int constant = (op->flags & OPERAND_IN_FILE) != 0;
    operand o = {constant ? op_weights(a) : (const int8_t *)(a->arena + op->src2),
                 constant ? op->weights_size : op->src2_size, (uint32_t)op->extra[0], 0,
                 (uint32_t)op->extra[0]};
    return o;
}

static inline int32_t take(operand *o)
{
    int32_t v = o->p[o->at];
    if (--o->left == 0) {
        o->left = o->div;
        if (++o->at == o->size)
            o->at = 0;
    }
    return v;
}

/* Operands that are broadcast or subtracted: smaller rather than faster. */
static QFL_COLD void add_any(const kernel_args *a, operand x, operand y)
{
    const op_record *op = a->op;
    const channel_row *q = op_table(a);
    int32_t sign1 = op->flags & NEGATE_FIRST ? -1 : 1, sign2 = op->flags & NEGATE_SECOND ? -1 : 1;
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0; i < op->dst_size; i++) {
        int32_t u =
            qfl_nn_requantise((take(&x) - op->src_zero) * (1 << 20), q[0].multiplier, q[0].shift) * sign1;
        int32_t v =
            qfl_nn_requantise((take(&y) - op->src2_zero) * (1 << 20), q[1].multiplier, q[1].shift) * sign2;
        dst[i] = (int8_t)clamp(qfl_nn_requantise(u + v, q[2].multiplier, q[2].shift) + op->dst_zero, op->low,
                               op->high);
    }
}

void qfl_nn_add(const kernel_args *a)
{
    const op_record *op = a->op;
    operand x = first_operand(a), y = second_operand(a);
    if (x.size != op->dst_size || y.size != op->dst_size ||
        (op->flags & (NEGATE_FIRST | NEGATE_SECOND)) != 0) {
        add_any(a, x, y);
        return;
    }
#if QFL_NN_MVE
    qfl_nn_mve_add(a, x.p, y.p, x.size);
#else
    const channel_row *q = op_table(a);
    int8_t *dst = op_dst(a);
    int32_t zero1 = op->src_zero, zero2 = op->src2_zero, zero = op->dst_zero, low = op->low, high = op->high;
    for (uint32_t i = 0; i < x.size; i++) {
        int32_t u = requantise((x.p[i] - zero1) * (1 << 20), q[0].multiplier, q[0].shift);
        int32_t v = requantise((y.p[i] - zero2) * (1 << 20), q[1].multiplier, q[1].shift);
        dst[i] = (int8_t)clamp(requantise(u + v, q[2].multiplier, q[2].shift) + zero, low, high);
    }
#endif
}

void qfl_nn_mul(const kernel_args *a)
{
    const op_record *op = a->op;
    operand x = first_operand(a), y = second_operand(a);
    int32_t multiplier = op->extra[3], shift = op->extra[2];
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0; i < op->dst_size; i++) {
        int32_t product = (take(&x) - op->src_zero) * (take(&y) - op->src2_zero);
        dst[i] = (int8_t)clamp(requantise(product, multiplier, shift) + op->dst_zero, op->low, op->high);
    }
}

/* Slopes, constant, lie in the file: element i of the output has slope i % weights_size. */
void qfl_nn_prelu(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *q = op_table(a);
    const int8_t *x = op_src(a), *slope = op_weights(a);
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0, k = 0; i < op->dst_size; i++) {
        int32_t v = x[i] - op->src_zero;
        v = v >= 0 ? requantise(v, q[0].multiplier, q[0].shift)
                   : requantise(v * (slope[k] - op->src2_zero), q[1].multiplier, q[1].shift);
        dst[i] = (int8_t)clamp(v + op->dst_zero, -128, 127);
        if (++k == op->weights_size)
            k = 0;
    }
}

void qfl_nn_relu(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *x = op_src(a);
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0; i < op->dst_size; i++) {
        int32_t y = requantise(x[i] - op->src_zero, op->extra[0], op->extra[1]) + op->dst_zero;
        dst[i] = (int8_t)clamp(y, op->low, op->high);
    }
}

void qfl_nn_lut(const kernel_args *a)
{
    const int8_t *x = op_src(a), *table = op_weights(a) + 128;
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0; i < a->op->dst_size; i++)
        dst[i] = table[x[i]];
}
