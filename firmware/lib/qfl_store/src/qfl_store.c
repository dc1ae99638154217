/* Two slots and a commit record each. */
#include <string.h>

#include "qfl_store.h"

#include "qfl_keep.h"

enum { MAGIC = 0x314C4651 }; /* "QFL1" */

/* FNV-1a over the record: enough to tell a torn record from a whole one; the object itself has its SHA-256. */
static uint32_t check_of(const uint8_t *p, uint32_t n)
{
    uint32_t h = 2166136261u;
    while (n--)
        h = (h ^ *p++) * 16777619u;
    return h;
}

static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t slot_at(const qfl_store *s, int slot) { return slot > 0 ? s->slot_size : 0; }
static const uint8_t *object_at(const qfl_store *s, int slot) { return s->flash.map + slot_at(s, slot) + s->flash.erase_unit; }

static void hash_of(const uint8_t *p, uint32_t n, uint8_t *digest)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, p, n);
    qfl_sha256_end(&h, digest);
}

/* Reads slot's record; returns its sequence number, 0 when it holds no committed object. */
static uint32_t read_record(const qfl_store *s, int slot, uint32_t *length, uint8_t *sha256)
{
    const uint8_t *r = s->flash.map + slot_at(s, slot);
    uint8_t digest[QFL_SHA256_BYTES];
    if (get32(r) != (uint32_t)MAGIC || get32(r + 44) != check_of(r, 44))
        return 0;
    *length = get32(r + 8);
    if (*length == 0 || *length > qfl_store_capacity(s))
        return 0;
    hash_of(object_at(s, slot), *length, digest);
    if (memcmp(digest, r + 12, sizeof digest) != 0)
        return 0;
    memcpy(sha256, r + 12, QFL_SHA256_BYTES);
    return get32(r + 4);
}

uint32_t qfl_store_capacity(const qfl_store *s) { return s->slot_size - s->flash.erase_unit; }

qfl_status qfl_store_open(qfl_store *s, const qfl_port *port)
{
    memset(s, 0, sizeof *s);
    s->port = port;
    s->current = s->writing = -1;
    if (port->flash_info(port->ctx, &s->flash) < 0 || s->flash.map == NULL)
        return QFL_E_UNSUPPORTED;
    if (s->flash.size / s->flash.erase_unit >= 3 * QFL_KEEP_UNITS)
        s->flash.size -= QFL_KEEP_UNITS * s->flash.erase_unit; /* the record of keys is there */
    const qfl_flash_info *f = &s->flash;
    if (f->erase_unit < QFL_STORE_RECORD || f->program_unit < 1 || f->program_unit > sizeof s->tail ||
        f->erase_unit % f->program_unit != 0 || f->size / 2 < 2 * f->erase_unit)
        return QFL_E_UNSUPPORTED;
    s->slot_size = f->size / 2 / f->erase_unit * f->erase_unit;
    for (int slot = 0; slot < 2; slot++) {
        uint32_t length, sequence;
        uint8_t sha256[QFL_SHA256_BYTES];
        sequence = read_record(s, slot, &length, sha256);
        if (sequence > s->sequence) {
            s->sequence = sequence;
            s->current = (int8_t)slot;
            s->length = length;
            memcpy(s->sha256, sha256, sizeof sha256);
        }
    }
    return QFL_OK;
}

const uint8_t *qfl_store_object(const qfl_store *s, uint32_t *length)
{
    if (s->current < 0)
        return NULL;
    *length = s->length;
    return object_at(s, s->current);
}

void qfl_store_abort(qfl_store *s) { s->writing = -1; }

static qfl_status erase_to(qfl_store *s, uint32_t end)
{
    while (s->erased_to < end) {
        if (s->port->flash_erase(s->port->ctx, slot_at(s, s->writing) + s->erased_to, s->flash.erase_unit) < 0)
            return QFL_E_IO;
        s->erased_to += s->flash.erase_unit;
    }
    return QFL_OK;
}

qfl_status qfl_store_begin(qfl_store *s, uint32_t length, const uint8_t *sha256, uint32_t *have)
{
    *have = 0;
    if (length == 0 || length > qfl_store_capacity(s))
        return QFL_E_RANGE;
    if (s->writing >= 0 && s->new_length == length && memcmp(s->new_sha256, sha256, QFL_SHA256_BYTES) == 0) {
        *have = s->new_have;
        return QFL_OK;
    }
    s->writing = s->current == 0 ? 1 : 0;
    s->new_length = length;
    s->new_have = s->tail_n = s->erased_to = 0;
    memcpy(s->new_sha256, sha256, QFL_SHA256_BYTES);
    qfl_status status = erase_to(s, s->flash.erase_unit); /* the old record goes first */
    if (status != QFL_OK)
        s->writing = -1;
    return status;
}

/* Programs the waiting tail, filled up with the erased value. */
static qfl_status flush_tail(qfl_store *s)
{
    uint32_t unit = s->flash.program_unit, at = s->flash.erase_unit + s->new_have - s->tail_n;
    if (s->tail_n == 0)
        return QFL_OK;
    memset(s->tail + s->tail_n, s->flash.erased, unit - s->tail_n);
    qfl_status status = erase_to(s, at + unit);
    if (status == QFL_OK && s->port->flash_program(s->port->ctx, slot_at(s, s->writing) + at, s->tail, unit) < 0)
        status = QFL_E_IO;
    s->tail_n = 0;
    return status;
}

qfl_status qfl_store_write(qfl_store *s, uint32_t offset, const uint8_t *p, uint32_t n)
{
    if (s->writing < 0 || offset != s->new_have || n > s->new_length - s->new_have)
        return QFL_E_STATE;
    while (n != 0) {
        uint32_t k = s->flash.program_unit - s->tail_n < n ? s->flash.program_unit - s->tail_n : n;
        memcpy(s->tail + s->tail_n, p, k);
        s->tail_n += k;
        s->new_have += k;
        p += k;
        n -= k;
        if (s->tail_n == s->flash.program_unit) {
            qfl_status status = flush_tail(s);
            if (status != QFL_OK) {
                qfl_store_abort(s);
                return status;
            }
        }
    }
    return QFL_OK;
}

qfl_status qfl_store_verify(qfl_store *s, const uint8_t **object)
{
    uint8_t digest[QFL_SHA256_BYTES];
    if (s->writing < 0 || s->new_have != s->new_length)
        return QFL_E_STATE;
    qfl_status status = flush_tail(s);
    if (status == QFL_OK) {
        hash_of(object_at(s, s->writing), s->new_length, digest);
        status = memcmp(digest, s->new_sha256, sizeof digest) == 0 ? QFL_OK : QFL_E_HASH;
    }
    if (status != QFL_OK)
        qfl_store_abort(s);
    else if (object != NULL)
        *object = object_at(s, s->writing);
    return status;
}

qfl_status qfl_store_commit(qfl_store *s)
{
    uint8_t record[256];
    uint32_t unit = s->flash.program_unit, n = (QFL_STORE_RECORD + unit - 1) / unit * unit;
    if (s->writing < 0 || s->new_have != s->new_length || s->tail_n != 0)
        return QFL_E_STATE;
    memset(record, s->flash.erased, sizeof record);
    put32(record, MAGIC);
    put32(record + 4, s->sequence + 1);
    put32(record + 8, s->new_length);
    memcpy(record + 12, s->new_sha256, QFL_SHA256_BYTES);
    put32(record + 44, check_of(record, 44));
    if (s->port->flash_program(s->port->ctx, slot_at(s, s->writing), record, n) < 0)
        return QFL_E_IO;
    s->sequence++;
    s->current = s->writing;
    s->writing = -1;
    s->length = s->new_length;
    memcpy(s->sha256, s->new_sha256, sizeof s->sha256);
    return QFL_OK;
}
