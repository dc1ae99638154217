/* One layer forward and backward; private to qfl_head. */
#ifndef QFL_HEAD_LAYERS_H
#define QFL_HEAD_LAYERS_H

#include "qfl_head.h"
#include "qfl_options.h"

/* Layers that are linked (QFL_HEAD_KINDS). Dense layers and 1x1 convolutions are of kind CONV; larger windows are an option apart. */
enum { QFL_HEAD_KIND_SCALES = 1 << 5, QFL_HEAD_KIND_WINDOWS = 1 << 6 };
#define QFL_HEAD_LINKED(bit) ((QFL_HEAD_KINDS & (bit)) != 0)
#define QFL_HEAD_POOLS       (1u << QFL_HEAD_AVERAGE | 1u << QFL_HEAD_MAXIMUM)

static inline uint32_t qfl_head_taps(const qfl_head_layer *l) { return (uint32_t)l->k_h * l->k_w; }

static inline int qfl_head_one_to_one(const qfl_head_layer *l)
{
    return qfl_head_taps(l) == 1 && l->stride_h == 1 && l->stride_w == 1 && l->pad_t == 0 && l->pad_l == 0;
}

static inline int qfl_head_linked(const qfl_head_layer *l)
{
    return QFL_HEAD_LINKED(1u << l->kind) &&
           (l->mode != QFL_HEAD_SCALES || QFL_HEAD_LINKED(QFL_HEAD_KIND_SCALES)) &&
           (l->kind != QFL_HEAD_CONV || QFL_HEAD_LINKED(QFL_HEAD_KIND_WINDOWS) || qfl_head_one_to_one(l));
}

/* Parameters of layer i in its two tensors: kernel (or scales) and bias; zero and zero for pooling. qfl_head.c */
void qfl_head_layer_params(const qfl_head_shape *shape, uint32_t i, uint32_t *kernel, uint32_t *bias);

static inline int qfl_head_is_pool(const qfl_head_layer *l)
{
    return QFL_HEAD_LINKED(QFL_HEAD_POOLS) && (l->kind == QFL_HEAD_AVERAGE || l->kind == QFL_HEAD_MAXIMUM);
}
static inline int qfl_head_is_scales(const qfl_head_layer *l)
{
    return QFL_HEAD_LINKED(QFL_HEAD_KIND_SCALES) && l->mode == QFL_HEAD_SCALES;
}
static inline int qfl_head_is_depthwise(const qfl_head_layer *l)
{
    return QFL_HEAD_LINKED(1u << QFL_HEAD_DEPTHWISE) && l->kind == QFL_HEAD_DEPTHWISE;
}

/* What a layer reads: int8 features (the first layer) or the float row below it, in whose place its error goes. */
typedef struct qfl_head_source {
    const int8_t *q; /* NULL: floats */
    float *x;
    float scale;
    int32_t zero_point;
    float *room; /* qfl_head_room floats */
} qfl_head_source;

/* A layer's parameters, or its place in the gradient. */
typedef struct qfl_head_part {
    float *kernel; /* or scales */
    float *bias;
} qfl_head_part;

/* What backward passes need besides: error of the layer's outputs; below: activation of the layer under it, -1: there is none. */
typedef struct qfl_head_error {
    const float *d; /* [out_h][out_w][out_c] before the activation */
    float *apart;   /* [in_h][in_w][in_c] where qfl_head_error_apart asks for it */
    int below;
} qfl_head_error;

static inline uint32_t qfl_head_in_size(const qfl_head_layer *l)
{
    return (uint32_t)l->in_h * l->in_w * l->in_c;
}
static inline uint32_t qfl_head_out_size(const qfl_head_layer *l)
{
    return (uint32_t)l->out_h * l->out_w * l->out_c;
}

/* Of kind CONV: each output reads the pixel at its own place: dense layers and 1x1 convolutions of stride 1. */
static inline int qfl_head_pointwise(const qfl_head_layer *l)
{
    return !QFL_HEAD_LINKED(QFL_HEAD_KIND_WINDOWS) || qfl_head_one_to_one(l);
}

/* Whether the error of the inputs cannot replace them one by one, for they are read again. */
static inline int qfl_head_error_apart(const qfl_head_layer *l)
{
    return l->kind == QFL_HEAD_DEPTHWISE ||
           (l->kind == QFL_HEAD_CONV && (l->mode == QFL_HEAD_SCALES || !qfl_head_pointwise(l)));
}

static inline float qfl_head_activate(float y, int activation)
{
    if (activation == QFL_HEAD_LINEAR)
        return y;
    if (!(y > 0.0f))
        return 0.0f;
    return activation == QFL_HEAD_RELU6 && y > 6.0f ? 6.0f : y;
}

/* The error below an activation, from the error above it and its output. */
static inline float qfl_head_passed(float y, float error, int activation)
{
    if (activation == QFL_HEAD_LINEAR)
        return error;
    return y > 0.0f && (activation == QFL_HEAD_RELU || y < 6.0f) ? error : 0.0f;
}

/* n values from position `at`: where they lie, or dequantised into room. */
const float *qfl_head_values(const qfl_head_source *s, uint32_t at, uint32_t n, float *room);

/* The inputs of output (y, x) of a convolution, taps outside as zeros: where they lie, or in room. */
const float *qfl_head_patch(const qfl_head_layer *l, const qfl_head_source *s, uint32_t y, uint32_t x);

/* Floats of room that this layer takes: the patch, and in mode SCALES the sums behind it. first: it reads int8. */
uint32_t qfl_head_room(const qfl_head_layer *l, int first);

/* Position of tap (i, j) of output (y, x) in the image, in values; 0 when it lies outside. */
int qfl_head_tap(const qfl_head_layer *l, uint32_t y, uint32_t x, uint32_t i, uint32_t j, uint32_t *at);

/* x = error below the activation, from the error collected apart. */
void qfl_head_settle(const qfl_head_layer *l, const qfl_head_source *s, const qfl_head_error *e);

/* z[i] = exp(z[i] - max) ascending; returns their sum, added up in that order. */
float qfl_head_exp_sum(float *z, uint32_t n, float max);

void qfl_head_conv_forward(const qfl_head_layer *l, qfl_head_part w, const qfl_head_source *s, float *y);
void qfl_head_conv_backward(const qfl_head_layer *l, qfl_head_part w, qfl_head_part grad,
                            const qfl_head_source *s, const qfl_head_error *e);
void qfl_head_depthwise_forward(const qfl_head_layer *l, qfl_head_part w, const qfl_head_source *s, float *y);
void qfl_head_depthwise_backward(const qfl_head_layer *l, qfl_head_part w, qfl_head_part grad,
                                 const qfl_head_source *s, const qfl_head_error *e);
/* Both kinds of convolution with a fixed int8 kernel. */
void qfl_head_scales_forward(const qfl_head_shape *shape, const qfl_head_layer *l, qfl_head_part w,
                             const qfl_head_source *s, float *y);
void qfl_head_scales_backward(const qfl_head_shape *shape, const qfl_head_layer *l, qfl_head_part w,
                              qfl_head_part grad, const qfl_head_source *s, const qfl_head_error *e);
void qfl_head_pool_forward(const qfl_head_layer *l, const qfl_head_source *s, float *y);
void qfl_head_pool_backward(const qfl_head_layer *l, const qfl_head_source *s, const qfl_head_error *e);

/* As qfl_head_gradient for two samples, one after the other; *loss grows by the loss of each. The shape must be qfl_head_pairs. */
void qfl_head_gradient_pair(const qfl_head_shape *shape, const float *w, const int8_t *const q[2],
                            float scale, int32_t zero_point, const uint16_t label[2], float weight,
                            float *grad, float *scratch, float *loss);

#endif
