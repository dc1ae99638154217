/*
 * qfl_store: what a board keeps over a power cut: a package, and a log of what its rounds changed. Format: docs/STORE.md.
 *
 * Package: two slots, written in turn. Records stand in program units of their own before the object: an intent once the slot is
 * erased, a commit once the object has been read back and its SHA-256 found right. The current object is the committed one with
 * the highest sequence number. A push that a reset broke off goes on at the erase unit it had reached.
 *
 * Log: two halves, written in turn. A half begins with a snapshot and goes on with records; it is the current one once its snapshot
 * is whole. Its payload is programmed and read back before a record's own unit is, so a record is there or is not. After a
 * reset nothing is appended behind what may be a torn record: the next one starts the other half.
 *
 * No unit is programmed twice between erases, so parts that can be written once are served. Nothing erased by half is ever trusted
 * for its looks: it is erased again before use. Erases go one unit per call of qfl_store_work.
 */
#ifndef QFL_STORE_H
#define QFL_STORE_H

#include <stdint.h>

#include "qfl_port.h"
#include "qfl_sha256.h"
#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QFL_STORE_RECORD = 64,     /* bytes of a slot's record before padding to the program unit */
    QFL_STORE_LOG_RECORD = 32, /* bytes of a log record before its payload, before padding */
    QFL_STORE_CHUNK = 256      /* bytes programmed at once; a multiple of every program unit */
};

/* What qfl_store_open found; a set. */
enum {
    QFL_STORE_PACKAGE = 1,        /* a whole package */
    QFL_STORE_LOG = 2,            /* a whole snapshot */
    QFL_STORE_CUT_PACKAGE = 4,    /* and a newer package that a cut left unfinished */
    QFL_STORE_CUT_LOG = 8,        /* and traces of a log record that a cut left unfinished */
    QFL_STORE_NO_LOG = 16,        /* the port sets no room aside for a log */
    QFL_STORE_ROTTEN_PACKAGE =
        128 /* and a newer package that was whole once and is not any more: flash has suffered */
};

typedef struct qfl_store {
    const qfl_port *port;
    uint8_t found;        /* QFL_STORE_*: as it was at the start */
    uint8_t resumed;      /* the object being written was begun before the last reset */
    uint8_t distrust;     /* resuming failed: begin from the start */
    uint8_t intend;       /* an intent is to be programmed once all is erased */
    uint8_t log_rolling;  /* the next record is the snapshot of the other half */
    uint8_t log_wanted;   /* the other half is wanted erased */
    int8_t current;       /* slot of the current object, -1: none */
    int8_t writing;       /* slot being written, -1: none */
    int8_t log_current;   /* half that holds, -1: none */
    qfl_flash_info flash;

    uint32_t slots;       /* offset of slot 0 in the region, bytes; the log lies before it */
    uint32_t slot_size;   /* bytes, a multiple of the erase unit */
    uint32_t record_size; /* of a slot's record with padding */
    uint32_t sequence;    /* of the current object */
    uint32_t length;      /* of the current object, bytes */
    uint32_t new_length;  /* of the object being written */
    uint32_t new_have;    /* bytes of it received in order */
    uint32_t erase_at, erase_end; /* of the region: still to be erased for it */
    uint32_t tail_n;      /* bytes waiting for a full chunk */
    uint32_t log_half;    /* bytes of one half, 0: no log */
    uint32_t log_generation;
    uint32_t log_end;     /* where the next record goes, 0: none may be appended */
    uint32_t log_erased;  /* the other half is erased up to this offset, since the start of the board */
    uint8_t sha256[QFL_SHA256_BYTES]; /* of the current object */
    uint8_t new_sha256[QFL_SHA256_BYTES];
    uint8_t tail[QFL_STORE_CHUNK];
} qfl_store;

/* Finds the current object and log. QFL_E_UNSUPPORTED: no flash, not memory-mapped, or a region too small for two slots. */
qfl_status qfl_store_open(qfl_store *s, const qfl_port *port);

/* Erases one unit that is wanted erased; 1: did, 0: none is, or flash failed, and what it was wanted for is given up. */
int qfl_store_work(qfl_store *s);
/* Longest time the erases still to be done may take, ms. */
uint32_t qfl_store_busy_ms(const qfl_store *s);

/* -- packages -- */

/* Largest object that fits, bytes. */
uint32_t qfl_store_capacity(const qfl_store *s);

/* The same of a region that is so described (`map` is not looked at), 0: no store fits in it. Built with QFL_HOST only. */
uint32_t qfl_store_room(const qfl_flash_info *flash);

/* The current object, or NULL; 16-byte aligned; it stays valid until the second begin after its commit. */
const uint8_t *qfl_store_object(const qfl_store *s, uint32_t *length);

/*
 * Begins or resumes an object. *have gets the bytes already held of this very object (same length and SHA-256), where writing is to
 * go on. QFL_E_BUSY: flash has to be erased first; call qfl_store_work until it returns 0, then this again. QFL_E_RANGE when it
 * is larger than the capacity, QFL_E_IO when flash failed.
 */
qfl_status qfl_store_begin(qfl_store *s, uint32_t length, const uint8_t *sha256, uint32_t *have);

/* Appends n bytes at `offset`, which must be where writing stands (QFL_E_STATE otherwise). */
qfl_status qfl_store_write(qfl_store *s, uint32_t offset, const uint8_t *p, uint32_t n);

/*
 * Verifies the SHA-256 by reading back. QFL_E_STATE: not all bytes are there, or what was left from before a reset was not sound and
 * all has to come again. QFL_E_HASH: they differ; writing is dropped.
 */
qfl_status qfl_store_verify(qfl_store *s, const uint8_t **object);

/* After qfl_store_verify: makes the new object the current one. */
qfl_status qfl_store_commit(qfl_store *s);

/* Forgets the object being written. */
void qfl_store_abort(qfl_store *s);

/* -- log -- */

typedef struct qfl_store_part {
    const void *p;
    uint32_t n; /* bytes */
} qfl_store_part;

/* Longest payload of one record, bytes; 0: there is no log. */
uint32_t qfl_store_log_capacity(const qfl_store *s);

/*
 * Walks the current half: *at is 0 before the first record. 1: the next record, in place; 0: no more. The first one is the
 * snapshot. type: as it was appended.
 */
int qfl_store_log_next(const qfl_store *s, uint32_t *at, uint8_t *type, const uint8_t **p, uint32_t *n);

/*
 * Appends a record of `count` parts (at most 5). QFL_E_NOMEM: no room, or nothing may be appended: qfl_store_log_roll, then append a
 * snapshot of everything. QFL_E_IO: flash failed, or read back otherwise.
 */
qfl_status qfl_store_log_append(qfl_store *s, uint8_t type, const qfl_store_part *parts, uint32_t count);

/* The next record shall start the other half. QFL_E_BUSY: it has to be erased first, as in qfl_store_begin. */
qfl_status qfl_store_log_roll(qfl_store *s);

/* Bytes left in the current half; when they are few, qfl_store_log_prepare has the other half erased by qfl_store_work. */
uint32_t qfl_store_log_room(const qfl_store *s);
void qfl_store_log_prepare(qfl_store *s);

#ifdef __cplusplus
}
#endif

#endif
