/* Shared by slots and log; private to qfl_store. */
#ifndef QFL_STORE_INTERNAL_H
#define QFL_STORE_INTERNAL_H

#include <string.h>

#include "qfl_bytes.h"
#include "qfl_options.h"
#include "qfl_store.h"

enum { QFL_STORE_CHECK = 16 }; /* bytes of the SHA-256 that a record ends with */

static inline uint32_t padded(uint32_t n, uint32_t unit) { return (n + unit - 1) / unit * unit; }
/* Where records and payloads may begin: at program units, and aligned for floats. */
static inline uint32_t step_of(const qfl_store *s)
{
    return s->flash.program_unit > 16 ? s->flash.program_unit : 16;
}

/* Programs n bytes (whole units) and reads them back. A stretch that reads as erased is left alone. */
qfl_status qfl_store_program(const qfl_store *s, uint32_t at, const uint8_t *p, uint32_t n);
/* SHA-256 of a stretch of the region, read through the port. */
qfl_status qfl_store_hash(const qfl_store *s, uint32_t at, uint32_t n, qfl_sha256 *h);
/* 1: the stretch reads as erased. */
int qfl_store_blank(const qfl_store *s, uint32_t at, uint32_t n);

void qfl_store_log_open(qfl_store *s);
int qfl_store_log_work(qfl_store *s);

#endif
