/*
 * Kinds of messages: the one table. The enumeration below, the host's session, trace and ledger (through cffi), the Wireshark dissector
 * and the tables of docs/PROTOCOL.md follow it; tests compare those that are written by hand.
 *
 * A message begins with two bytes: kind and number. A request has the bare kind. An answer has the kind of its request with
 * QFL_MSG_ANSWER set; an answer that refuses has QFL_MSG_FAILED set too, and its status as third byte. The number is the request's,
 * echoed; for TRAIN it is the round mod 256. The low six bits name the kind: 1 to QFL_MSG_KIND_MAX; 0 is the kind of bytes in no message.
 */
#ifndef QFL_MSG_H
#define QFL_MSG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_MSG_FAILED = 0x40, QFL_MSG_ANSWER = 0x80, QFL_MSG_KIND_MAX = 63 };

/* Who sends it. */
typedef enum qfl_msg_sender {
    QFL_MSG_HOST = 1, /* the host asks, the board answers */
    QFL_MSG_HOST_STREAM = 2 /* the host sends several in a row; the board answers one that it refuses */
} qfl_msg_sender;

/* What its bytes are spent for. */
typedef enum qfl_msg_category {
    QFL_MSG_SERVICE = 1, /* to know the board and the link */
    QFL_MSG_TRANSFER = 2, /* to move a package, a head or a long update */
    QFL_MSG_TRAINING = 3, /* rounds */
    QFL_MSG_EVALUATION = 4,
    QFL_MSG_STATISTICS = 5, /* sufficient statistics */
    QFL_MSG_SECURITY = 6 /* keys */
} qfl_msg_category;

/* X(number, name, sender, traffic category, meaning). Numbers are never given twice. */
#define QFL_MSG_TABLE(X)                                                                                     \
    X(1, INFO, HOST, SERVICE, "what the board is and holds")                                                 \
    X(2, PUT_BEGIN, HOST, TRANSFER,                                                                          \
      "an object is to come: its length and SHA-256; answered with the offset")                              \
    X(3, PUT_DATA, HOST_STREAM, TRANSFER, "bytes of the object at an offset")                                \
    X(4, PUT_END, HOST, TRANSFER, "verify the object and make it current")                                   \
    X(5, CONFIG, HOST, TRAINING, "hyper-parameters of a run")                                                \
    X(6, TRAIN, HOST, TRAINING, "fit one round; answered with the delta when it is done")                    \
    X(7, UPDATE, HOST, TRAINING, "apply a coded delta to the global head")                                   \
    X(8, EVAL, HOST, EVALUATION, "loss and accuracy of a head on local samples")                             \
    X(9, STATUS, HOST, SERVICE, "state, samples and round of the board")                                     \
    X(10, COUNTERS, HOST, SERVICE, "the board's traffic counters of the link")                               \
    X(11, TRAIN_UPDATE, HOST, TRAINING, "UPDATE and TRAIN in one message")                                   \
    X(12, STATS, HOST, STATISTICS, "sufficient statistics of the cached features")                           \
    X(13, SELFTEST, HOST, SERVICE, "run the kernels' known answers again")                                   \
    X(14, KEYS, HOST, SECURITY, "set, change or remove the board's keys")                                    \
    X(15, RESUME, HOST, TRAINING, "the part that a break cut off of an answer to TRAIN or STATS")

#define QFL_MSG_ENUM(number, name, sender, category, meaning) QFL_MSG_##name = (number),
typedef enum qfl_msg { QFL_MSG_TABLE(QFL_MSG_ENUM) QFL_MSG_NONE = 0 } qfl_msg;
#undef QFL_MSG_ENUM

typedef struct qfl_msg_entry {
    uint8_t number; /* qfl_msg */
    uint8_t sender; /* qfl_msg_sender */
    uint8_t category; /* qfl_msg_category */
    const char *name;
    const char *sender_name;
    const char *category_name;
    const char *meaning;
} qfl_msg_entry;

/* The table in the order above: the i-th entry, NULL behind the last. Built with QFL_HOST only. */
const qfl_msg_entry *qfl_msg_entry_at(uint32_t i);

#ifdef __cplusplus
}
#endif

#endif
