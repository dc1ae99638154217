/* Dispatch and checks of the operators of qfl_nn_more.h. */
#include "qfl_nn_more.h"

#if (QFL_NN_OPS >> 21) != 0
#include "qfl_nn_rules.h"

static int offset_ok(const qfl_nn *nn, const op_record *op)
{
    uint32_t taps = qfl_nn_times(op->k_h, op->k_w), patch = qfl_nn_times(taps, op->in_c);
    if (!qfl_nn_window_ok(op) || op->extra[0] < -128 || op->extra[0] > 127)
        return 0;
    switch (op->flags) {
    case OFFSET_CONV:
        return op->weights_size == qfl_nn_times(patch, op->out_c) && qfl_nn_table_ok(nn, op, op->out_c) &&
               qfl_nn_rows_ok(nn, op, qfl_nn_times(2, patch)) && op->scratch_size >= patch;
    case OFFSET_DEPTHWISE:
        return qfl_nn_times(op->in_c, op->multiplier) == op->out_c && op->multiplier != 0 &&
               op->weights_size == qfl_nn_times(taps, op->out_c) && qfl_nn_table_ok(nn, op, op->out_c) &&
               qfl_nn_rows_ok(nn, op, qfl_nn_times(4, taps));
    case OFFSET_AVERAGE:
        return op->in_c == op->out_c && op->dil_h == 1 && op->dil_w == 1 && op->k_h > op->pad_t &&
               op->k_w > op->pad_l && taps <= 1u << 20;
    default: return 0;
    }
}

int qfl_nn_more_ok(const qfl_nn *nn, const op_record *op)
{
    if (op->code == OP_OFFSET)
        return LINKED(OP_OFFSET) && offset_ok(nn, op);
    return 0;
}

int qfl_nn_run_more(const kernel_args *a)
{
    if (LINKED(OP_OFFSET) && a->op->code == OP_OFFSET)
        qfl_nn_offset(a);
    else
        return 0;
    return 1;
}

#endif
