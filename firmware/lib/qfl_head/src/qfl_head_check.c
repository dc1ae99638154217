/* Every number of a list of layers, once: what passes here can be run without looking again. */
#include "qfl_head.h"
#include "qfl_head_layers.h"

enum { MAX_VALUES = 1 << 22 }; /* of one image, so that sums of sizes stay within 32 bits */

/* Windows begin inside the padded image; those of pools hold a pixel and do not overlap. */
static int window_ok(const qfl_head_layer *l)
{
    const uint16_t in[2] = {l->in_h, l->in_w}, out[2] = {l->out_h, l->out_w};
    const uint8_t k[2] = {l->k_h, l->k_w}, stride[2] = {l->stride_h, l->stride_w},
                  pad[2] = {l->pad_t, l->pad_l};
    int pool = l->kind == QFL_HEAD_AVERAGE || l->kind == QFL_HEAD_MAXIMUM;
    for (int i = 0; i < 2; i++) {
        if (in[i] == 0 || out[i] == 0 || k[i] == 0 || stride[i] == 0)
            return 0;
        if ((uint32_t)(out[i] - 1) * stride[i] >= (uint32_t)in[i] + pad[i])
            return 0;
        if (pool && (pad[i] >= k[i] || (stride[i] < k[i] && out[i] != 1)))
            return 0;
    }
    return 1;
}

static int finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(x[i] - x[i] == 0.0f))
            return 0;
    return 1;
}

static int inside(uint32_t at, uint64_t n, uint32_t size) { return at <= size && n <= size - at; }

static qfl_status layer_check(const qfl_head_shape *shape, uint32_t i)
{
    const qfl_head_layer *l = &shape->layer[i];
    if (l->kind < QFL_HEAD_CONV || l->kind > QFL_HEAD_MAXIMUM || l->mode > QFL_HEAD_SCALES ||
        l->activation > QFL_HEAD_RELU6 || !qfl_head_linked(l))
        return QFL_E_UNSUPPORTED;
    if (l->in_c == 0 || l->out_c == 0 || (uint64_t)l->in_h * l->in_w * l->in_c > MAX_VALUES ||
        (uint64_t)l->out_h * l->out_w * l->out_c > MAX_VALUES || !window_ok(l))
        return QFL_E_FORMAT;
    int pool = l->kind == QFL_HEAD_AVERAGE || l->kind == QFL_HEAD_MAXIMUM;
    if ((l->kind != QFL_HEAD_CONV && l->in_c != l->out_c) ||
        (pool && (l->mode != QFL_HEAD_ALL || l->activation != QFL_HEAD_LINEAR)))
        return QFL_E_FORMAT;
    if (l->kind == QFL_HEAD_CONV && qfl_head_pointwise(l) && (l->in_h != l->out_h || l->in_w != l->out_w))
        return QFL_E_FORMAT;
    uint64_t kernel = (uint64_t)qfl_head_taps(l) * l->in_c * (l->kind == QFL_HEAD_CONV ? l->out_c : 1u);
    if (kernel >= 1u << 28)
        return QFL_E_FORMAT;
    if (l->mode == QFL_HEAD_SCALES) {
        if (shape->base == 0 || (l->scales & 3u) != 0 || !inside(l->kernel, kernel, shape->base_size) ||
            !inside(l->scales, 4ull * l->out_c, shape->base_size) ||
            !finite((const float *)(const void *)(shape->base + l->scales), l->out_c))
            return QFL_E_FORMAT;
    }
    if (i != 0 && qfl_head_out_size(l - 1) != qfl_head_in_size(l))
        return QFL_E_FORMAT;
    return QFL_OK;
}

QFL_COLD uint32_t qfl_head_kinds(void) { return QFL_HEAD_KINDS; }

QFL_COLD qfl_status qfl_head_check(const qfl_head_shape *shape)
{
    uint64_t params = 0;
    uint32_t trained = 0, kernel, bias;
    if (shape->layers < 1 || shape->layers > QFL_HEAD_MAX_LAYERS)
        return QFL_E_FORMAT;
    for (uint32_t i = 0; i < shape->layers; i++) {
        qfl_status status = layer_check(shape, i);
        if (status != QFL_OK)
            return status;
        qfl_head_layer_params(shape, i, &kernel, &bias);
        params += kernel + bias;
        trained += bias != 0;
    }
    const qfl_head_layer *last = &shape->layer[shape->layers - 1];
    if (last->out_h != 1 || last->out_w != 1 || last->activation != QFL_HEAD_LINEAR || params >= 1u << 28 ||
        trained > QFL_HEAD_MAX_TRAINED)
        return QFL_E_FORMAT;
    return QFL_OK;
}

QFL_COLD uint32_t qfl_head_param_count(const qfl_head_shape *shape)
{
    uint32_t n = 0, kernel, bias;
    if (qfl_head_check(shape) != QFL_OK)
        return 0;
    for (uint32_t i = 0; i < shape->layers; i++) {
        qfl_head_layer_params(shape, i, &kernel, &bias);
        n += kernel + bias;
    }
    return n;
}
