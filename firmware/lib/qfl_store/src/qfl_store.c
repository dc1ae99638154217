/* Two slots for a package: intent, object, commit. */
#include "qfl_store_internal.h"

#include "qfl_keystore.h"

enum { MAGIC = 0x324C4651, INTENT = 1, COMMIT = 2 }; /* "QFL2" */
enum { AT_TYPE = 4, AT_SEQUENCE = 8, AT_LENGTH = 12, AT_SHA = 16, AT_CHECK = 48 };

static uint32_t slot_at(const qfl_store *s, int slot) { return s->slots + (slot > 0 ? s->slot_size : 0); }
static uint32_t object_at(const qfl_store *s, int slot)
{
    return slot_at(s, slot) + padded(2 * s->record_size, 16);
}

static void check_of(const uint8_t *record, uint8_t *out)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, record, AT_CHECK);
    qfl_sha256_end(&h, out);
}

QFL_COLD QFL_APART static void copy_sha(uint8_t *to, const uint8_t *from)
{
    memcpy(to, from, QFL_SHA256_BYTES);
}

/* Reads slot's record of this type; 0 when it is not whole. */
static int read_record(const qfl_store *s, int slot, uint32_t type, uint8_t *r)
{
    uint8_t check[QFL_SHA256_BYTES];
    uint32_t at = slot_at(s, slot) + (type == COMMIT ? s->record_size : 0);
    if (s->port->flash_read(s->port->ctx, at, r, QFL_STORE_RECORD) < 0 || qfl_get32(r) != (uint32_t)MAGIC ||
        qfl_get32(r + AT_TYPE) != type)
        return 0;
    check_of(r, check);
    return memcmp(check, r + AT_CHECK, QFL_STORE_CHECK) == 0 && qfl_get32(r + AT_LENGTH) != 0 &&
           qfl_get32(r + AT_LENGTH) <= qfl_store_capacity(s);
}

static qfl_status write_record(qfl_store *s, uint32_t type, uint32_t sequence)
{
    uint8_t r[QFL_STORE_CHUNK], check[QFL_SHA256_BYTES];
    memset(r, s->flash.erased, sizeof r);
    qfl_put32(r, MAGIC);
    qfl_put32(r + AT_TYPE, type);
    qfl_put32(r + AT_SEQUENCE, sequence);
    qfl_put32(r + AT_LENGTH, s->new_length);
    copy_sha(r + AT_SHA, s->new_sha256);
    check_of(r, check);
    memcpy(r + AT_CHECK, check, QFL_STORE_CHECK);
    return qfl_store_program(s, slot_at(s, s->writing) + (type == COMMIT ? s->record_size : 0), r,
                             s->record_size);
}

static int object_ok(const qfl_store *s, int slot, uint32_t length, const uint8_t *sha256)
{
    uint8_t digest[QFL_SHA256_BYTES];
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    if (qfl_store_hash(s, object_at(s, slot), length, &h) != QFL_OK)
        return 0;
    qfl_sha256_end(&h, digest);
    return memcmp(digest, sha256, sizeof digest) == 0;
}

/* Of the end mark: one unit behind the object, programmed before its commit. Without it no commit has been tried. */
static uint32_t mark_at(const qfl_store *s)
{
    return object_at(s, s->writing) + padded(s->new_length, s->flash.program_unit);
}

QFL_COLD uint32_t qfl_store_capacity(const qfl_store *s)
{
    return s->slot_size / s->flash.program_unit * s->flash.program_unit - padded(2 * s->record_size, 16) -
           s->flash.program_unit;
}

static void find_current(qfl_store *s)
{
    uint8_t r[QFL_STORE_RECORD];
    uint32_t newest = 0, rotten = 0;
    for (int slot = 0; slot < 2; slot++) {
        if (read_record(s, slot, INTENT, r) && qfl_get32(r + AT_SEQUENCE) > newest)
            newest = qfl_get32(r + AT_SEQUENCE);
        if (!read_record(s, slot, COMMIT, r) || qfl_get32(r + AT_SEQUENCE) <= s->sequence)
            continue;
        if (!object_ok(s, slot, qfl_get32(r + AT_LENGTH), r + AT_SHA)) {
            if (qfl_get32(r + AT_SEQUENCE) > rotten)
                rotten =
                    qfl_get32(r + AT_SEQUENCE); /* it was whole when it was committed: no cut does that */
            continue;
        }
        s->sequence = qfl_get32(r + AT_SEQUENCE);
        s->current = (int8_t)slot;
        s->found = QFL_STORE_PACKAGE;
        s->length = qfl_get32(r + AT_LENGTH);
        copy_sha(s->sha256, r + AT_SHA);
    }
    if (rotten > s->sequence) {
        s->found |= QFL_STORE_ROTTEN_PACKAGE;
        s->sequence = rotten; /* the next package is newer than what is left of this one */
    }
    if (newest > s->sequence)
        s->found |= QFL_STORE_CUT_PACKAGE;
}

/* Divides the region of s->flash, whose size is then without the record of keys. 0: it cannot be. */
static int divide(qfl_store *s)
{
    qfl_flash_info *f = &s->flash;
    uint32_t unit = f->program_unit, erase = f->erase_unit;
    if (unit < 1 || unit > QFL_STORE_CHUNK || QFL_STORE_CHUNK % unit != 0 || erase < 1024 ||
        erase % QFL_STORE_CHUNK != 0 || f->size % erase != 0 || f->log_size % (2 * erase) != 0)
        return 0;
    if (f->size / erase >= 3 * QFL_KEYSTORE_UNITS)
        f->size -= QFL_KEYSTORE_UNITS * erase; /* the record of keys is there */
    if (f->log_size >= f->size || (f->size - f->log_size) / 2 < erase)
        return 0;
    s->slots = f->log_size;
    s->log_half = f->log_size / 2;
    s->slot_size = (f->size - f->log_size) / 2 / erase * erase;
    s->record_size = padded(QFL_STORE_RECORD, unit);
    return 1;
}

#ifdef QFL_HOST
uint32_t qfl_store_room(const qfl_flash_info *flash)
{
    qfl_store s = {.flash = *flash};
    return divide(&s) ? qfl_store_capacity(&s) : 0;
}
#endif

QFL_COLD qfl_status qfl_store_open(qfl_store *s, const qfl_port *port)
{
    memset(s, 0, sizeof *s);
    s->port = port;
    s->current = s->writing = s->log_current = -1;
    if (port->flash_info(port->ctx, &s->flash) < 0 || s->flash.map == NULL)
        return QFL_E_UNSUPPORTED;
    if (!divide(s)) {
        s->flash.map = NULL;
        return QFL_E_UNSUPPORTED;
    }
    find_current(s);
    if (QFL_LOG)
        qfl_store_log_open(s);
    else
        s->found |= QFL_STORE_NO_LOG;
    return QFL_OK;
}

QFL_COLD const uint8_t *qfl_store_object(const qfl_store *s, uint32_t *length)
{
    if (s->current < 0)
        return NULL;
    *length = s->length;
    return s->flash.map + object_at(s, s->current);
}

QFL_COLD void qfl_store_abort(qfl_store *s)
{
    s->writing = -1;
    s->erase_at = s->erase_end = 0;
    s->intend = 0;
}

/* Bytes of the object in the slot being written that a push before the last reset left, down to the start of an erase unit. */
static uint32_t left_over(const qfl_store *s)
{
    uint8_t r[QFL_STORE_RECORD];
    uint32_t begin = slot_at(s, s->writing), object = object_at(s, s->writing);
    if (s->distrust || !read_record(s, s->writing, INTENT, r) ||
        qfl_get32(r + AT_SEQUENCE) != s->sequence + 1 || qfl_get32(r + AT_LENGTH) != s->new_length ||
        memcmp(r + AT_SHA, s->new_sha256, QFL_SHA256_BYTES) != 0 ||
        !qfl_store_blank(s, begin + s->record_size, s->record_size) ||
        !qfl_store_blank(s, mark_at(s), s->flash.program_unit))
        return 0;
    uint32_t unit = s->flash.erase_unit, last = (object + s->new_length - 1 - begin) / unit;
    while (last > 0 && qfl_store_blank(s, begin + last * unit, unit))
        last--;
    /* The last unit with anything in it may end in a torn write. */
    return last == 0 ? 0 : begin + last * unit - object;
}

QFL_COLD qfl_status qfl_store_begin(qfl_store *s, uint32_t length, const uint8_t *sha256, uint32_t *have)
{
    *have = 0;
    if (length == 0 || length > qfl_store_capacity(s))
        return QFL_E_RANGE;
    if (s->writing < 0 || s->new_length != length || memcmp(s->new_sha256, sha256, QFL_SHA256_BYTES) != 0) {
        qfl_store_abort(s);
        s->writing = s->current == 0 ? 1 : 0;
        s->new_length = length;
        s->tail_n = 0;
        copy_sha(s->new_sha256, sha256);
        s->new_have = left_over(s);
        s->resumed = s->new_have != 0;
        s->intend = !s->resumed;
        s->erase_at = s->resumed ? object_at(s, s->writing) + s->new_have : slot_at(s, s->writing);
        s->erase_end = padded(mark_at(s) + s->flash.program_unit, s->flash.erase_unit);
    }
    if (s->erase_at < s->erase_end)
        return QFL_E_BUSY;
    if (s->intend) {
        s->intend = 0;
        if (write_record(s, INTENT, s->sequence + 1) != QFL_OK) {
            qfl_store_abort(s);
            return QFL_E_IO;
        }
    }
    *have = s->new_have;
    return QFL_OK;
}

QFL_COLD int qfl_store_work(qfl_store *s)
{
    if (s->erase_at >= s->erase_end)
        return QFL_LOG ? qfl_store_log_work(s) : 0;
    if (s->port->flash_erase(s->port->ctx, s->erase_at, s->flash.erase_unit) < 0) {
        qfl_store_abort(s);
        return 0;
    }
    s->erase_at += s->flash.erase_unit;
    return 1;
}

QFL_COLD uint32_t qfl_store_busy_ms(const qfl_store *s)
{
    uint32_t bytes = s->erase_end - s->erase_at + (s->log_wanted ? s->log_half - s->log_erased : 0);
    return s->flash.map == NULL ? 0 : bytes / s->flash.erase_unit * s->flash.worst_erase_ms;
}

/* Programs the waiting tail, filled up with the erased value. */
static qfl_status flush_tail(qfl_store *s)
{
    uint32_t n = padded(s->tail_n, s->flash.program_unit),
             at = object_at(s, s->writing) + s->new_have - s->tail_n;
    if (s->tail_n == 0)
        return QFL_OK;
    memset(s->tail + s->tail_n, s->flash.erased, n - s->tail_n);
    s->tail_n = 0;
    return qfl_store_program(s, at, s->tail, n);
}

QFL_COLD qfl_status qfl_store_write(qfl_store *s, uint32_t offset, const uint8_t *p, uint32_t n)
{
    if (s->writing < 0 || s->erase_at < s->erase_end || s->intend || offset != s->new_have ||
        n > s->new_length - s->new_have)
        return QFL_E_STATE;
    while (n != 0) {
        uint32_t k = QFL_STORE_CHUNK - s->tail_n < n ? QFL_STORE_CHUNK - s->tail_n : n;
        memcpy(s->tail + s->tail_n, p, k);
        s->tail_n += k;
        s->new_have += k;
        p += k;
        n -= k;
        if (s->tail_n == QFL_STORE_CHUNK) {
            qfl_status status = flush_tail(s);
            if (status != QFL_OK) {
                s->distrust = 1;
                qfl_store_abort(s);
                return status;
            }
        }
    }
    return QFL_OK;
}

QFL_COLD qfl_status qfl_store_verify(qfl_store *s, const uint8_t **object)
{
    if (s->writing < 0 || s->erase_at < s->erase_end || s->intend || s->new_have != s->new_length)
        return QFL_E_STATE;
    qfl_status status = flush_tail(s);
    if (status == QFL_OK && !object_ok(s, s->writing, s->new_length, s->new_sha256))
        status = s->resumed ? QFL_E_STATE : QFL_E_HASH;
    if (status == QFL_OK) {
        uint8_t mark[QFL_STORE_CHUNK];
        memset(mark, (uint8_t)~s->flash.erased, sizeof mark);
        status = qfl_store_program(s, mark_at(s), mark, s->flash.program_unit);
    }
    if (status != QFL_OK) {
        s->distrust = 1;
        qfl_store_abort(s);
    } else if (object != NULL) {
        *object = s->flash.map + object_at(s, s->writing);
    }
    return status;
}

QFL_COLD qfl_status qfl_store_commit(qfl_store *s)
{
    if (s->writing < 0 || s->new_have != s->new_length || s->tail_n != 0)
        return QFL_E_STATE;
    if (write_record(s, COMMIT, s->sequence + 1) != QFL_OK) {
        s->distrust = 1;
        qfl_store_abort(s);
        return QFL_E_IO;
    }
    s->sequence++;
    s->current = s->writing;
    s->writing = -1;
    s->distrust = 0;
    s->length = s->new_length;
    copy_sha(s->sha256, s->new_sha256);
    return QFL_OK;
}
