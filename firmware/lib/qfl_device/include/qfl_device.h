/*
 * qfl_device: a federated client on a board. Takes messages from link 0 of a port, keeps the package in flash, turns
 * samples into cached features, fits the head, answers with coded deltas. The one library that knows the others.
 *
 * Whole firmware:  qfl_device_create(&d, port); for (;;) port->sleep(port->ctx, qfl_device_poll(d));
 *
 * All memory is the port's arena. Kinds of messages: qfl_msg.h; their bytes: docs/PROTOCOL.md.
 */
#ifndef QFL_DEVICE_H
#define QFL_DEVICE_H

#include <stdint.h>

#include "qfl_codec.h"
#include "qfl_head.h"
#include "qfl_link.h"
#include "qfl_msg.h"
#include "qfl_nn.h"
#include "qfl_port.h"
#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_DEVICE_PROTOCOL = 2 };

typedef enum qfl_object {
    QFL_OBJECT_PACKAGE = 1, /* kept in flash */
    QFL_OBJECT_HEAD = 2, /* all parameters as float32 */
    QFL_OBJECT_UPDATE = 3 /* a coded delta too long for one message; then UPDATE with QFL_UPDATE_STAGED */
} qfl_object;

enum {
    /* of an UPDATE or TRAIN_UPDATE request before the coded delta: kind, number, head u32, flags or step u8 */
    QFL_UPDATE_HEAD_BYTES = 7,
    QFL_CONFIG_BYTES = 35,
    QFL_CONFIG_FORMAT = 2,
    QFL_CONFIG_PERSONAL = 1, /* bit of the codec's flags in CONFIG: boards have a personalised head */
    QFL_EVAL_HELD = 1, /* EVAL: only samples held back */
    QFL_EVAL_IN_USE = 2, /* EVAL: the personalised head, where one is in use, instead of the global one */
    QFL_STATS_BYTES = 8,
    QFL_UPDATE_STAGED = 1 /* UPDATE flag: the coded delta has been put as QFL_OBJECT_UPDATE */
};

/* What CONFIG says. */
typedef struct qfl_device_config {
    uint32_t run_id;
    qfl_head_config fit; /* epochs and batch to 65,535, holdout to 255 */
    qfl_codec_spec codec;
    uint8_t personal; /* 1: a personalised head, in use where it is better on the samples held back */
    uint8_t residual_decay; /* part of a residual that is left per round missed, in 1/255 */
} qfl_device_config;

/* Writes the QFL_CONFIG_BYTES of a CONFIG to p. QFL_E_RANGE: a number does not fit its field. */
qfl_status qfl_device_pack_config(const qfl_device_config *c, uint8_t *p);
/* Reads them; the numbers are not checked. QFL_E_VERSION: of another format. */
qfl_status qfl_device_unpack_config(const uint8_t *p, qfl_device_config *c);

/* Keys of a board. The first are given in a plain session; then only who holds the link key may change them. */
enum {
    QFL_KEYS_LINK = 1, /* sessions need the link key; every other request is refused with QFL_E_AUTH */
    QFL_KEYS_DAMAGED =
        4, /* told only: the record of keys has suffered; nothing but INFO is served till flash is erased */
    QFL_KEYS_OWNER = 2, /* only packages signed by the owner are taken and run; with QFL_KEYS_LINK only */
    QFL_SIGNED_BYTES =
        72 /* at the end of a signed package: signature of its SHA-256 (64), "QFLSIG1" and a zero byte */
};

/* What a firmware may have been built without (qfl_options.h); INFO lists what it has, as `parts`. */
enum { QFL_PART_KEYS = 1, QFL_PART_STATS = 2, QFL_PART_PERSONAL = 4, QFL_PART_LOG = 8 };

typedef enum qfl_device_state {
    QFL_DEVICE_EMPTY = 0, /* no package */
    QFL_DEVICE_IDLE = 1,
    QFL_DEVICE_TRAINING = 2,
    QFL_DEVICE_EVALUATING = 3,
    QFL_DEVICE_STATISTICS = 4
} qfl_device_state;

typedef struct qfl_device qfl_device; /* opaque; at the front of the arena */

/* Takes port->arena, opens the store and the package in it. QFL_E_NOMEM when the arena is too small for a link. */
qfl_status qfl_device_create(qfl_device **out, const qfl_port *port);

/* One slice of work, some 10 ms at most. Returns the ms until it wants to be called again, 0: at once. */
uint32_t qfl_device_poll(qfl_device *d);

qfl_device_state qfl_device_get_state(const qfl_device *d);
uint32_t qfl_device_samples(const qfl_device *d);
/* The global head [*count floats] as the board holds it, or NULL without a package. */
const float *qfl_device_head(const qfl_device *d, uint32_t *count);

/* The head [*count floats] to classify with on the board: the personalised one where that is better, else the global one; NULL: no package. */
const float *qfl_device_head_in_use(const qfl_device *d, uint32_t *count);

/* What a board with an arena of this size offers in its handshake: more RAM, larger messages, frames and windows. */
void qfl_device_link_config(uint32_t arena, qfl_link_config *config);

/* What a package needs of a board, computed by the code that lays the memory out. */
typedef struct qfl_device_need {
    uint32_t fixed; /* device, link and message buffers, bytes; depends on the arena's size */
    uint32_t params; /* global head, working head, momentum and residual, bytes */
    uint32_t activations; /* scratch of the head and arena of the backbone, bytes */
    uint32_t per_sample; /* cached features and label, bytes */
    uint32_t capacity; /* samples that fit in `arena` behind all that and 16 spare bytes, 65,535 at most */
} qfl_device_need;

/* Fills *need for an arena of `arena` bytes. QFL_E_NOMEM: no sample fits; *need is filled nevertheless. */
qfl_status qfl_device_plan(const qfl_nn *nn, uint32_t arena, qfl_device_need *need);
/* The same for a board with 32-bit pointers. Built with QFL_HOST only: for a host's check of what fits. */
qfl_status qfl_device_plan_32(const qfl_nn *nn, uint32_t arena, qfl_device_need *need);

/* The head of a package, as its layer list says; not checked. */
qfl_head_shape qfl_device_shape(const qfl_nn *nn);

/* The digest of a link's traffic counters that a delta carries; peer: 1 swaps the directions, for comparison at the other end. */
uint32_t qfl_device_counters_digest(const qfl_link_counters *c, int peer);

/* The board's traffic counters of link 0. */
void qfl_device_counters(const qfl_device *d, qfl_link_counters *out);

/* Length of a package without its signature; n when it has none. */
uint32_t qfl_device_unsigned_length(const uint8_t *file, uint32_t n);
/* Writes what makes a package signed (QFL_SIGNED_BYTES, to stand behind it): by the owner's secret key (32), over its SHA-256. */
qfl_status qfl_device_sign(const uint8_t *secret, const uint8_t *sha256, uint8_t *out);
/* QFL_E_AUTH: the package is not signed, or not by the holder of this public key (32). */
qfl_status qfl_device_check_signed(const uint8_t *owner, const uint8_t *file, uint32_t n);

/* First 4 bytes of SHA-256 over the little-endian float32 parameters, as u32 LE: how a head is named in messages. */
uint32_t qfl_device_head_hash(const float *params, uint32_t count);

/*
 * Host: the signature (64) by which a board's owner lets itself be replaced or removed in one session. secret: the owner's (32);
 * flags: of the KEYS message; owner: the new one (32), not read without QFL_KEYS_OWNER; exported: qfl_link_export of the session.
 */
qfl_status qfl_device_sign_owner(const uint8_t *secret, uint8_t flags, const uint8_t *owner,
                                 const uint8_t *exported, uint8_t *out);

#ifdef __cplusplus
}
#endif

#endif
