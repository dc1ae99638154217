/*
 * BU(L): bucket-uniform quantisation. index = min(L - 1, floor((x - lo) / D)), D = (hi - lo) / L, both divisions in
 * float32; reconstruction lo + (index + 0.5) * D. When D underflows to zero the range is sent as the constant lo.
 */
#include <string.h>

#include "qfl_codec_internal.h"

enum { HEADER = 2, RANGE = 8 };

uint32_t qfl_codec_bu_bits(uint32_t levels)
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

uint32_t qfl_codec_bu_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout)
{
    uint32_t bits = qfl_codec_bu_bits(spec->levels), means = spec->flags & QFL_CODEC_MEANS ? 4u * spec->levels : 0;
    if (!(spec->flags & QFL_CODEC_PER_TENSOR))
        return HEADER + RANGE + means + (qfl_codec_values(layout) * bits + 7) / 8;
    uint32_t n = HEADER;
    for (uint32_t i = 0; i < layout->tensors; i++)
        n += RANGE + means + (layout->size[i] * bits + 7) / 8;
    return n;
}

static uint32_t index_of(float x, float lo, float step, uint32_t levels)
{
    float t = (x - lo) / step;
    uint32_t i = t >= (float)levels ? levels - 1 : (uint32_t)t;
    return i;
}

static qfl_status encode_range(const qfl_codec_spec *spec, const float *x, uint32_t n, uint8_t *out, uint32_t *size)
{
    uint32_t levels = spec->levels, bits = qfl_codec_bu_bits(levels), at = RANGE, acc = 0, filled = 0;
    float lo = x[0], hi = x[0];
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] < lo)
            lo = x[i];
        if (x[i] > hi)
            hi = x[i];
    }
    float width = hi - lo, step = width / (float)levels;
    if (!qfl_codec_finite(&width, 1))
        return QFL_E_RANGE;
    if (!(step > 0.0f))
        hi = lo;
    memcpy(out, &lo, 4);
    memcpy(out + 4, &hi, 4);
    if (hi == lo) {
        *size = at;
        return QFL_OK;
    }
    if (spec->flags & QFL_CODEC_MEANS) {
        for (uint32_t b = 0; b < levels; b++) { /* one pass per bucket: no memory, and L passes over a small head */
            float offset = 0.0f, mean;
            uint32_t count = 0;
            for (uint32_t i = 0; i < n; i++)
                if (index_of(x[i], lo, step, levels) == b) {
                    offset += x[i] - lo;
                    count++;
                }
            mean = count != 0 ? lo + offset / (float)count : lo + ((float)b + 0.5f) * step;
            mean = mean < lo ? lo : mean > hi ? hi : mean;
            memcpy(out + at, &mean, 4);
            at += 4;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        acc |= index_of(x[i], lo, step, levels) << filled;
        for (filled += bits; filled >= 8; filled -= 8, acc >>= 8)
            out[at++] = (uint8_t)acc;
    }
    if (filled != 0)
        out[at++] = (uint8_t)acc;
    *size = at;
    return QFL_OK;
}

qfl_status qfl_codec_bu_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, const float *x, uint8_t *out,
                               uint32_t cap, uint32_t *size)
{
    int per_tensor = (spec->flags & QFL_CODEC_PER_TENSOR) != 0;
    uint32_t ranges = per_tensor ? layout->tensors : 1, at = HEADER;
    if (cap < qfl_codec_bu_bound(spec, layout))
        return QFL_E_NOMEM;
    out[0] = (uint8_t)(spec->kind | spec->flags);
    out[1] = (uint8_t)qfl_codec_bu_bits(spec->levels);
    for (uint32_t r = 0; r < ranges; r++) {
        uint32_t n = per_tensor ? layout->size[r] : qfl_codec_values(layout), used;
        qfl_status s = encode_range(spec, x, n, out + at, &used);
        if (s != QFL_OK)
            return s;
        x += n;
        at += used;
    }
    *size = at;
    return QFL_OK;
}

/* Bytes of the range at `in`, 0 when it is malformed. */
static uint32_t check_range(const uint8_t *in, uint32_t left, uint32_t n, uint32_t bits, int means)
{
    float lo, hi, v;
    if (left < RANGE)
        return 0;
    memcpy(&lo, in, 4);
    memcpy(&hi, in + 4, 4);
    float width = hi - lo;
    if (!qfl_codec_finite(&lo, 1) || !qfl_codec_finite(&hi, 1) || !qfl_codec_finite(&width, 1) || hi < lo)
        return 0;
    if (hi == lo)
        return RANGE;
    uint32_t levels = 1u << bits, at = RANGE + (means ? 4 * levels : 0);
    uint64_t end = at + ((uint64_t)n * bits + 7) / 8;
    if (!(width / (float)levels > 0.0f) || end > left)
        return 0;
    for (uint32_t i = RANGE; i < at; i += 4) {
        memcpy(&v, in + i, 4);
        if (!(v >= lo && v <= hi))
            return 0;
    }
    uint32_t spare = (uint32_t)((end - at) * 8 - (uint64_t)n * bits);
    if (spare != 0 && in[end - 1] >> (8 - spare) != 0)
        return 0;
    return (uint32_t)end;
}

static void decode_range(const uint8_t *in, uint32_t n, uint32_t bits, int means, float *x)
{
    float lo, hi, v;
    memcpy(&lo, in, 4);
    memcpy(&hi, in + 4, 4);
    uint32_t levels = 1u << bits, acc = 0, filled = 0;
    float step = (hi - lo) / (float)levels;
    const uint8_t *table = in + RANGE, *p = table + (means ? 4 * levels : 0);
    for (uint32_t i = 0; i < n; i++) {
        v = lo;
        if (hi != lo) {
            if (filled < bits) {
                acc |= (uint32_t)*p++ << filled;
                filled += 8;
            }
            uint32_t index = acc & (levels - 1);
            acc >>= bits;
            filled -= bits;
            if (means)
                memcpy(&v, table + 4 * index, 4);
            else
                v = lo + ((float)index + 0.5f) * step;
        }
        x[i] = v;
    }
}

qfl_status qfl_codec_bu_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x)
{
    uint32_t flags = in[0] & 0xF0u, at = HEADER;
    if (n < HEADER || (flags & ~(uint32_t)(QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS)) != 0)
        return QFL_E_FORMAT;
    uint32_t bits = in[1], ranges = flags & QFL_CODEC_PER_TENSOR ? layout->tensors : 1;
    int means = (flags & QFL_CODEC_MEANS) != 0;
    if (bits > 8 || qfl_codec_bu_bits(1u << bits) == 0)
        return QFL_E_FORMAT;
    uint32_t offset[QFL_CODEC_MAX_TENSORS];
    for (uint32_t r = 0; r < ranges; r++) {
        uint32_t values = ranges == 1 && !(flags & QFL_CODEC_PER_TENSOR) ? qfl_codec_values(layout) : layout->size[r];
        uint32_t used = check_range(in + at, n - at, values, bits, means);
        if (used == 0)
            return QFL_E_FORMAT;
        offset[r] = at;
        at += used;
    }
    if (at != n)
        return QFL_E_FORMAT;
    for (uint32_t r = 0; r < ranges; r++) {
        uint32_t values = flags & QFL_CODEC_PER_TENSOR ? layout->size[r] : qfl_codec_values(layout);
        decode_range(in + offset[r], values, bits, means, x);
        x += values;
    }
    return QFL_OK;
}
