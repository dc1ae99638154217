/*
 * qfl_keystore: one small record that survives power cuts, apart from the packages: the board's keys.
 *
 * The last two erase units of the region hold a copy each, written in turn. A write erases the older copy, programs the new one, and
 * only then the new one is the record: a cut at any point leaves the old one or the new one. Behind a whole copy stands a mark in a
 * program unit of its own. So a copy that was cut off while it was written can be told from one that has suffered since: where no copy
 * is sound and one bears the mark, the record is damaged, not absent. The store of packages leaves these units alone.
 */
#ifndef QFL_KEYSTORE_H
#define QFL_KEYSTORE_H

#include <stdint.h>

#include "qfl_port.h"
#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QFL_KEYSTORE_BYTES = 80, /* of the caller's */
    QFL_KEYSTORE_UNITS = 2,  /* erase units at the end of the region */
    /* bytes of the body that may count on from copy to copy; all others should be the same in both */
    QFL_KEYSTORE_COUNTER_AT = 4,
    QFL_KEYSTORE_COUNTER_BYTES = 4
};

typedef struct qfl_keystore {
    const qfl_port *port;
    uint32_t sequence; /* of the copy that holds, 0: none does */
    uint8_t copy;      /* which of the two */
    uint8_t usable;    /* the region is large enough */
    uint8_t
        alone; /* the other copy is not sound, or holds something else: one flipped bit from here loses the record */
    uint8_t damaged; /* there was a record, and no copy of it is sound any more */
    uint8_t body[QFL_KEYSTORE_BYTES];
} qfl_keystore;

/* Reads the record into k->body; zeros when there is none. QFL_E_UNSUPPORTED: no flash or too few erase units. */
qfl_status qfl_keystore_open(qfl_keystore *k, const qfl_port *port);

/* 1: there is a record. */
int qfl_keystore_has(const qfl_keystore *k);

/*
 * Writes body (QFL_KEYSTORE_BYTES) as the new record, over the older copy, and reads it back. QFL_E_IO: flash failed; the old record
 * holds. Where the other copy is another one (`alone` is set then), a second call makes both the same.
 */
qfl_status qfl_keystore_write(qfl_keystore *k, const uint8_t *body);

#ifdef __cplusplus
}
#endif

#endif
