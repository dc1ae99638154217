/* Two copies of a small record, written in turn. */
#include <string.h>

#include "qfl_bytes.h"
#include "qfl_keystore.h"
#include "qfl_options.h"
#include "qfl_sha256.h"

/* magic "QFK1", sequence, body, start of a SHA-256 over all that; the mark says "WHOLE". */
enum { MAGIC = 0x314B4651, MARK = 0x4C484F57, RECORD = 8 + QFL_KEYSTORE_BYTES + 8, FLIPS = 3 };

static uint32_t place(const qfl_flash_info *f, unsigned copy)
{
    return f->size - (QFL_KEYSTORE_UNITS - copy) * f->erase_unit;
}

static void check_of(const uint8_t *record, uint8_t *out)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, record, RECORD - 8);
    qfl_sha256_end(&h, out);
}

/* Sequence number of a copy, 0 when it is none. */
static uint32_t read_copy(const qfl_keystore *k, uint32_t at, uint8_t *record)
{
    uint8_t check[QFL_SHA256_BYTES];
    if (k->port->flash_read(k->port->ctx, at, record, RECORD) < 0 || qfl_get32(record) != (uint32_t)MAGIC)
        return 0;
    check_of(record, check);
    return memcmp(check, record + RECORD - 8, 8) == 0 ? qfl_get32(record + 4) : 0;
}

static uint32_t padded(const qfl_flash_info *f)
{
    return (RECORD + f->program_unit - 1) / f->program_unit * f->program_unit;
}

/* Bytes of the mark's own program units; 0: an erase unit has no room for it. */
static uint32_t mark_bytes(const qfl_flash_info *f)
{
    uint32_t n = f->program_unit < 4 ? 4 : f->program_unit;
    return padded(f) + n <= f->erase_unit ? n : 0;
}

/* 1: a copy was whole once, whatever has become of it; a few bits of the mark may have flipped too. */
static int was_whole(const qfl_keystore *k, const qfl_flash_info *f, uint32_t at)
{
    uint8_t mark[4];
    if (mark_bytes(f) == 0 || k->port->flash_read(k->port->ctx, at + padded(f), mark, sizeof mark) < 0)
        return 0;
    uint32_t differ = qfl_get32(mark) ^ (uint32_t)MARK, flips = 0;
    for (; differ != 0; differ &= differ - 1)
        flips++;
    return flips <= FLIPS;
}

/* 1: two bodies are the same but for what counts on. */
static int same_body(const uint8_t *a, const uint8_t *b)
{
    uint32_t behind = QFL_KEYSTORE_COUNTER_AT + QFL_KEYSTORE_COUNTER_BYTES;
    return memcmp(a, b, QFL_KEYSTORE_COUNTER_AT) == 0 &&
           memcmp(a + behind, b + behind, QFL_KEYSTORE_BYTES - behind) == 0;
}

QFL_COLD qfl_status qfl_keystore_open(qfl_keystore *k, const qfl_port *port)
{
    uint8_t record[RECORD];
    memset(k, 0, sizeof *k);
    k->port = port;
    qfl_flash_info f;
    if (port->flash_info(port->ctx, &f) < 0 || f.erase_unit < 256 ||
        f.size / f.erase_unit < 3 * QFL_KEYSTORE_UNITS || f.program_unit < 1 || f.program_unit > 256 ||
        f.erase_unit % f.program_unit != 0)
        return QFL_E_UNSUPPORTED;
    k->usable = 1;
    k->alone = 1;
    for (unsigned copy = 0; copy < 2; copy++) {
        uint32_t sequence = read_copy(k, place(&f, copy), record);
        if (sequence == 0) {
            k->damaged |= (uint8_t)was_whole(k, &f, place(&f, copy));
            continue;
        }
        k->alone = !(k->sequence != 0 && same_body(k->body, record + 8));
        if (sequence > k->sequence) {
            k->sequence = sequence;
            k->copy = (uint8_t)copy;
            memcpy(k->body, record + 8, QFL_KEYSTORE_BYTES);
        }
    }
    if (k->sequence != 0)
        k->damaged = 0;
    return QFL_OK;
}

QFL_COLD int qfl_keystore_has(const qfl_keystore *k) { return k->sequence != 0; }

QFL_COLD qfl_status qfl_keystore_write(qfl_keystore *k, const uint8_t *body)
{
    uint8_t record[256], back[RECORD], check[QFL_SHA256_BYTES];
    if (!k->usable)
        return QFL_E_UNSUPPORTED;
    unsigned copy = k->sequence != 0 ? 1u - k->copy : 0;
    qfl_flash_info f;
    if (k->port->flash_info(k->port->ctx, &f) < 0)
        return QFL_E_IO;
    uint32_t n = padded(&f), at = place(&f, copy), mark = mark_bytes(&f);
    memset(record, f.erased, sizeof record);
    qfl_put32(record, MAGIC);
    qfl_put32(record + 4, k->sequence + 1);
    memcpy(record + 8, body, QFL_KEYSTORE_BYTES);
    check_of(record, check);
    memcpy(record + RECORD - 8, check, 8);
    const qfl_port *p = k->port;
    if (p->flash_erase(p->ctx, at, f.erase_unit) < 0 || p->flash_program(p->ctx, at, record, n) < 0 ||
        read_copy(k, at, back) != k->sequence + 1 || memcmp(back, record, RECORD) != 0)
        return QFL_E_IO;
    if (mark != 0) { /* the record holds without it */
        memset(record, f.erased, sizeof record);
        qfl_put32(record, MARK);
        (void)p->flash_program(p->ctx, at + n, record, mark);
    }
    k->alone = !(k->sequence != 0 && !k->damaged && same_body(k->body, body));
    k->damaged = 0;
    k->sequence++;
    k->copy = (uint8_t)copy;
    memcpy(k->body, body, QFL_KEYSTORE_BYTES);
    return QFL_OK;
}
