/*
 * qfl_store: whole objects in the board's flash.
 *
 * The region is two slots. A slot is one erase unit with a commit record (magic, sequence number, length, SHA-256,
 * check word), then the object. A new object is written to the slot that is not current; only when its SHA-256 has been
 * verified by reading back is the record programmed, in one write. The current object is the valid one with the highest
 * sequence number: after a power cut at any point it is the old one or the new one. An object stays memory-mapped.
 */
#ifndef QFL_STORE_H
#define QFL_STORE_H

#include <stdint.h>

#include "qfl_port.h"
#include "qfl_sha256.h"
#include "qfl_status.h"

enum { QFL_STORE_RECORD = 64 }; /* bytes of a commit record before padding to the program unit */

typedef struct qfl_store {
    const qfl_port *port;
    qfl_flash_info flash;
    uint32_t slot_size;   /* bytes, a multiple of the erase unit */
    uint32_t sequence;    /* of the current object */
    int8_t current;       /* slot of the current object, -1: none */
    int8_t writing;       /* slot being written, -1: none */
    uint32_t length;      /* of the current object, bytes */
    uint8_t sha256[QFL_SHA256_BYTES]; /* of the current object */
    uint32_t new_length;  /* of the object being written */
    uint32_t new_have;    /* bytes of it received in order */
    uint32_t erased_to;   /* the slot is erased up to this offset */
    uint32_t tail_n;      /* bytes waiting for a full program unit */
    uint8_t new_sha256[QFL_SHA256_BYTES];
    uint8_t tail[256];
} qfl_store;

/* Finds the current object. QFL_E_UNSUPPORTED: no flash, not memory-mapped, or a region too small for two slots. */
qfl_status qfl_store_open(qfl_store *s, const qfl_port *port);

/* Largest object that fits, bytes. */
uint32_t qfl_store_capacity(const qfl_store *s);

/* The current object, or NULL; it stays valid until the second commit after this one. */
const uint8_t *qfl_store_object(const qfl_store *s, uint32_t *length);

/*
 * Begins or resumes an object. *have gets the bytes already held of this very object (same length and SHA-256) since
 * the start of the board, where writing is to go on. QFL_E_RANGE when it is larger than the capacity.
 */
qfl_status qfl_store_begin(qfl_store *s, uint32_t length, const uint8_t *sha256, uint32_t *have);

/* Appends n bytes at `offset`, which must be where writing stands (QFL_E_STATE otherwise). Erases ahead as needed. */
qfl_status qfl_store_write(qfl_store *s, uint32_t offset, const uint8_t *p, uint32_t n);

/* Verifies the SHA-256 by reading back. QFL_E_STATE: not all bytes are there. QFL_E_HASH: they differ; writing is dropped. */
qfl_status qfl_store_verify(qfl_store *s, const uint8_t **object);

/* After qfl_store_verify: makes the new object the current one. */
qfl_status qfl_store_commit(qfl_store *s);

/* Forgets the object being written. */
void qfl_store_abort(qfl_store *s);

#endif
