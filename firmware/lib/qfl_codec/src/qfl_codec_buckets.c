/*
 * BU(L) and BQ(L): bucket-uniform and bucket-quantile quantisation, after QuantFL (arXiv 2603.17507).
 *
 * BU: index = min(L - 1, floor((x - lo) / D)), D = (hi - lo) / L, both divisions in float32; midpoint lo + (index + 0.5) * D.
 * BQ: edge i is the value of rank floor(i * n / L), the last one the largest; index = how many of the L - 1 inner edges are
 * not above x; midpoint of its two edges. When D underflows to zero the range is sent as the constant lo.
 */
#include <string.h>

#include "qfl_bytes.h"
#include "qfl_codec_internal.h"
#include "qfl_codec_range.h"

enum {
    HEADER = 2,
    RANGE = 8,
    FLAGS = QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS | QFL_CODEC_CODED,
    MAX_CODED = 64 /* levels: 4 bytes of stack each */
};

/* A constant where only one of the two is linked. */
#define IS_BU(k) (LINKED(QFL_CODEC_BU) && (!LINKED(QFL_CODEC_BQ) || (k) == QFL_CODEC_BU))

QFL_COLD uint32_t qfl_codec_bucket_bits(uint32_t levels)
{
    switch (levels) {
    case 4: return 2;
    case 8: return 3;
    case 16: return 4;
    case 32: return 5;
    case 64: return 6;
    case 256: return 8;
    default: return 0;
    }
}

/* Bytes before the indices of a range that is not constant. */
static uint32_t table_bytes(uint32_t kind, uint32_t flags, uint32_t levels)
{
    if (flags & QFL_CODEC_MEANS)
        return RANGE + 4 * levels;
    return !IS_BU(kind) ? 4 * (levels + 1) : RANGE;
}

QFL_COLD uint32_t qfl_codec_bucket_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout)
{
    uint32_t bits = qfl_codec_bucket_bits(spec->levels), per_tensor = spec->flags & QFL_CODEC_PER_TENSOR;
    uint32_t n = HEADER, edges = !IS_BU(spec->kind) ? 4u * (spec->levels + 1u) : 0;
    for (uint32_t i = 0; i < (per_tensor ? layout->tensors : 1); i++) {
        uint32_t values = per_tensor ? layout->size[i] : qfl_codec_values(layout);
        n += table_bytes(spec->kind, spec->flags, spec->levels) + (values * bits + 7) / 8;
        if (spec->flags &
            QFL_CODEC_CODED) /* what the coder may add at worst, before it has adapted and because it has */
            n += values * bits / 16 + 2 * spec->levels + 16;
    }
    return n + edges; /* BQ keeps its edges at the end while it works */
}

/* One range being coded. */
typedef struct buckets {
    uint32_t kind, levels, bits;
    float lo, step;       /* BU */
    const uint8_t *edges; /* BQ: L + 1 float32 */
} buckets;

static uint32_t index_of(const buckets *b, float x)
{
    if (IS_BU(b->kind)) {
        float t = (x - b->lo) / b->step;
        return t >= (float)b->levels ? b->levels - 1 : (uint32_t)t;
    }
    uint32_t lo = 0, hi = b->levels - 1; /* how many inner edges are <= x */
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (qfl_get_float(b->edges + 4 * (mid + 1)) <= x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static float middle_of(const buckets *b, uint32_t index)
{
    if (IS_BU(b->kind))
        return b->lo + ((float)index + 0.5f) * b->step;
    float lo = qfl_get_float(b->edges + 4 * index), hi = qfl_get_float(b->edges + 4 * index + 4);
    return lo + (hi - lo) * 0.5f;
}

/* The L means, one pass per bucket: no memory, and L passes over a small head. */
static QFL_HOT void put_means(const buckets *b, const float *x, uint32_t n, float lo, float hi, uint8_t *out)
{
    for (uint32_t k = 0; k < b->levels; k++) {
        float offset = 0.0f;
        uint32_t count = 0;
        for (uint32_t i = 0; i < n; i++)
            if (index_of(b, x[i]) == k) {
                offset += x[i] - lo;
                count++;
            }
        float mean = count != 0 ? lo + offset / (float)count : middle_of(b, k);
        mean = mean < lo ? lo : mean > hi ? hi : mean;
        qfl_put_float(out + 4 * k, mean);
    }
}

/* Indices through a binary tree of adaptive probabilities, highest bit first. tree: [levels]. */
static void tree_init(range_bit *tree, uint32_t levels)
{
    static const uint16_t half[1] = {32768};
    range_bits_init(tree, levels, half, 1);
}

static uint32_t code_index(range_coder *c, range_bit *tree, uint32_t bits, uint32_t index)
{
    uint32_t node = 1;
    for (uint32_t k = bits; k-- > 0;)
        node = node << 1 | range_code(c, &tree[node], index >> k & 1);
    return node - (1u << bits);
}

static QFL_HOT uint32_t put_indices(const buckets *b, const float *x, uint32_t n, int coded, uint8_t *out,
                                    uint32_t cap)
{
    uint32_t at = 0, acc = 0, filled = 0;
    if (coded) {
        range_bit tree[MAX_CODED];
        range_coder c;
        tree_init(tree, b->levels);
        range_write_init(&c, out, cap);
        for (uint32_t i = 0; i < n; i++)
            (void)code_index(&c, tree, b->bits, index_of(b, x[i]));
        range_write_end(&c);
        return c.full ? UINT32_MAX : c.at;
    }
    for (uint32_t i = 0; i < n; i++) {
        acc |= index_of(b, x[i]) << filled;
        for (filled += b->bits; filled >= 8; filled -= 8, acc >>= 8)
            out[at++] = (uint8_t)acc;
    }
    if (filled != 0)
        out[at++] = (uint8_t)acc;
    return at;
}

/* last: the coded indices end with the message, so their length need not be sent. scratch: room for the edges of BQ. */
static qfl_status encode_range(const qfl_codec_spec *spec, const float *x, uint32_t n, uint8_t *out,
                               uint32_t cap, int last, uint8_t *scratch, uint32_t *size)
{
    buckets b = {spec->kind, spec->levels, qfl_codec_bucket_bits(spec->levels), 0.0f, 0.0f, scratch};
    uint32_t means = spec->flags & QFL_CODEC_MEANS, coded = spec->flags & QFL_CODEC_CODED;
    uint32_t at = table_bytes(spec->kind, spec->flags, spec->levels), prefix = coded && !last ? 4 : 0;
    float lo = x[0], hi = x[0];
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] < lo)
            lo = x[i];
        if (x[i] > hi)
            hi = x[i];
    }
    float width = hi - lo;
    b.lo = lo;
    b.step = width / (float)spec->levels;
    if (!qfl_codec_finite(&width, 1))
        return QFL_E_RANGE;
    if (!(b.step > 0.0f))
        hi = lo;
    qfl_put_float(out, lo);
    qfl_put_float(out + 4, hi);
    *size = RANGE;
    if (hi == lo)
        return QFL_OK;
    if (!IS_BU(spec->kind))
        qfl_codec_quantile_edges(x, n, spec->levels, scratch);
    if (means) {
        put_means(&b, x, n, lo, hi, out + RANGE);
    } else if (!IS_BU(spec->kind)) { /* lo, hi, then the inner edges */
        memcpy(out + RANGE, scratch + 4, 4 * (spec->levels - 1u));
    }
    uint32_t used = put_indices(&b, x, n, coded != 0, out + at + prefix, cap - at - prefix);
    if (used == UINT32_MAX)
        return QFL_E_NOMEM;
    for (uint32_t k = 0; k < prefix; k++)
        out[at + k] = (uint8_t)(used >> 8 * k);
    *size = at + prefix + used;
    return QFL_OK;
}

QFL_COLD qfl_status qfl_codec_bucket_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout,
                                            const float *x, uint8_t *out, uint32_t cap, uint32_t *size)
{
    int per_tensor = (spec->flags & QFL_CODEC_PER_TENSOR) != 0;
    uint32_t ranges = per_tensor ? layout->tensors : 1, at = HEADER,
             bound = qfl_codec_bucket_bound(spec, layout);
    if (cap < bound)
        return QFL_E_NOMEM;
    uint8_t *scratch = out + bound - (!IS_BU(spec->kind) ? 4u * (spec->levels + 1u) : 0);
    out[0] = (uint8_t)(spec->kind | spec->flags);
    out[1] = (uint8_t)qfl_codec_bucket_bits(spec->levels);
    for (uint32_t r = 0; r < ranges; r++) {
        uint32_t n = per_tensor ? layout->size[r] : qfl_codec_values(layout), used;
        qfl_status s = encode_range(spec, x, n, out + at, (uint32_t)(scratch - out) - at, r + 1 == ranges,
                                    scratch, &used);
        if (s != QFL_OK)
            return s;
        x += n;
        at += used;
    }
    *size = at;
    return QFL_OK;
}

/* What a range of a message holds. */
typedef struct part {
    uint32_t kind, flags, levels, bits, values;
    int last;
} part;

static int ordered(const uint8_t *table, uint32_t count, float lo, float hi, int sorted)
{
    float last = lo;
    for (uint32_t i = 0; i < count; i++) {
        float v = qfl_get_float(table + 4 * i);
        if (!(v >= (sorted ? last : lo) && v <= hi))
            return 0;
        last = v;
    }
    return 1;
}

/* Bytes of the range at `in`, 0 when it is malformed. */
static uint32_t check_range(const part *p, const uint8_t *in, uint32_t left)
{
    if (left < RANGE)
        return 0;
    float lo = qfl_get_float(in), hi = qfl_get_float(in + 4), width = hi - lo;
    if (!qfl_codec_finite(&lo, 1) || !qfl_codec_finite(&hi, 1) || !qfl_codec_finite(&width, 1) || hi < lo)
        return 0;
    if (hi == lo)
        return RANGE;
    uint32_t at = table_bytes(p->kind, p->flags, p->levels), means = p->flags & QFL_CODEC_MEANS;
    if (!(width / (float)p->levels > 0.0f) || at > left ||
        !ordered(in + RANGE, (at - RANGE) / 4, lo, hi, !means))
        return 0;
    if (p->flags & QFL_CODEC_CODED) {
        if (p->last)
            return left;
        if (left - at < 4)
            return 0;
        uint32_t used = qfl_get32(in + at);
        return used <= left - at - 4 ? at + 4 + used : 0;
    }
    uint64_t end = at + ((uint64_t)p->values * p->bits + 7) / 8;
    if (end > left)
        return 0;
    uint32_t spare = (uint32_t)((end - at) * 8 - (uint64_t)p->values * p->bits);
    if (spare != 0 && in[end - 1] >> (8 - spare) != 0)
        return 0;
    return (uint32_t)end;
}

static float value_of(const part *p, const uint8_t *in, float lo, float hi, uint32_t index)
{
    if (p->flags & QFL_CODEC_MEANS)
        return qfl_get_float(in + RANGE + 4 * index);
    if (IS_BU(p->kind))
        return lo + ((float)index + 0.5f) * ((hi - lo) / (float)p->levels);
    float a = index == 0 ? lo : qfl_get_float(in + RANGE + 4 * (index - 1));
    float b = index == p->levels - 1 ? hi : qfl_get_float(in + RANGE + 4 * index);
    return a + (b - a) * 0.5f;
}

/* 0: the coder's bytes are not all used, or end in a zero that no encoder leaves. */
static QFL_HOT int decode_coded(const part *p, const uint8_t *in, uint32_t at, uint32_t n, float lo, float hi,
                                float *x)
{
    range_bit tree[MAX_CODED];
    range_coder c;
    if (n != 0 && in[at + n - 1] == 0)
        return 0;
    tree_init(tree, p->levels);
    range_read_init(&c, in + at, n);
    for (uint32_t i = 0; i < p->values; i++)
        x[i] = value_of(p, in, lo, hi, code_index(&c, tree, p->bits, 0));
    return c.at >= c.end;
}

static QFL_HOT int decode_range(const part *p, const uint8_t *in, uint32_t n, float *x)
{
    float lo = qfl_get_float(in), hi = qfl_get_float(in + 4);
    if (hi == lo) {
        for (uint32_t i = 0; i < p->values; i++)
            x[i] = lo;
        return 1;
    }
    uint32_t at = table_bytes(p->kind, p->flags, p->levels), acc = 0, filled = 0;
    if (p->flags & QFL_CODEC_CODED)
        return p->last ? decode_coded(p, in, at, n - at, lo, hi, x)
                       : decode_coded(p, in, at + 4, n - at - 4, lo, hi, x);
    for (uint32_t i = 0; i < p->values; i++) {
        if (filled < p->bits) {
            acc |= (uint32_t)in[at++] << filled;
            filled += 8;
        }
        x[i] = value_of(p, in, lo, hi, acc & (p->levels - 1));
        acc >>= p->bits;
        filled -= p->bits;
    }
    return 1;
}

QFL_COLD qfl_status qfl_codec_bucket_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n,
                                            float *x)
{
    uint32_t at = HEADER, offset[QFL_CODEC_MAX_TENSORS + 1];
    if (n < HEADER || (in[0] & 0xF0u & ~(uint32_t)FLAGS) != 0 || in[1] > 8 ||
        qfl_codec_bucket_bits(1u << in[1]) == 0)
        return QFL_E_FORMAT;
    part p = {in[0] & 0x0F, in[0] & FLAGS, 1u << in[1], in[1], qfl_codec_values(layout), 0};
    if ((p.flags & QFL_CODEC_CODED) && p.levels > MAX_CODED)
        return QFL_E_FORMAT;
    uint32_t ranges = p.flags & QFL_CODEC_PER_TENSOR ? layout->tensors : 1;
    for (uint32_t r = 0; r < ranges; r++) {
        p.values = p.flags & QFL_CODEC_PER_TENSOR ? layout->size[r] : p.values;
        p.last = r + 1 == ranges;
        uint32_t used = check_range(&p, in + at, n - at);
        if (used == 0)
            return QFL_E_FORMAT;
        offset[r] = at;
        at += used;
    }
    offset[ranges] = at;
    if (at != n)
        return QFL_E_FORMAT;
    for (uint32_t r = 0; r < ranges; r++) {
        p.values = p.flags & QFL_CODEC_PER_TENSOR ? layout->size[r] : p.values;
        p.last = r + 1 == ranges;
        if (!decode_range(&p, in + offset[r], offset[r + 1] - offset[r], x))
            return QFL_E_FORMAT;
        x += p.values;
    }
    return QFL_OK;
}
