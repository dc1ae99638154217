/*
 * qfl_head: the trainable last layers: a stack of dense layers, ReLU between them, softmax cross-entropy on top.
 *
 * Parameters are float32, per layer the kernel [in][out] row-major, then the bias [out]. Inputs are cached int8
 * features, real = (q - zero_point) * scale. Training is minibatch SGD with momentum, weight decay and FedProx
 * (Li et al. 2020, eq. 2):
 *     g = dL/dw + weight_decay * w + prox * (w - w_global);  v = momentum * v + g;  w = w - lr * v
 * L is the mean cross-entropy over the minibatch. All sums run in one fixed order in IEEE-754 single precision with
 * our own exp and log, so every processor computes the same bytes (build with -ffp-contract=off).
 *
 * The gradient is added straight into the momentum buffer, samples are visited in an order computed from the seed
 * without an index array: RAM beyond parameters, momentum and features is qfl_head_scratch_size() bytes.
 */
#ifndef QFL_HEAD_H
#define QFL_HEAD_H

#include <stdint.h>

#include "qfl_status.h"

enum { QFL_HEAD_MAX_LAYERS = 4 };

/* dims[0] = F features, dims[layers] = K classes; layer i is dense from dims[i] to dims[i + 1]. */
typedef struct qfl_head_shape {
    uint32_t layers; /* 1..QFL_HEAD_MAX_LAYERS */
    uint32_t dims[QFL_HEAD_MAX_LAYERS + 1];
} qfl_head_shape;

typedef struct qfl_head_config {
    float lr;           /* learning rate, > 0 */
    float momentum;     /* 0 <= momentum < 1; starts at zero in every fit */
    float weight_decay; /* >= 0 */
    float prox;         /* FedProx mu, >= 0 */
    uint32_t epochs;    /* passes over the local samples, >= 1 */
    uint32_t batch;     /* samples per step, >= 1; the last batch of an epoch may be smaller */
    uint32_t seed;      /* of the order of samples */
    uint32_t holdout;   /* 0: train on all; k >= 2: every k-th sample (index k-1, 2k-1, ...) is held back for evaluation */
} qfl_head_config;

/* Cached samples: row i of `q` is the features of sample i, labels[i] < K its class. */
typedef struct qfl_head_data {
    const int8_t *q;        /* [count][dims[0]] */
    const uint16_t *labels; /* [count] */
    uint32_t count;
    float scale;
    int32_t zero_point;
} qfl_head_data;

typedef struct qfl_head_score {
    uint32_t count;   /* samples evaluated */
    uint32_t correct; /* arg max equals the label; ties go to the lowest class */
    float loss;       /* mean cross-entropy, nats; 0 when count is 0 */
} qfl_head_score;

/* A fit in progress. Set by qfl_head_fit_begin; callers may read `loss` and `epoch`. */
typedef struct qfl_head_fit {
    qfl_head_shape shape;
    qfl_head_config config;
    qfl_head_data data;
    float *w;              /* [params] trained in place */
    const float *w_global; /* [params] for the FedProx term; may be NULL when prox is 0 */
    float *v;              /* [params] momentum and gradient */
    float *scratch;        /* qfl_head_scratch_size bytes */
    uint32_t params;
    uint32_t train_count;  /* samples that are not held back */
    uint32_t epoch;        /* epochs completed */
    uint32_t position;     /* next sample of the epoch's order */
    uint32_t in_batch;     /* samples added to the gradient so far */
    float loss_sum;        /* of the epoch under way */
    float loss;            /* mean cross-entropy of the last completed epoch, measured while training */
} qfl_head_fit;

/* Number of float32 parameters; 0 when the shape is out of range (dims 1..65535, less than 2^28 parameters). */
uint32_t qfl_head_param_count(const qfl_head_shape *shape);

/* Bytes of scratch for qfl_head_fit_begin and qfl_head_evaluate: 4 * (sum of dims) . */
uint32_t qfl_head_scratch_size(const qfl_head_shape *shape);

/* Checks the arguments, zeroes v and sets *fit up. QFL_E_INVAL, QFL_E_RANGE (a hyper-parameter or label), QFL_E_STATE (no samples). */
qfl_status qfl_head_fit_begin(qfl_head_fit *fit, const qfl_head_shape *shape, const qfl_head_config *config,
                              const qfl_head_data *data, float *w, const float *w_global, float *v, float *scratch);

/* One sample forward and backward, and the SGD step when its batch is full. Returns 1 while there is more to do, 0 at the end. */
int qfl_head_fit_step(qfl_head_fit *fit);

/*
 * Index of the n-th sample visited in an epoch among `count`: a seeded permutation by cycle walking over a
 * multiply-xorshift bijection of the next power of two (no memory).
 */
uint32_t qfl_head_order(uint32_t seed, uint32_t epoch, uint32_t count, uint32_t n);

/*
 * Adds the gradient of one sample's cross-entropy times `weight` to grad [params]; returns the sample's loss in nats.
 * q: int8 [dims[0]]. The step function is built on it; public for gradient checks.
 */
float qfl_head_gradient(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale, int32_t zero_point,
                        uint32_t label, float weight, float *grad, float *scratch);

/* Logits [K] of one sample, written to the start of scratch's last K floats; returns their address. */
const float *qfl_head_logits(const qfl_head_shape *shape, const float *w, const int8_t *q, float scale,
                             int32_t zero_point, float *scratch);

/*
 * Loss and accuracy. holdout 0: all samples; k >= 2: only those held back. first and limit allow slices: samples
 * [first, first + limit) are visited and added to *score, which the caller zeroes before the first slice; `loss` holds
 * the sum until qfl_head_score_finish divides it.
 */
void qfl_head_evaluate(const qfl_head_shape *shape, const float *w, const qfl_head_data *data, uint32_t holdout,
                       uint32_t first, uint32_t limit, qfl_head_score *score, float *scratch);
void qfl_head_score_finish(qfl_head_score *score);

/* exp(x) for x <= 0 (0 below -87.3) and log(x) for normal x > 0: error below 2 ulp, the same bytes everywhere. */
float qfl_head_exp(float x);
float qfl_head_log(float x);

#endif
