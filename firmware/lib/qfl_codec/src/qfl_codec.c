/* Which codec, how large, and the way in for all of them. */
#include <string.h>

#include "qfl_codec_internal.h"

uint32_t qfl_codec_values(const qfl_codec_layout *layout)
{
    uint64_t n = 0;
    if (layout->tensors < 1 || layout->tensors > QFL_CODEC_MAX_TENSORS)
        return 0;
    for (uint32_t i = 0; i < layout->tensors; i++) {
        if (layout->size[i] == 0)
            return 0;
        n += layout->size[i];
    }
    return n < (1u << 28) ? (uint32_t)n : 0;
}

int qfl_codec_finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        if ((u & 0x7F800000u) == 0x7F800000u)
            return 0;
    }
    return 1;
}

uint32_t qfl_codec_kinds(void) { return (QFL_CODECS & 0x0Fu) | 1u << QFL_CODEC_FP32; }

QFL_COLD qfl_status qfl_codec_check(const qfl_codec_spec *spec)
{
    if (spec->kind > QFL_CODEC_BQ || !(qfl_codec_kinds() >> spec->kind & 1u))
        return QFL_E_UNSUPPORTED;
    switch (spec->kind) {
    case QFL_CODEC_FP32: return spec->levels == 0 && spec->flags == 0 ? QFL_OK : QFL_E_UNSUPPORTED;
    case QFL_CODEC_BU:
    case QFL_CODEC_BQ:
        return BUCKETS_LINKED && qfl_codec_bucket_bits(spec->levels) != 0 &&
                       (spec->levels <= 64 || !(spec->flags & QFL_CODEC_CODED)) &&
                       (spec->flags & ~(QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS | QFL_CODEC_CODED)) == 0
                   ? QFL_OK
                   : QFL_E_UNSUPPORTED;
    case QFL_CODEC_DZ:
        return spec->levels >= 1 && spec->levels <= 1024 && spec->flags == 0 ? QFL_OK : QFL_E_UNSUPPORTED;
    default: return QFL_E_UNSUPPORTED;
    }
}

QFL_COLD uint32_t qfl_codec_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout)
{
    uint32_t n = qfl_codec_values(layout);
    if (n == 0 || qfl_codec_check(spec) != QFL_OK)
        return 0;
    if (BUCKETS_LINKED && (spec->kind == QFL_CODEC_BU || spec->kind == QFL_CODEC_BQ))
        return qfl_codec_bucket_bound(spec, layout);
    return 1 + 4 * n;
}

QFL_COLD qfl_status qfl_codec_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, float *x,
                                     uint8_t *out, uint32_t cap, uint32_t *size)
{
    uint32_t n = qfl_codec_values(layout);
    *size = 0;
    if (n == 0)
        return QFL_E_INVAL;
    if (qfl_codec_check(spec) != QFL_OK)
        return QFL_E_UNSUPPORTED;
    if (!qfl_codec_finite(x, n))
        return QFL_E_NONFINITE;
    if (LINKED(QFL_CODEC_DZ) && spec->kind == QFL_CODEC_DZ) {
        qfl_codec_dz_form form = {(uint8_t)qfl_codec_dz_step(x, n, spec->levels), 0, 0};
        return qfl_codec_dz_write(layout, qfl_codec_dz_quantise(x, n, form.code, NULL), &form, out, cap,
                                  size);
    }
    if (BUCKETS_LINKED && spec->kind != QFL_CODEC_FP32)
        return qfl_codec_bucket_encode(spec, layout, x, out, cap, size);
    if (cap < 1 + 4 * n)
        return QFL_E_NOMEM;
    out[0] = QFL_CODEC_FP32;
    memcpy(out + 1, x, 4 * n);
    *size = 1 + 4 * n;
    return QFL_OK;
}

static qfl_status fp32_decode(uint32_t values, const uint8_t *in, uint32_t n, float *x)
{
    if (n != 1 + 4 * values || in[0] != QFL_CODEC_FP32)
        return QFL_E_FORMAT;
    memcpy(x, in + 1, 4 * values);
    return qfl_codec_finite(x, values) ? QFL_OK : QFL_E_FORMAT;
}

static qfl_status dz_decode(const qfl_codec_layout *layout, uint32_t values, const uint8_t *in, uint32_t n,
                            uint32_t agreed, float *x)
{
    qfl_codec_dz_form form;
    int32_t symbol;
    qfl_status status = qfl_codec_dz_read(layout, in, n, agreed, (int32_t *)(void *)x, &form);
    if (status != QFL_OK)
        return status;
    float step = qfl_codec_dz_value(form.code);
    for (uint32_t i = 0; i < values; i++) {
        memcpy(&symbol, &x[i], 4);
        x[i] = (float)symbol * step;
    }
    return QFL_OK;
}

QFL_COLD qfl_status qfl_codec_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n,
                                     uint32_t agreed, float *x)
{
    uint32_t values = qfl_codec_values(layout);
    if (values == 0)
        return QFL_E_INVAL;
    if (n < 1)
        return QFL_E_FORMAT;
    uint32_t kind = in[0] & 0x0F;
    if (kind == QFL_CODEC_FP32)
        return fp32_decode(values, in, n, x);
    if (kind == QFL_CODEC_DZ_AGREED)
        kind = QFL_CODEC_DZ;
    if (LINKED(QFL_CODEC_DZ) && kind == QFL_CODEC_DZ)
        return dz_decode(layout, values, in, n, agreed, x);
    if (BUCKETS_LINKED && kind <= QFL_CODEC_BQ && (qfl_codec_kinds() >> kind & 1u))
        return qfl_codec_bucket_decode(layout, in, n, x);
    return QFL_E_UNSUPPORTED;
}
