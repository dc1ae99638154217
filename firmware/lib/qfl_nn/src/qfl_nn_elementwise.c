/* ADD (both inputs to a common scale with 20 more bits) and stand-alone RELU / RELU6. May run in place. */
#include "qfl_nn_internal.h"

void qfl_nn_add(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *q = op_table(a);
    const int8_t *x = op_src(a), *y = (const int8_t *)(a->arena + op->src2);
    int8_t *dst = op_dst(a);
    for (uint32_t i = 0; i < op->dst_size; i++) {
        int32_t u = requantise((x[i] - op->src_zero) * (1 << 20), q[0].multiplier, q[0].shift);
        int32_t v = requantise((y[i] - op->src2_zero) * (1 << 20), q[1].multiplier, q[1].shift);
        dst[i] = (int8_t)clamp(requantise(u + v, q[2].multiplier, q[2].shift) + op->dst_zero, op->low, op->high);
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
