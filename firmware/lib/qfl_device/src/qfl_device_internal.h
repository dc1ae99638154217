/* The device in memory; private to qfl_device. */
#ifndef QFL_DEVICE_INTERNAL_H
#define QFL_DEVICE_INTERNAL_H

#include "qfl_bytes.h"
#include "qfl_crypt.h"
#include "qfl_device.h"
#include "qfl_head_stats.h"
#include "qfl_keystore.h"
#include "qfl_nn_selftest.h"
#include "qfl_options.h"
#include "qfl_store.h"

enum { ANSWER_BYTES = 448, SLACK_BYTES = 64 };
_Static_assert(2 * QFL_HEAD_MAX_TRAINED <= QFL_CODEC_MAX_TENSORS, "a delta has a head's tensors");

/* Which head has been or is being scored on the samples held back. */
typedef enum qfl_scored {
    QFL_SCORED_NONE = 0,
    QFL_SCORED_GLOBAL = 1,
    QFL_SCORED_PERSONAL = 2,
    QFL_SCORED_FITTED = 3
} qfl_scored;

/* The round under way or last trained, its delta, and what coding has left out (qfl_device_round.c; persist, resume read it). */
typedef struct qfl_device_round {
    uint8_t done;   /* work holds the answer of round `number` */
    uint8_t loss;   /* as the delta's answer has it */
    uint8_t number; /* mod 256 */
    uint8_t step;   /* code of the step agreed on for its delta, 0: the board's choice */
    uint8_t residual_decay, residual_round; /* per round missed, in 1/255; the round the residual is from */
    uint8_t unsaved; /* the fit is over, its delta not yet in the log */
    int8_t status;
    uint16_t samples;
    uint32_t size; /* bytes of the delta */
    uint32_t head; /* hash of the head the round starts from */
    float residual_step; /* 0: none */
    /* [params] what coding has left out, in 1/QFL_CODEC_RESIDUAL of residual_step; DZ only */
    int8_t *residual;
} qfl_device_round;

/* A request that is answered later: TRAIN, EVAL or STATS. */
typedef struct qfl_device_asked {
    uint8_t waiting, kind, number;
} qfl_device_asked;

/* An object on its way from the host (qfl_device_put.c). */
typedef struct qfl_device_put {
    uint8_t object; /* 0: none */
    uint8_t failed; /* refused once; the rest of the pipelined data is dropped silently */
    uint32_t length, have;
    uint32_t staged; /* bytes of a whole QFL_OBJECT_UPDATE in momentum, 0: none */
    uint8_t sha256[QFL_SHA256_BYTES];
} qfl_device_put;

/* Scoring a head on samples (qfl_device_round.c). */
typedef struct qfl_device_eval {
    uint32_t at, holdout;
    qfl_head_score score;
} qfl_device_eval;

/* Encoded frames on their way to the port (qfl_device.c). */
typedef struct qfl_device_out {
    uint8_t *bytes;
    uint32_t cap, n, at;
} qfl_device_out;

/* Persistence (qfl_device_persist.c). */
typedef struct qfl_device_log {
    uint8_t restored; /* head and the like came from the log at the start */
    uint8_t failed;   /* the log could not be written; RAM is ahead of it */
} qfl_device_log;

/* The personalised head (qfl_device_personal.c). */
typedef struct qfl_device_personal {
    uint8_t on, in_use;
    uint8_t scored;    /* qfl_scored: before or after a fit */
    uint8_t evaluated; /* EVAL is of this head */
    uint16_t held, global_hits, hits; /* samples held back; right by the global head; by the one in use */
    float *head; /* [params] at the end of the sample cache */
    uint32_t rows; /* rows of the cache that it takes */
    float global_loss, loss;
} qfl_device_personal;

/* Sufficient statistics (qfl_device_stats.c). */
typedef struct qfl_device_stats {
    qfl_head_stats gram; /* what they are taken from, row by row */
    qfl_head_data data;  /* of gram */
    uint8_t request[QFL_STATS_BYTES]; /* the one `momentum` holds the answer of, or that is under way */
    uint8_t *out; /* in momentum */
    uint32_t row, cap;
    uint32_t size; /* of the whole answer, bytes; 0: it is not there */
    float step;
    qfl_codec_dz_stream *stream; /* in momentum */
} qfl_device_stats;

/*
 * What is used most comes first: Thumb's short instructions reach 32 bytes of bytes, 64 of halfwords and 128 of words. A group is
 * for the file that its type names; a test lists which others read it.
 */
struct qfl_device {
    qfl_device_round round;
    uint8_t have_package, have_config;
    uint8_t state;
    qfl_device_asked asked;
    qfl_device_log log;
    uint16_t label; /* of the sample under way */

    const qfl_port *port;
    qfl_link *link;
    uint32_t params;
    float *global; /* [params] */
    float *work; /* [params] + slack: trained head, then the coded delta; staging of a head */
    float *momentum; /* [params] + slack; staging of an update */
    uint32_t head_hash;
    uint32_t capacity, samples, rejected;
    uint32_t nn_op; /* next operator of the sample under way, 0: none */
    uint32_t row; /* bytes of a cached sample: F, or the input's with recompute */
    int8_t *features; /* [capacity][row] */
    uint16_t *labels; /* [capacity] */
    uint8_t *nn_arena;
    qfl_device_put put;
    qfl_device_out out;
    float *scratch;
    uint8_t *arena;
    uint32_t arena_size;
    uint32_t model_at; /* first byte of the arena that the package may use */
    uint8_t *answer; /* body of a long answer, ANSWER_BYTES */
    uint32_t session;
    uint32_t connections; /* connections of the port's link, as last seen */
    uint32_t boot; /* drawn at start: tells the host that the counters have begun anew */
    uint32_t nn_sample; /* with recompute: the sample under way */
    uint16_t selftest_failed, selftest_first; /* of the last self-test */

    qfl_nn nn;
    qfl_head_shape shape;
    qfl_device_eval eval;
    qfl_head_config config;
    qfl_codec_spec codec;
    qfl_head_fit fit;
    qfl_codec_layout layout;
    qfl_store store;
    qfl_keystore keystore; /* qfl_device_keys.c */
    uint8_t config_bytes[QFL_CONFIG_BYTES];
    qfl_device_personal personal;
    qfl_device_stats stats;
};

/* Its size on boards, for hosts with longer pointers. */
enum { DEVICE_BYTES_32 = 1232 };
#if UINTPTR_MAX == 0xFFFFFFFFu && !defined(__i386__) /* which aligns 64-bit integers otherwise */
extern char qfl_device_bytes_32[DEVICE_BYTES_32];
extern char qfl_device_bytes_32[sizeof(struct qfl_device)]; /* where they differ the compiler says both */
#endif

/* qfl_device_model.c: package and samples */
qfl_status qfl_device_load(qfl_device *d);
void qfl_device_unload(qfl_device *d);
int qfl_device_take_sample(qfl_device *d); /* 1: did some work */
qfl_head_data qfl_device_data(const qfl_device *d);
int qfl_device_features_ready(qfl_device *d, uint32_t i);

/* qfl_device_keys.c */
qfl_status qfl_device_open_keys(qfl_device *d); /* at start: keys from flash to the link */
uint8_t qfl_device_keys(const qfl_device *d); /* QFL_KEYS_* */
int qfl_device_may_talk(const qfl_device *d); /* 1: requests of the session under way may be served */
/* *length: of the package without its signature. QFL_E_AUTH: the board has an owner, who has not signed this. */
qfl_status qfl_device_check_package(const qfl_device *d, const uint8_t *file, uint32_t *length);
void qfl_device_on_keys(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);

/* qfl_device_persist.c: what survives a reset. Before a change, ready(n) must be 1 for a record of n bytes; 0: flash is being erased,
 * refuse with BUSY and change nothing. After it, keep_*. */
int qfl_device_persist_ready(qfl_device *d, uint32_t n);
void qfl_device_persist_config(qfl_device *d);
void qfl_device_persist_update(qfl_device *d, const uint8_t *p,
                               uint32_t n); /* the coded delta that has led to head_hash */
void qfl_device_persist_head(qfl_device *d);
void qfl_device_persist_round(qfl_device *d);
void qfl_device_restore(qfl_device *d); /* after the package has been laid out */
uint32_t qfl_device_persisted(const qfl_device *d); /* as INFO says it */

/* qfl_device_put.c: objects */
void qfl_device_on_put(qfl_device *d, uint8_t kind, uint8_t number, const uint8_t *p, uint32_t n);

/* qfl_device_round.c: config, fit, update, evaluation */
void qfl_device_on_config(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);
void qfl_device_on_train(qfl_device *d, uint8_t kind, uint8_t number, const uint8_t *p, uint32_t n);
void qfl_device_on_update(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);
void qfl_device_on_eval(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);
qfl_status qfl_device_take_config(qfl_device *d,
                                  const uint8_t *p); /* QFL_CONFIG_BYTES; checks all, then takes all */
/* Applies a coded delta; nothing changes unless it leads to `result`. Uses work. */
qfl_status qfl_device_lead(qfl_device *d, uint32_t result, const uint8_t *p, uint32_t n);
void qfl_device_work(qfl_device *d); /* a slice of training or evaluation */
void qfl_device_cancel(qfl_device *d);
void qfl_device_answer_waiting(qfl_device *d); /* with a delta that is ready, if one was asked for */

void qfl_device_score_begin(qfl_device *d, uint32_t holdout);
int qfl_device_score_slice(qfl_device *d, const float *head); /* 1: all samples are scored */

/* qfl_device_personal.c: the personalised head */
qfl_status qfl_device_personal_reserve(qfl_device *d, int personal, uint32_t holdout);
void qfl_device_personal_begin(qfl_device *d); /* before a fit */
int qfl_device_personal_fitted(qfl_device *d); /* after it; 1: there is something to score first */
int qfl_device_personal_slice(qfl_device *d); /* 1: the fitted head is scored */
void qfl_device_personal_compare(qfl_device *d); /* `score` is the global head's on the samples held back */

/* qfl_device_resume.c: answers that a break cut off */
void qfl_device_on_resume(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);

/* qfl_device_stats.c: sufficient statistics for closed-form initialisation */
void qfl_device_on_stats(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n);
void qfl_device_stats_slice(qfl_device *d);

/* qfl_device_info.c: self-description, status, counters */
void qfl_device_on_info(qfl_device *d, uint8_t number);
void qfl_device_on_status(qfl_device *d, uint8_t number);
void qfl_device_on_selftest(qfl_device *d, uint8_t number);
void qfl_device_selftest(qfl_device *d, void *mem); /* mem: QFL_NN_SELFTEST_BYTES, 16-byte aligned */
void qfl_device_on_counters(qfl_device *d, uint8_t number);

/* Answers with n bytes (at most QFL_LINK_HEAD_MAX - 3), then body by reference; a negative status goes before them. */
void qfl_device_answer(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status, const uint8_t *p,
                       uint32_t n, const uint8_t *body, uint32_t body_n);
/* The same with a status and nothing else, and with one u32. */
void qfl_device_say(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status);
void qfl_device_say_u32(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status, uint32_t v);

#endif
