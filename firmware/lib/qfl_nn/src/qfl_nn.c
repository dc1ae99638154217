/* Opening: the metadata entry found through the FlatBuffer, every number of the program checked (qfl_nn_check.c). Running: dispatch. */
#include "qfl_bytes.h"
#include "qfl_nn_more.h"

/* -- a bounds-checked reader for the few tables on the way to our entry; positions are < 2^28, 0 stands for absent -- */

typedef struct reader {
    const uint8_t *p;
    uint32_t n;
} reader;

/* Position that the offset at `at` points to, with `room` bytes behind it; 0 when out of bounds. */
static uint32_t follow(const reader *r, uint32_t at, uint32_t room)
{
    if (at == 0 || at > r->n - 4)
        return 0;
    uint32_t off = qfl_get32(r->p + at);
    if (off > r->n || at + off > r->n || r->n - (at + off) < room)
        return 0;
    return at + off;
}

/* Position of field `id` of the table at `table`, with `room` bytes; 0 when absent. */
static uint32_t field(const reader *r, uint32_t table, uint32_t id, uint32_t room)
{
    if (table == 0 || table > r->n - 4)
        return 0;
    int64_t vtable = (int64_t)table - (int32_t)qfl_get32(r->p + table);
    if (vtable < 0 || vtable > (int64_t)r->n - 4)
        return 0;
    const uint8_t *v = r->p + vtable;
    uint32_t size = qfl_get16(v);
    if (size < 4 || (int64_t)size > (int64_t)r->n - vtable || 4 + 2 * id + 2 > size)
        return 0;
    uint32_t off = qfl_get16(v + 4 + 2 * id);
    return off != 0 && off <= r->n - table && r->n - table - off >= room ? table + off : 0;
}

/* Position of the vector in field `id`, its element count in *count; 0 when absent or not wholly inside. */
static uint32_t vector(const reader *r, uint32_t table, uint32_t id, uint32_t element, uint32_t *count)
{
    uint32_t at = follow(r, field(r, table, id, 4), 4);
    if (at == 0)
        return 0;
    *count = qfl_get32(r->p + at);
    return *count <= (r->n - at - 4) / element ? at + 4 : 0;
}

static qfl_status find_program(qfl_nn *nn)
{
    reader r = {nn->file, nn->file_size};
    uint32_t entries, n, buffers, bytes;
    if (r.n < 64 || r.n >= (1u << 28) || memcmp(r.p + 4, "TFL3", 4) != 0)
        return QFL_E_FORMAT;
    uint32_t root = qfl_get32(r.p);
    if (root == 0 || root > r.n - 4)
        return QFL_E_FORMAT;
    uint32_t list = vector(&r, root, 6, 4, &entries), all = vector(&r, root, 4, 4, &buffers);
    if (list == 0 || all == 0)
        return QFL_E_FORMAT;
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t entry = follow(&r, list + 4 * i, 4), name = vector(&r, entry, 0, 1, &n);
        if (name == 0 || n != 7 || memcmp(r.p + name, "quantfl", 7) != 0)
            continue;
        uint32_t index_at = field(&r, entry, 1, 4), index = index_at != 0 ? qfl_get32(r.p + index_at) : 0;
        if (index >= buffers)
            return QFL_E_FORMAT;
        uint32_t data = vector(&r, follow(&r, all + 4 * index, 4), 0, 1, &bytes);
        if (data == 0 || bytes < sizeof(qfl_nn_header) || (data & 15u) != 0)
            return QFL_E_FORMAT;
        nn->program = (const qfl_nn_header *)(const void *)(r.p + data);
        nn->program_size = bytes;
        return QFL_OK;
    }
    return QFL_E_FORMAT;
}

static int inside(uint32_t at, uint64_t n, uint32_t size) { return at <= size && n <= size - at; }

/* Where the head's records and parameters lie; what is in the records is checked by who runs them. */
static qfl_status read_head(qfl_nn *nn, const qfl_nn_header *h)
{
    uint32_t at = h->head_params, list = h->head_list;
    nn->recompute = h->flags & QFL_NN_RECOMPUTE;
    nn->head_layers = h->head_layers;
    nn->head_param_count = h->head_param_count;
    if (nn->head_layers == 0)
        return nn->head_param_count == 0 ? QFL_OK : QFL_E_FORMAT;
    if (h->head_layer_bytes != QFL_NN_HEAD_LAYER_BYTES || nn->head_layers > 255 || (list & 3u) != 0 ||
        (at & 3u) != 0 || !inside(list, (uint64_t)nn->head_layers * QFL_NN_HEAD_LAYER_BYTES, nn->file_size) ||
        !inside(at, 4ull * nn->head_param_count, nn->file_size))
        return QFL_E_FORMAT;
    nn->head_list = nn->file + list;
    nn->head_params = (const float *)(const void *)(nn->file + at);
    for (uint32_t i = 0; i < nn->head_param_count; i++)
        if ((qfl_get32(nn->file + at + 4 * i) & 0x7F800000u) == 0x7F800000u)
            return QFL_E_FORMAT;
    return QFL_OK;
}

static const op_record *records(const qfl_nn *nn)
{
    return (const op_record *)(const void *)(nn->file + nn->program->ops);
}

QFL_COLD qfl_status qfl_nn_open(qfl_nn *nn, const uint8_t *file, uint32_t size)
{
    memset(nn, 0, sizeof *nn);
    if (file == NULL || ((uintptr_t)file & 15u) != 0)
        return QFL_E_INVAL;
    nn->file = file;
    nn->file_size = size;
    qfl_status status = find_program(nn);
    if (status != QFL_OK)
        return status;
    const qfl_nn_header *h = nn->program;
    if (memcmp(h->magic, "QFLP", 4) != 0)
        return QFL_E_FORMAT;
    if (h->version != QFL_NN_VERSION)
        return QFL_E_VERSION;
    nn->arena_size = h->arena_size;
    nn->op_count = h->op_count;
    nn->cut_op = h->cut_op;
    nn->input_offset = h->input_offset;
    nn->input_size = h->input_size;
    nn->feature_offset = h->feature_offset;
    nn->feature_count = h->feature_count;
    nn->feature_scale = h->feature_scale;
    nn->feature_zero_point = h->feature_zero_point;
    uint32_t ops_at = h->ops;
    if (h->file_size != size || nn->arena_size >= 1u << 28 || nn->op_count == 0 || nn->op_count > 4096 ||
        nn->cut_op > nn->op_count || nn->input_size == 0 || nn->feature_count == 0 || (ops_at & 3u) != 0 ||
        !inside(ops_at, (uint64_t)nn->op_count * sizeof(op_record), size) ||
        !inside(nn->input_offset, nn->input_size, nn->arena_size) ||
        !inside(nn->feature_offset, nn->feature_count, nn->arena_size) || nn->feature_zero_point < -128 ||
        nn->feature_zero_point > 127 || !(nn->feature_scale > 1e-30f && nn->feature_scale < 1e30f))
        return QFL_E_FORMAT;
    for (uint32_t i = 0; i < nn->op_count; i++) {
        uint32_t code = records(nn)[i].code;
        if (code == 0 || code > OP_LAST || ((qfl_nn_operators() >> code) & 1u) == 0)
            return QFL_E_UNSUPPORTED;
        if (!qfl_nn_record_ok(nn, &records(nn)[i]))
            return QFL_E_FORMAT;
    }
    return read_head(nn, h);
}

QFL_COLD qfl_status qfl_nn_output(const qfl_nn *nn, uint32_t op, uint32_t *offset, uint32_t *size)
{
    if (op >= nn->op_count)
        return QFL_E_INVAL;
    *offset = records(nn)[op].dst;
    *size = records(nn)[op].dst_size;
    return QFL_OK;
}

/* Operators left out are no cases at all, so that the linker drops their kernels. */
int qfl_nn_run_op(const kernel_args *a)
{
    uint32_t code = a->op->code;
    if (LINKED(OP_CONV_2D) && code == OP_CONV_2D)
        qfl_nn_conv(a);
    else if (LINKED(OP_DEPTHWISE_CONV_2D) && code == OP_DEPTHWISE_CONV_2D)
        qfl_nn_depthwise(a);
    else if (LINKED(OP_FULLY_CONNECTED) && code == OP_FULLY_CONNECTED)
        qfl_nn_fully_connected(a);
    else if (LINKED(OP_AVERAGE_POOL_2D) && code == OP_AVERAGE_POOL_2D)
        qfl_nn_average_pool(a);
    else if (LINKED(OP_MAX_POOL_2D) && code == OP_MAX_POOL_2D)
        qfl_nn_max_pool(a);
    else if (LINKED(OP_MEAN) && code == OP_MEAN)
        qfl_nn_mean(a);
    else if (LINKED(OP_ADD) && code == OP_ADD)
        qfl_nn_add(a);
    else if (LINKED(OP_PAD) && code == OP_PAD)
        qfl_nn_pad(a);
    else if (LINKED(OP_SOFTMAX) && code == OP_SOFTMAX)
        qfl_nn_softmax(a);
    else if (LINKED(OP_RELU) && code == OP_RELU)
        qfl_nn_relu(a);
    else if (LINKED(OP_CONCATENATION) && code == OP_CONCATENATION)
        qfl_nn_concat(a);
    else if (LINKED(OP_SPLIT) && code == OP_SPLIT)
        qfl_nn_split(a);
    else if (LINKED(OP_STRIDED_SLICE) && code == OP_STRIDED_SLICE)
        qfl_nn_strided(a);
    else if (LINKED(OP_RESIZE_NEAREST) && code == OP_RESIZE_NEAREST)
        qfl_nn_resize(a);
    else if (LINKED(OP_RESIZE_BILINEAR) && code == OP_RESIZE_BILINEAR)
        qfl_nn_resize_bilinear(a);
    else if (LINKED(OP_LUT) && code == OP_LUT)
        qfl_nn_lut(a);
    else if (LINKED(OP_MUL) && code == OP_MUL)
        qfl_nn_mul(a);
    else if (LINKED(OP_PRELU) && code == OP_PRELU)
        qfl_nn_prelu(a);
    else if (LINKED(OP_TRANSPOSE_CONV) && code == OP_TRANSPOSE_CONV)
        qfl_nn_transpose_conv(a);
    else if (code != OP_RESHAPE)
        return (QFL_NN_OPS & QFL_NN_MORE) != 0 && qfl_nn_run_more(a);
    else if (a->op->src != a->op->dst) /* else the plan gave input and output the same place */
        memmove(op_dst(a), op_src(a), a->op->dst_size);
    return 1;
}

QFL_COLD uint32_t qfl_nn_operators(void) { return QFL_NN_OPS & ((2u << OP_LAST) - 2u); }

qfl_status qfl_nn_run(const qfl_nn *nn, uint8_t *arena, uint32_t first, uint32_t end)
{
    if (first > end || end > nn->op_count)
        return QFL_E_INVAL;
    for (uint32_t i = first; i < end; i++) {
        kernel_args a = {nn, &records(nn)[i], arena};
        (void)qfl_nn_run_op(&a); /* qfl_nn_open has refused what is not linked */
    }
    return QFL_OK;
}
