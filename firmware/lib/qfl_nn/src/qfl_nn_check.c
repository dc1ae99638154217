/* Checks of a program's records: what passes here can be run without looking again. */
#include "qfl_nn_more.h"
#include "qfl_nn_rules.h"

/* Every size it is compared with is below this. */
enum { TOO_MUCH = 0x7FFFFFFF };

QFL_NN_RULE uint32_t qfl_nn_times(uint32_t a, uint32_t b)
{
    uint64_t n = (uint64_t)a * b;
    return n < TOO_MUCH ? (uint32_t)n : (uint32_t)TOO_MUCH;
}

static int inside(uint32_t at, uint32_t n, uint32_t size) { return at <= size && n <= size - at; }

QFL_NN_RULE int qfl_nn_table_ok(const qfl_nn *nn, const op_record *op, uint32_t rows)
{
    return op->table_count == rows && (op->table & 3u) == 0 &&
           inside(op->table, qfl_nn_times(rows, sizeof(channel_row)), nn->file_size);
}

/* Shifts of every row within what the arithmetic takes, and no sum of `terms` products can overflow. */
QFL_NN_RULE QFL_HOT int qfl_nn_rows_ok(const qfl_nn *nn, const op_record *op, uint32_t terms)
{
    const channel_row *row = (const channel_row *)(const void *)(nn->file + op->table);
    uint32_t limit = 0x7FFFFFFFu - (terms < 65536 ? terms : 65536) * 128 * 128;
#pragma GCC unroll 4
    for (const channel_row *end = row + op->table_count; row != end; row++) {
        uint32_t shift = (uint32_t)row->shift + 31u; /* 0..61, or by WIDE less */
        if ((shift > 61u && shift + WIDE > 61u) || (uint32_t)row->bias + limit > 2u * limit)
            return 0;
    }
    return terms < 65536;
}

/* None of the rows has a shift for wide sums: the operators of two tensors have none. */
static int narrow_ok(const qfl_nn *nn, const op_record *op)
{
    const channel_row *row = (const channel_row *)(const void *)(nn->file + op->table);
    for (uint32_t i = 0; i < op->table_count; i++)
        if (row[i].shift < -31)
            return 0;
    return 1;
}

QFL_NN_RULE int qfl_nn_images_ok(const op_record *op)
{
    return qfl_nn_times((uint32_t)op->in_h * op->in_w, op->in_c) == op->src_size && op->src_size != 0 &&
           qfl_nn_times((uint32_t)op->out_h * op->out_w, op->out_c) == op->dst_size && op->dst_size != 0;
}

/* Every window begins inside the padded input; a tap outside of the input is padding. */
QFL_NN_RULE int qfl_nn_window_ok(const op_record *op)
{
    return qfl_nn_images_ok(op) && op->k_h >= 1 && op->k_w >= 1 && op->stride_h >= 1 && op->stride_w >= 1 &&
           op->dil_h >= 1 && op->dil_w >= 1 &&
           (uint32_t)(op->out_h - 1) * op->stride_h < (uint32_t)op->in_h + op->pad_t &&
           (uint32_t)(op->out_w - 1) * op->stride_w < (uint32_t)op->in_w + op->pad_l;
}

/* Four pixels as interleaved halfwords and one as bytes; the portable path needs less and gets the same. */
static uint32_t conv_scratch(uint32_t patch, int pointwise)
{
    return qfl_nn_times((patch + 3u) & ~3u, pointwise ? 8 : 9);
}

/* Element i of operand 2 is number (i / extra[0]) % size, of operand 1 (i / extra[1]) % size; both at most as large as the output. */
static int operands_ok(const op_record *op)
{
    uint32_t second = (op->flags & OPERAND_IN_FILE) != 0 ? op->weights_size : op->src2_size;
    return op->dst_size != 0 && op->src_size != 0 && second != 0 && op->src_size <= op->dst_size &&
           second <= op->dst_size && op->extra[0] >= 1 && op->extra[1] >= 1 &&
           ((op->flags & OPERAND_IN_FILE) == 0 || op->src2_size == 0);
}

QFL_NN_RULE int qfl_nn_apart(uint32_t a, uint32_t an, uint32_t b, uint32_t bn)
{
    return an == 0 || bn == 0 || a + an <= b || b + bn <= a;
}

/* Pieces of CONCATENATION and SPLIT: offset in the arena, bytes; extra[0] times all of them make up the `whole` bytes at `at`. */
static int pieces_ok(const qfl_nn *nn, const op_record *op, uint32_t whole, uint32_t at)
{
    const channel_row *row = (const channel_row *)(const void *)(nn->file + op->table);
    uint32_t bytes = 0, outer = (uint32_t)op->extra[0];
    if (op->table_count == 0 || op->table_count > 4096 || !qfl_nn_table_ok(nn, op, op->table_count) ||
        outer == 0)
        return 0;
    for (uint32_t i = 0; i < op->table_count; i++) {
        uint32_t n = qfl_nn_times(outer, (uint32_t)row[i].multiplier);
        if (row[i].multiplier <= 0 || !inside((uint32_t)row[i].bias, n, nn->arena_size) ||
            n > whole - bytes || !qfl_nn_apart((uint32_t)row[i].bias, n, at, whole))
            return 0;
        bytes += n;
    }
    return bytes == whole;
}

/* Five extents and strides: every element read lies inside the input. */
static int strides_ok(const qfl_nn *nn, const op_record *op)
{
    if (!qfl_nn_table_ok(nn, op, 4))
        return 0;
    const int32_t *v = (const int32_t *)(const void *)(nn->file + op->table); /* base, extents, strides */
    uint64_t n = 1;
    int64_t low = v[0], high = v[0];
    for (uint32_t i = 0; i < STRIDED_DIMS; i++) {
        int64_t extent = v[1 + i], stride = v[1 + STRIDED_DIMS + i];
        if (extent < 1 || extent > 1 << 24 || stride < -(1 << 24) || stride > 1 << 24)
            return 0;
        n *= (uint64_t)extent;
        if (n > 1u << 24)
            return 0;
        if (stride < 0)
            low += (extent - 1) * stride;
        else
            high += (extent - 1) * stride;
    }
    return n == op->dst_size && low >= 0 && high < (int64_t)op->src_size;
}

/* Input row of every output row, then column of every column, packed into the table. */
static int indices_ok(const qfl_nn *nn, const op_record *op)
{
    uint32_t count = (uint32_t)op->out_h + op->out_w;
    if (!qfl_nn_table_ok(nn, op, (count + 2) / 3))
        return 0;
    const uint32_t *index = (const uint32_t *)(const void *)(nn->file + op->table);
    for (uint32_t i = 0; i < count; i++)
        if (index[i] >= (i < op->out_h ? op->in_h : op->in_w))
            return 0;
    return 1;
}

/* Input rows and columns that every output row and column is mixed from, and how. */
static int mixes_ok(const qfl_nn *nn, const op_record *op)
{
    uint32_t count = (uint32_t)op->out_h + op->out_w;
    if (!qfl_nn_table_ok(nn, op, count))
        return 0;
    const channel_row *mix = (const channel_row *)(const void *)(nn->file + op->table);
    for (uint32_t i = 0; i < count; i++)
        if (mix[i].bias < 0 || mix[i].multiplier < mix[i].bias ||
            mix[i].multiplier >= (i < op->out_h ? op->in_h : op->in_w) || mix[i].shift < 0 ||
            mix[i].shift > 1 << FRACTION_BITS)
            return 0;
    return 1;
}

static int kernel_ok(const qfl_nn *nn, const op_record *op)
{
    uint32_t taps = qfl_nn_times(op->k_h, op->k_w);
    switch (op->code) {
    case OP_CONV_2D: {
        uint32_t patch = qfl_nn_times(taps, op->in_c);
        int pointwise =
            taps == 1 && op->stride_h == 1 && op->stride_w == 1 && op->pad_t == 0 && op->pad_l == 0;
        if (!LINKED(OP_CONV_2D) || (pointwise && (op->in_h != op->out_h || op->in_w != op->out_w)))
            return 0;
        return qfl_nn_window_ok(op) && op->weights_size == qfl_nn_times(patch, op->out_c) &&
               qfl_nn_table_ok(nn, op, op->out_c) && qfl_nn_rows_ok(nn, op, patch) &&
               op->scratch_size >= conv_scratch(patch, pointwise) && (op->scratch & 3u) == 0;
    }
    case OP_DEPTHWISE_CONV_2D:
        return LINKED(OP_DEPTHWISE_CONV_2D) && qfl_nn_window_ok(op) &&
               qfl_nn_times(op->in_c, op->multiplier) == op->out_c && op->multiplier != 0 &&
               op->weights_size == qfl_nn_times(taps, op->out_c) && qfl_nn_table_ok(nn, op, op->out_c) &&
               qfl_nn_rows_ok(nn, op, taps) && op->scratch_size >= qfl_nn_times(POINTER, taps) + op->in_c &&
               op->scratch % POINTER == 0;
    case OP_FULLY_CONNECTED:
        return LINKED(OP_FULLY_CONNECTED) && op->in_c == op->src_size && op->out_c == op->dst_size &&
               op->in_c != 0 && op->out_c != 0 && op->weights_size == qfl_nn_times(op->in_c, op->out_c) &&
               qfl_nn_table_ok(nn, op, op->out_c) && qfl_nn_rows_ok(nn, op, op->in_c) &&
               op->scratch_size >= 2 * ((op->in_c + 3u) & ~3u) && (op->scratch & 3u) == 0;
    case OP_AVERAGE_POOL_2D:
    case OP_MAX_POOL_2D:
        /* Each window must hold at least one input: the first tap may lie in the padding, the last may not be above it. */
        return qfl_nn_window_ok(op) && op->in_c == op->out_c && op->dil_h == 1 && op->dil_w == 1 &&
               op->k_h > op->pad_t && op->k_w > op->pad_l && taps <= 1u << 20;
    case OP_MEAN:
        return LINKED(OP_MEAN) && qfl_nn_images_ok(op) && op->out_w == 1 && op->in_c == op->out_c &&
               op->in_h % op->out_h == 0 && op->extra[2] == (int32_t)(op->in_h / op->out_h) * op->in_w &&
               op->extra[2] <= 1 << 20 && op->extra[1] >= -31 && op->extra[1] <= 30 &&
               op->scratch_size >= 4u * op->in_c && (op->scratch & 3u) == 0;
    case OP_ADD:
        return LINKED(OP_ADD) && operands_ok(op) && qfl_nn_table_ok(nn, op, 3) && qfl_nn_rows_ok(nn, op, 0) &&
               narrow_ok(nn, op) && ((const channel_row *)(const void *)(nn->file + op->table))[2].shift <= 0;
    case OP_MUL: return LINKED(OP_MUL) && operands_ok(op) && op->extra[2] >= -31 && op->extra[2] <= 30;
    case OP_PRELU:
        return LINKED(OP_PRELU) && op->src_size == op->dst_size && op->weights_size != 0 &&
               qfl_nn_table_ok(nn, op, 2) && qfl_nn_rows_ok(nn, op, 0) && narrow_ok(nn, op);
    case OP_LUT: return LINKED(OP_LUT) && op->src_size == op->dst_size && op->weights_size == 256;
    case OP_CONCATENATION: return LINKED(OP_CONCATENATION) && pieces_ok(nn, op, op->dst_size, op->dst);
    case OP_SPLIT: return LINKED(OP_SPLIT) && pieces_ok(nn, op, op->src_size, op->src);
    case OP_STRIDED_SLICE:
        return LINKED(OP_STRIDED_SLICE) && strides_ok(nn, op) &&
               qfl_nn_apart(op->src, op->src_size, op->dst, op->dst_size);
    case OP_RESIZE_NEAREST:
        return LINKED(OP_RESIZE_NEAREST) && qfl_nn_images_ok(op) && op->in_c == op->out_c &&
               indices_ok(nn, op) && qfl_nn_apart(op->src, op->src_size, op->dst, op->dst_size);
    case OP_RESIZE_BILINEAR:
        return LINKED(OP_RESIZE_BILINEAR) && qfl_nn_images_ok(op) && op->in_c == op->out_c &&
               mixes_ok(nn, op) && qfl_nn_apart(op->src, op->src_size, op->dst, op->dst_size);
    case OP_TRANSPOSE_CONV:
        return LINKED(OP_TRANSPOSE_CONV) && qfl_nn_images_ok(op) && op->k_h >= 1 && op->k_w >= 1 &&
               op->stride_h >= 1 && op->stride_w >= 1 &&
               op->weights_size == qfl_nn_times(qfl_nn_times(taps, op->in_c), op->out_c) &&
               qfl_nn_table_ok(nn, op, op->out_c) && qfl_nn_rows_ok(nn, op, qfl_nn_times(2 * taps, op->in_c));
    case OP_PAD:
        return LINKED(OP_PAD) && qfl_nn_images_ok(op) && op->in_c == op->out_c &&
               (uint32_t)op->pad_t + op->in_h <= op->out_h && (uint32_t)op->pad_l + op->in_w <= op->out_w &&
               qfl_nn_apart(op->src, op->src_size, op->dst, op->dst_size);
    case OP_RESHAPE: return op->src_size == op->dst_size;
    case OP_SOFTMAX:
        return LINKED(OP_SOFTMAX) && op->src_size == op->dst_size && op->out_c != 0 &&
               op->src_size % op->out_c == 0 && op->out_c <= 4096 && op->extra[0] > 0 && op->extra[1] >= 0 &&
               op->extra[1] <= 31 && op->extra[2] <= 0 &&
               op->extra[2] >=
                   -(0x7FFFFFFF >> op->extra[1]); /* shifted differences stay negative: no sum is 0 */
    case OP_RELU:
        return LINKED(OP_RELU) && op->src_size == op->dst_size && op->extra[1] >= -31 && op->extra[1] <= 30;
    default: return (QFL_NN_OPS & QFL_NN_MORE) != 0 && qfl_nn_more_ok(nn, op);
    }
}

static int zero_ok(int32_t z) { return z >= -128 && z <= 127; }

/* Scratch may hold pointers: no tensor of the operator may lie over it. */
static int scratch_ok(const op_record *op)
{
    return qfl_nn_apart(op->scratch, op->scratch_size, op->src, op->src_size) &&
           qfl_nn_apart(op->scratch, op->scratch_size, op->src2, op->src2_size) &&
           qfl_nn_apart(op->scratch, op->scratch_size, op->dst, op->dst_size);
}

QFL_COLD int qfl_nn_record_ok(const qfl_nn *nn, const op_record *op)
{
    return inside(op->src, op->src_size, nn->arena_size) && inside(op->src2, op->src2_size, nn->arena_size) &&
           inside(op->dst, op->dst_size, nn->arena_size) &&
           inside(op->scratch, op->scratch_size, nn->arena_size) &&
           inside(op->weights, op->weights_size, nn->file_size) && zero_ok(op->src_zero) &&
           zero_ok(op->src2_zero) && zero_ok(op->dst_zero) && scratch_ok(op) && op->low >= -128 &&
           op->low <= 127 && op->high >= -128 && op->high <= 127 && kernel_ok(nn, op);
}
