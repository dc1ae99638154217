/*
 * qfl_keep: one small record that survives power cuts, apart from the packages: the board's keys.
 *
 * The last two erase units of the region hold a copy each, written in turn: a write erases the older copy, programs the new one and
 * is only then the record; a cut at any point leaves the old one or the new one. The store leaves these units alone.
 */
#ifndef QFL_KEEP_H
#define QFL_KEEP_H

#include <stdint.h>

#include "qfl_port.h"
#include "qfl_status.h"

enum {
    QFL_KEEP_BYTES = 80, /* of the caller's */
    QFL_KEEP_UNITS = 2   /* erase units at the end of the region */
};

typedef struct qfl_keep {
    const qfl_port *port;
    uint32_t sequence;    /* of the copy that holds, 0: none does */
    uint8_t copy;         /* which of the two */
    uint8_t usable;       /* the region is large enough */
    uint8_t body[QFL_KEEP_BYTES];
} qfl_keep;

/* Reads the record into k->body; zeros when there is none. QFL_E_UNSUPPORTED: no flash or too few erase units. */
qfl_status qfl_keep_open(qfl_keep *k, const qfl_port *port);

/* 1: there is a record. */
int qfl_keep_has(const qfl_keep *k);

/* Writes body (QFL_KEEP_BYTES) as the new record and reads it back. QFL_E_IO: flash failed; the old record holds. */
qfl_status qfl_keep_write(qfl_keep *k, const uint8_t *body);

#endif
