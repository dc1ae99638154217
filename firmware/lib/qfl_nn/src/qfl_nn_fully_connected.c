/* FULLY_CONNECTED: one input row against all rows of weights, four at a time. */
#include "qfl_nn_internal.h"

void qfl_nn_fully_connected(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const int8_t *x = op_src(a), *w = op_weights(a);
    int8_t *y = op_dst(a);
    uint32_t o = 0, k = op->in_c;
    for (; o + 4 <= op->out_c; o += 4, row += 4, w += 4 * k) {
        int32_t acc[4] = {row[0].bias, row[1].bias, row[2].bias, row[3].bias};
        qfl_nn_dot1x4(x, w, k, k, acc);
        for (uint32_t i = 0; i < 4; i++)
            y[o + i] = finish(acc[i], row + i, op);
    }
    for (; o < op->out_c; o++, row++, w += k)
        y[o] = finish(qfl_nn_dot(x, w, k, row->bias), row, op);
}
