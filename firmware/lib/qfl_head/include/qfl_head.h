/*
 * qfl_head: the trainable last layers: convolutions (1x1, k x k, depthwise) and dense layers with bias and ReLU or ReLU6, average
 * and maximum pooling between them, softmax cross-entropy on top.
 *
 * The layers are a list of 32-byte records that may lie in flash. Parameters are float32, per layer the kernel
 * [k_h][k_w][in][out] (depthwise [k_h][k_w][channels]) row-major, then the bias [out]. A layer in mode QFL_HEAD_SCALES keeps its
 * int8 kernel where it is, in flash, and trains one scale (relative, 1 at first) and one bias per output channel.
 * Inputs are cached int8 features, real = (q - zero_point) * scale. Training is minibatch SGD with momentum, weight decay and
 * FedProx (Li et al. 2020, eq. 2):
 *     g = dL/dw + weight_decay * w + prox * (w - w_global);  v = momentum * v + g;  w = w - lr * v
 * L is the mean cross-entropy over the minibatch. All sums run in one fixed order (docs/TRAINING.md) in IEEE-754 single
 * precision with our own exp and log, so every processor computes the same bytes (build with -ffp-contract=off).
 *
 * The gradient is added straight into the momentum buffer, samples are visited in an order computed from the seed
 * without an index array: RAM beyond parameters, momentum and features is qfl_head_scratch_size() bytes.
 */
#ifndef QFL_HEAD_H
#define QFL_HEAD_H

#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_HEAD_MAX_LAYERS = 12, QFL_HEAD_MAX_TRAINED = 8, QFL_HEAD_LAYER_BYTES = 32 };

typedef enum qfl_head_kind {
    QFL_HEAD_CONV = 1,      /* k_h x k_w; a dense layer is a 1x1 convolution of one pixel */
    QFL_HEAD_DEPTHWISE = 2, /* one kernel per channel */
    QFL_HEAD_AVERAGE = 3, /* mean over the part of the window inside the image; windows must not overlap */
    QFL_HEAD_MAXIMUM = 4 /* of ties the first, row by row; windows must not overlap */
} qfl_head_kind;

typedef enum qfl_head_activation {
    QFL_HEAD_LINEAR = 0,
    QFL_HEAD_RELU = 1,
    QFL_HEAD_RELU6 = 2
} qfl_head_activation;

typedef enum qfl_head_mode {
    QFL_HEAD_ALL = 0, /* kernel and bias */
    QFL_HEAD_SCALES = 1 /* a scale and a bias per output channel */
} qfl_head_mode;

/* One layer, little-endian as in a package. Pixels of images are row by row, channels together. */
typedef struct qfl_head_layer {
    uint8_t kind, activation, mode, reserved; /* activation: of convolutions */
    uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
    uint8_t k_h, k_w, stride_h, stride_w, pad_t, pad_l; /* a tap outside of the image counts as 0 */
    uint16_t reserved2;
    /* SCALES: offset from shape.base of the int8 kernel, [out][k_h][k_w][in] or depthwise [k_h][k_w][channels] */
    uint32_t kernel;
    uint32_t scales; /* SCALES: offset from shape.base of its float32 scales [out]; a multiple of 4 */
} qfl_head_layer;

/* The last layer has K outputs (classes), one pixel and no activation; it may be a pool of class scores. */
typedef struct qfl_head_shape {
    uint32_t layers; /* 1..QFL_HEAD_MAX_LAYERS */
    const qfl_head_layer *layer; /* [layers] 4-byte aligned */
    /* what offsets count from: the package, 4-byte aligned; NULL without SCALES layers */
    const uint8_t *base;
    uint32_t base_size; /* bytes */
} qfl_head_shape;

typedef struct qfl_head_config {
    float lr; /* learning rate, > 0 */
    float momentum; /* 0 <= momentum < 1; starts at zero in every fit */
    float weight_decay; /* >= 0 */
    float prox; /* FedProx mu, >= 0 */
    uint32_t epochs; /* passes over the local samples, >= 1 */
    uint32_t batch; /* samples per step, >= 1; the last batch of an epoch may be smaller */
    uint32_t seed; /* of the order of samples */
    /* 0: train on all; k >= 2: every k-th sample (index k-1, 2k-1, ...) is held back for evaluation */
    uint32_t holdout;
} qfl_head_config;

/* Cached samples: row i of `q` is the features of sample i, labels[i] < K its class. */
typedef struct qfl_head_data {
    const int8_t *q; /* [count][F]; with one_row [F], of the sample about to be visited */
    const uint16_t *labels; /* [count] */
    uint32_t count;
    float scale;
    int32_t zero_point;
    uint32_t one_row; /* 1: features are computed again for every visit; the caller puts them into q before */
} qfl_head_data;

typedef struct qfl_head_score {
    uint32_t count; /* samples evaluated */
    uint32_t correct; /* arg max equals the label; ties go to the lowest class */
    float loss; /* mean cross-entropy, nats; 0 when count is 0 */
} qfl_head_score;

/* What the order of an epoch's samples is computed from. */
typedef struct qfl_head_epoch {
    uint32_t count, mask, shift, add[3], multiply[3];
} qfl_head_epoch;

/* A fit in progress. Set by qfl_head_fit_begin; callers may read `loss` and `epoch`. */
typedef struct qfl_head_fit {
    qfl_head_shape shape;
    qfl_head_config config;
    qfl_head_data data;
    float *w; /* [params] trained in place */
    const float *w_global; /* [params] for the FedProx term; may be NULL when prox is 0 */
    float *v; /* [params] momentum and gradient */
    float *scratch; /* qfl_head_scratch_size bytes */
    uint32_t params;
    uint32_t train_count; /* samples that are not held back */
    uint32_t epoch; /* epochs completed */
    uint32_t position; /* next sample of the epoch's order */
    uint32_t in_batch; /* samples added to the gradient so far */
    float loss_sum; /* of the epoch under way */
    float loss; /* mean cross-entropy of the last completed epoch, measured while training */
    uint32_t pairs; /* 1: two samples of a batch may be taken at once */
    qfl_head_epoch order;
} qfl_head_fit;

/* The layers that this build can train (QFL_HEAD_KINDS, qfl_options.h). */
uint32_t qfl_head_kinds(void);

/* Whether every number in the list is one that can be run: QFL_OK, QFL_E_FORMAT, or QFL_E_UNSUPPORTED for a kind or mode. */
qfl_status qfl_head_check(const qfl_head_shape *shape);

uint32_t qfl_head_features(const qfl_head_shape *shape); /* F: int8 values of a sample */
uint32_t qfl_head_classes(const qfl_head_shape *shape); /* K */

/* Number of float32 parameters; 0 when qfl_head_check refuses the shape. */
uint32_t qfl_head_param_count(const qfl_head_shape *shape);

/*
 * Sizes of the trained tensors in their order, kernel (or scales) and bias of every layer but pools: the layout of a delta. Writes
 * them to size [2 * QFL_HEAD_MAX_TRAINED] and returns how many they are.
 */
uint32_t qfl_head_layout(const qfl_head_shape *shape, uint32_t *size);

/*
 * The rows in which a number that is added to all classes changes nothing after the softmax: kernel and bias of a last dense layer
 * that is trained wholly and has two classes or more. Returns how many parameters at the end they are, in rows of *columns
 * classes; 0, and *columns is 0: the last layer is another one.
 */
uint32_t qfl_head_centred(const qfl_head_shape *shape, uint32_t *columns);

/* 1: one dense layer, trained wholly. There is a closed form for such a head only. */
int qfl_head_one_dense(const qfl_head_shape *shape);

/*
 * Bytes of scratch for qfl_head_fit_begin and qfl_head_evaluate: 4 * (outputs of all layers, the largest patch that has to be
 * gathered, and where an error cannot replace the activation it belongs to, the largest such layer's input; docs/TRAINING.md). For
 * dense layers this is 4 * (hidden... + K), for a single one 8 * K.
 */
uint32_t qfl_head_scratch_size(const qfl_head_shape *shape);

/* Checks the arguments, zeroes v and sets *fit up. QFL_E_INVAL, QFL_E_RANGE (a hyper-parameter or label), QFL_E_STATE (no samples). */
qfl_status qfl_head_fit_begin(qfl_head_fit *fit, const qfl_head_shape *shape, const qfl_head_config *config,
                              const qfl_head_data *data, float *w, const float *w_global, float *v,
                              float *scratch);

/*
 * One sample forward and backward, for a single dense layer two where the batch has them, and the SGD step when the batch is full.
 * Returns 1 while there is more to do, 0 at the end.
 */
int qfl_head_fit_step(qfl_head_fit *fit);

/* Whether evaluation with this holdout visits sample i. */
int qfl_head_held_back(uint32_t i, uint32_t holdout);

/* Index of the sample that the next step visits. */
uint32_t qfl_head_fit_next(const qfl_head_fit *fit);

/*
 * Index of the n-th sample visited in an epoch among `count`: a seeded permutation by cycle walking over a
 * multiply-xorshift bijection of the next power of two (no memory).
 */
uint32_t qfl_head_order(uint32_t seed, uint32_t epoch, uint32_t count, uint32_t n);

/*
 * Adds the gradient of one sample's cross-entropy times `weight` to grad [params]; returns the sample's loss in nats.
 * q: int8 [F]. The step function is built on it; public for gradient checks.
 */
float qfl_head_gradient(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale,
                        int32_t zero_point, uint32_t label, float weight, float *grad, float *scratch);

/* Logits [K] of one sample; returns their address in scratch. */
const float *qfl_head_logits(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale,
                             int32_t zero_point, float *scratch);

/* The outputs of layer i of the sample last run by qfl_head_logits, [out_h][out_w][out_c] in scratch. */
const float *qfl_head_outputs(const qfl_head_shape *shape, uint32_t i, const float *scratch);

/*
 * Loss and accuracy. holdout 0: all samples; k >= 2: only those held back. first and limit allow slices: samples
 * [first, first + limit) are visited and added to *score, which the caller zeroes before the first slice; `loss` holds
 * the sum until qfl_head_score_finish divides it.
 */
void qfl_head_evaluate(const qfl_head_shape *shape, const float *w, const qfl_head_data *data,
                       uint32_t holdout, uint32_t first, uint32_t limit, qfl_head_score *score,
                       float *scratch);
void qfl_head_score_finish(qfl_head_score *score);

/* exp(x) for x <= 0 (0 below -87.3) and log(x) for normal x > 0: error below 2 ulp, the same bytes everywhere. */
float qfl_head_exp(float x);
float qfl_head_log(float x);

#ifdef __cplusplus
}
#endif

#endif
