/*
 * Coded deltas. Any bytes decode or are refused; what decodes is finite. What is encoded decodes, and the symbols
 * read from a DZ delta survive being written again. First byte: layout, agreed step, and whether the rest is code or values.
 */
#include "fuzz.h"

#include "qfl_codec.h"

enum { VALUES = 170 };

static const qfl_codec_layout layouts[4] = {{2, {120, 10}}, {2, {9, 3}}, {4, {80, 8, 72, 9}}, {1, {1}}};

static uint32_t count(const qfl_codec_layout *l)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->tensors; i++)
        n += l->size[i];
    return n;
}

static void decode(const qfl_codec_layout *l, const uint8_t *p, uint32_t n, uint32_t agreed)
{
    uint32_t values = count(l);
    float *x = malloc(sizeof(float) * values);
    uint8_t *q = malloc(n != 0 ? n : 1);
    memcpy(q, p, n);
    if (qfl_codec_decode(l, q, n, agreed, x) == QFL_OK)
        for (uint32_t i = 0; i < values; i++)
            EXPECT(x[i] - x[i] == 0.0f);
    int32_t *symbols = (int32_t *)(void *)x, back[VALUES];
    qfl_codec_dz_form form, same;
    if (qfl_codec_dz_read(l, q, n, agreed, symbols, &form) == QFL_OK && form.code != 0) {
        uint8_t again[8192];
        uint32_t size = 0;
        if (qfl_codec_dz_write(l, symbols, &form, again, sizeof again, &size) == QFL_OK) {
            EXPECT(qfl_codec_dz_read(l, again, size, agreed, back, &same) == QFL_OK);
            EXPECT(memcmp(back, symbols, sizeof *back * values) == 0);
        }
    }
    free(q);
    free(x);
}

static void encode(const qfl_codec_layout *l, uint32_t agreed, input *in)
{
    const qfl_codec_spec spec = {u8(in) % 5, u8(in), (uint16_t)u16(in)};
    float x[VALUES], y[VALUES];
    if (spec.kind == QFL_CODEC_BQ && spec.levels > 16 && count(l) > 12)
        l = &layouts
                [1]; /* finding its edges takes levels x values; a thousand times as many short ones find more */
    uint32_t values = count(l), size = 0, step = 1u + u8(in) % 64u;
    (void)agreed;
    for (uint32_t i = 0; i < values; i++) {
        int8_t v = (int8_t)u8(in);
        x[i] = (float)v * (float)step * 1e-4f;
    }
    uint32_t bound = qfl_codec_check(&spec) == QFL_OK ? qfl_codec_bound(&spec, l) : 64;
    uint8_t *out = malloc(bound != 0 ? bound : 1);
    if (qfl_codec_encode(&spec, l, x, out, bound, &size) == QFL_OK) {
        EXPECT(size <= bound);
        EXPECT(qfl_codec_decode(l, out, size, 0, y) == QFL_OK);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    uint8_t how = u8(&in);
    const qfl_codec_layout *l = &layouts[how & 3];
    uint32_t agreed = how & 4 ? u8(&in) : 0, n;
    if (how & 8) {
        encode(l, agreed, &in);
        return 0;
    }
    const uint8_t *p = bytes(&in, 8192, &n);
    decode(l, p, n, agreed);
    return 0;
}
