/*
 * Known-answer test of the kernels as they were linked for this board: small made-up operators, odd channel counts, half of them with
 * every tensor at an odd address, some channels off the fast path. What each writes, with the bytes around it, is hashed and
 * compared with the portable path's hash on the host, which tests/unit/test_nn_ops.py holds against tflite-micro.
 * The hashes are written by tools/selftest_vectors.py.
 */
#include "qfl_nn_selftest.h"

#include "qfl_nn_internal.h"

enum { GUARD = 4, FILLER = 0xA5 };

typedef struct test_case {
    uint8_t code, in_h, in_w, in_c, out_c, k_h, k_w, stride, pad, multiplier, open, odd;
    uint32_t expected;
} test_case;

static const test_case CASES[] = {
    /* code, in h w c, out c, kernel h w, stride, pad, multiplier, open clamp, odd addresses, hash */
    {OP_CONV_2D, 5, 6, 4, 6, 3, 3, 1, 1, 0, 1, 0, 0x9DBF7E9A},
    {OP_CONV_2D, 5, 6, 4, 6, 3, 3, 1, 1, 0, 0, 1, 0xE786BA9A},
    {OP_CONV_2D, 7, 5, 3, 5, 3, 3, 2, 1, 0, 0, 1, 0xBED27A71},
    {OP_CONV_2D, 6, 6, 1, 7, 3, 3, 1, 0, 0, 1, 1, 0x7D655B56},
    {OP_CONV_2D, 6, 5, 8, 3, 2, 1, 2, 0, 0, 1, 0, 0xF67B50D0},
    {OP_CONV_2D, 3, 5, 8, 6, 1, 1, 1, 0, 0, 1, 0, 0xA63B2CCD},
    {OP_CONV_2D, 3, 3, 13, 5, 1, 1, 1, 0, 0, 0, 1, 0x255F92E2},
    {OP_CONV_2D, 4, 4, 5, 4, 1, 1, 2, 0, 0, 1, 1, 0x865EFE1A},
    {OP_DEPTHWISE_CONV_2D, 5, 6, 8, 8, 3, 3, 1, 1, 1, 1, 0, 0xDD9F08EC},
    {OP_DEPTHWISE_CONV_2D, 7, 5, 7, 7, 3, 3, 2, 1, 1, 0, 1, 0x4AC7D619},
    {OP_DEPTHWISE_CONV_2D, 4, 4, 3, 6, 2, 3, 1, 1, 2, 1, 1, 0x758F489D},
    {OP_DEPTHWISE_CONV_2D, 3, 4, 19, 19, 3, 3, 1, 1, 1, 0, 1, 0x9FB0FC01},
    {OP_FULLY_CONNECTED, 1, 1, 33, 5, 1, 1, 1, 0, 0, 0, 1, 0x3FEEE246},
    {OP_FULLY_CONNECTED, 1, 1, 64, 6, 1, 1, 1, 0, 0, 1, 0, 0x6D4DCB3D},
    {OP_AVERAGE_POOL_2D, 5, 6, 5, 5, 3, 2, 2, 1, 0, 1, 1, 0x3C8D7F44},
    {OP_MAX_POOL_2D, 5, 6, 5, 5, 3, 2, 2, 1, 0, 1, 1, 0x600F857F},
    {OP_MEAN, 5, 5, 9, 9, 1, 1, 1, 0, 0, 1, 1, 0xA70D525A},
    {OP_ADD, 3, 4, 7, 7, 1, 1, 1, 0, 0, 0, 1, 0x429717E8},
    {OP_PAD, 3, 4, 5, 5, 1, 1, 1, 1, 0, 1, 1, 0xA4F291D0},
    {OP_SOFTMAX, 1, 1, 11, 11, 1, 1, 1, 0, 0, 1, 1, 0x9488DCAF},
    {OP_MUL, 3, 4, 7, 7, 1, 1, 1, 0, 0, 0, 1, 0xFCB7F8C7},
    {OP_PRELU, 3, 4, 7, 7, 1, 1, 1, 0, 0, 1, 1, 0xBB03D7B8},
    {OP_LUT, 3, 4, 7, 7, 1, 1, 1, 0, 0, 1, 1, 0x1605175A},
    {OP_CONCATENATION, 3, 4, 6, 6, 1, 1, 1, 0, 0, 1, 1, 0xDC1E7FC3},
    {OP_SPLIT, 3, 4, 6, 6, 1, 1, 1, 0, 0, 1, 1, 0xD4BB07A8},
    {OP_STRIDED_SLICE, 3, 4, 6, 6, 1, 1, 1, 0, 0, 1, 1, 0x925B1CE5},
    {OP_RESIZE_NEAREST, 3, 4, 5, 5, 1, 1, 1, 0, 0, 1, 1, 0x5962EE34},
    {OP_TRANSPOSE_CONV, 3, 3, 3, 4, 3, 2, 2, 1, 0, 0, 1, 0x351C7678},
    {OP_RELU, 3, 4, 7, 7, 1, 1, 1, 0, 0, 0, 1, 0xF7F287BA},
#if QFL_NN_OPS >> 20 & 1
    {OP_RESIZE_BILINEAR, 3, 4, 5, 5, 1, 1, 1, 0, 0, 1, 1, 0x6646B141},
#endif
};

enum { COUNT = sizeof CASES / sizeof CASES[0] };

/* One operator laid out in the caller's memory. */
typedef struct bench {
    qfl_nn nn;
    op_record op;
    uint8_t *mem;
    uint32_t used, random;
} bench;

static uint32_t next(bench *b) /* xorshift32, Marsaglia 2003 */
{
    uint32_t x = b->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return b->random = x;
}

/* `n` bytes at an odd address, or at a multiple of 16; between guards. */
static uint32_t place(bench *b, uint32_t n, int odd)
{
    uint32_t at = ((b->used + GUARD + 15u) & ~15u) + (odd ? 1u : 0u);
    b->used = at + n + GUARD;
    return at;
}

static uint32_t place_random(bench *b, uint32_t n, int odd)
{
    uint32_t at = place(b, n, odd);
    for (uint32_t i = 0; i < n; i++)
        b->mem[at + i] = (uint8_t)next(b);
    return at;
}

/* Rows of a convolution: outputs spread over int8; every third channel off the fast path. */
static void place_rows(bench *b, uint32_t count, int32_t first_shift)
{
    op_record *op = &b->op;
    op->table = place(b, count * (uint32_t)sizeof(channel_row), 0);
    op->table_count = count;
    channel_row *row = (channel_row *)(void *)(b->mem + op->table);
    for (uint32_t i = 0; i < count; i++) {
        row[i].bias = (int32_t)(next(b) % 8192) - 4096;
        row[i].multiplier = (int32_t)(0x40000000u | next(b) >> 2);
        row[i].shift = first_shift - (int32_t)(i & 1u) - (i % 3 == 2 ? WIDE : 0);
    }
}

static uint32_t outputs(uint32_t in, uint32_t k, const test_case *c)
{
    switch (c->code) {
    case OP_MEAN: return 1;
    case OP_PAD: return in + 2;
    case OP_TRANSPOSE_CONV: return (in - 1) * c->stride + k - 2u * c->pad;
#if QFL_NN_OPS >> 20 & 1
    case OP_RESIZE_BILINEAR:
#endif
    case OP_RESIZE_NEAREST: return in + 1;
    default: return (in + 2u * c->pad - k) / c->stride + 1;
    }
}

static void lay_out(bench *b, const test_case *c)
{
    op_record *op = &b->op;
    op->code = c->code;
    op->in_h = c->in_h, op->in_w = c->in_w, op->in_c = c->in_c, op->out_c = c->out_c;
    op->k_h = c->k_h, op->k_w = c->k_w, op->stride_h = op->stride_w = c->stride,
    op->pad_t = op->pad_l = c->pad;
    op->dil_h = op->dil_w = 1, op->multiplier = c->multiplier;
    op->out_h = (uint16_t)outputs(c->in_h, c->k_h, c);
    op->out_w = (uint16_t)outputs(c->in_w, c->k_w, c);
    op->src_size = (uint32_t)c->in_h * c->in_w * c->in_c;
    op->dst_size = (uint32_t)op->out_h * op->out_w * c->out_c;
    op->src_zero = -7, op->src2_zero = 11, op->dst_zero = 5;
    op->low = c->open ? -128 : -20;
    op->high = c->open ? 127 : 100;
    op->src = place_random(b, op->src_size, c->odd);
    op->dst = place(b, op->dst_size, c->odd);
}

/* Operators with a kernel: weights, a row per output channel, scratch. */
static void lay_out_kernel(bench *b, const test_case *c)
{
    op_record *op = &b->op;
    uint32_t taps = (uint32_t)c->k_h * c->k_w, patch = taps * c->in_c, padded = (patch + 3u) & ~3u;
    switch (c->code) {
    case OP_CONV_2D:
        op->weights_size = patch * c->out_c;
        place_rows(b, c->out_c, -9);
        op->scratch_size = 9 * padded;
        break;
    case OP_DEPTHWISE_CONV_2D:
        op->weights_size = taps * c->out_c;
        place_rows(b, c->out_c, -8);
        op->scratch_size = (uint32_t)POINTER * taps + c->in_c;
        break;
    case OP_FULLY_CONNECTED:
        op->weights_size = (uint32_t)c->in_c * c->out_c;
        place_rows(b, c->out_c, -9);
        op->scratch_size = 2 * padded;
        break;
    case OP_TRANSPOSE_CONV:
        if (!LINKED(OP_TRANSPOSE_CONV))
            break;
        op->weights_size = taps * c->in_c * c->out_c;
        place_rows(b, c->out_c, -8);
        break;
    default: break;
    }
}

/* Operators that move values about: pieces, strides or indices in the table. */
static void lay_out_movement(bench *b, const test_case *c)
{
    op_record *op = &b->op;
    switch (c->code) {
    case OP_CONCATENATION:
    case OP_SPLIT: /* two pieces of a pixel's channels each; a concatenation's lie one after the other in src */
        if (!LINKED(OP_CONCATENATION) && !LINKED(OP_SPLIT))
            break;
        op->extra[0] = c->in_h * c->in_w;
        op->table = place(b, 2 * (uint32_t)sizeof(channel_row), 0);
        op->table_count = 2;
        for (uint32_t i = 0; i < 2; i++) {
            channel_row *row = (channel_row *)(void *)(b->mem + op->table) + i;
            row->bias = (int32_t)((c->code == OP_SPLIT ? op->dst : op->src) + i * (op->src_size / 3));
            row->multiplier = (int32_t)(c->in_c / 3u * (i + 1u));
        }
        break;
    case OP_STRIDED_SLICE: { /* transposes and turns the channels round */
        if (!LINKED(OP_STRIDED_SLICE))
            break;
        const int32_t numbers[12] = {c->in_c - 1, 1, 1,       c->in_w,           c->in_h, c->in_c,
                                     0,           0, c->in_c, c->in_w * c->in_c, -1,      0};
        op->table = place(b, sizeof numbers, 0);
        op->table_count = 4;
        memcpy(b->mem + op->table, numbers, sizeof numbers);
        break;
    }
    case OP_RESIZE_NEAREST:
        if (!LINKED(OP_RESIZE_NEAREST))
            break;
        op->table_count = (op->out_h + op->out_w + 2u) / 3u;
        op->table = place(b, op->table_count * (uint32_t)sizeof(channel_row), 0);
        for (uint32_t i = 0; i < (uint32_t)op->out_h + op->out_w; i++)
            ((uint32_t *)(void *)(b->mem + op->table))[i] = (i < op->out_h ? i : i - op->out_h) * 3u / 4u;
        break;
#if QFL_NN_OPS >> 20 & 1
    case OP_RESIZE_BILINEAR:
        op->table_count = (uint32_t)op->out_h + op->out_w;
        op->table = place(b, op->table_count * (uint32_t)sizeof(channel_row), 0);
        for (uint32_t i = 0; i < op->table_count; i++) {
            channel_row *mix = (channel_row *)(void *)(b->mem + op->table) + i;
            uint32_t at = (i < op->out_h ? i : i - op->out_h) * 3u / 4u;
            mix->bias = (int32_t)at;
            mix->multiplier = (int32_t)at + (at + 1u < (i < op->out_h ? op->in_h : op->in_w));
            mix->shift = (int32_t)(next(b) & 1023u);
        }
        break;
#endif
    default: break;
    }
}

/* The others: numbers of their own, a second operand. */
static void lay_out_numbers(bench *b, const test_case *c)
{
    op_record *op = &b->op;
    switch (c->code) {
    case OP_MEAN:
        op->extra[0] = 1518500250, op->extra[1] = -4, op->extra[2] = c->in_h * c->in_w;
        op->scratch_size = 4u * c->in_c;
        break;
    case OP_ADD: {
        op->extra[0] = op->extra[1] = 1;
        static const channel_row rows[3] = {{0, 1518500250, 0}, {0, 1073741824, 0}, {0, 1342177280, -18}};
        op->src2_size = op->src_size;
        op->src2 = place_random(b, op->src_size, c->odd);
        op->table = place(b, sizeof rows, 0);
        op->table_count = 3;
        memcpy(b->mem + op->table, rows, sizeof rows);
        break;
    }
    case OP_MUL:
        if (!LINKED(OP_MUL))
            break;
        op->weights_size = c->in_c; /* broadcast over the pixels */
        op->flags = OPERAND_IN_FILE;
        op->extra[0] = op->extra[1] = 1;
        op->extra[2] = -6, op->extra[3] = 1518500250;
        break;
    case OP_PRELU:
        if (!LINKED(OP_PRELU))
            break;
        op->weights_size = c->in_c;
        place_rows(b, 2, -1);
        break;
    case OP_LUT: op->weights_size = 256; break;
    case OP_SOFTMAX: op->extra[0] = 1717986918, op->extra[1] = 23, op->extra[2] = -248; break;
    case OP_RELU: op->extra[0] = 1518500250, op->extra[1] = 1; break;
    default: break;
    }
}

static void lay_out_rest(bench *b, const test_case *c)
{
    op_record *op = &b->op;
    lay_out_kernel(b, c);
    lay_out_movement(b, c);
    lay_out_numbers(b, c);
    if (op->weights_size != 0)
        op->weights = place_random(b, op->weights_size, c->odd);
    if (op->scratch_size != 0)
        op->scratch = place(b, op->scratch_size, 0);
}

static uint32_t fnv1a(const uint8_t *p, uint32_t n)
{
    uint32_t h = 2166136261u;
    while (n-- != 0)
        h = (h ^ *p++) * 16777619u;
    return h;
}

QFL_COLD uint32_t qfl_nn_selftest_count(void) { return COUNT; }

QFL_COLD uint32_t qfl_nn_selftest_hash(uint32_t index, void *mem)
{
    bench b;
    memset(&b, 0, sizeof b);
    memset(mem, FILLER, QFL_NN_SELFTEST_BYTES);
    b.mem = mem;
    b.random = 2463534242u + index;
    b.nn.file = mem;
    lay_out(&b, &CASES[index]);
    lay_out_rest(&b, &CASES[index]);
    if (b.used > QFL_NN_SELFTEST_BYTES)
        return 0;
    kernel_args a = {&b.nn, &b.op, mem};
    if (!qfl_nn_run_op(&a))
        return CASES[index].expected; /* not linked: nothing to test */
    return fnv1a((const uint8_t *)mem + b.op.dst - GUARD, b.op.dst_size + 2 * GUARD);
}

QFL_COLD uint32_t qfl_nn_selftest(void *mem, uint32_t *first)
{
    uint32_t failed = 0;
    *first = 0;
    for (uint32_t i = 0; i < COUNT; i++)
        if (qfl_nn_selftest_hash(i, mem) != CASES[i].expected && failed++ == 0)
            *first = i + 1;
    return failed;
}
