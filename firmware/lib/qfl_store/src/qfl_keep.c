/* Two copies of a small record, written in turn. */
#include <string.h>

#include "qfl_keep.h"
#include "qfl_options.h"
#include "qfl_sha256.h"

enum {
    MAGIC = 0x314B4651,
    RECORD = 8 + QFL_KEEP_BYTES + 8
}; /* "QFK1"; magic, sequence, body, start of a SHA-256 over all that */

static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t place(const qfl_flash_info *f, unsigned copy)
{
    return f->size - (QFL_KEEP_UNITS - copy) * f->erase_unit;
}

static void check_of(const uint8_t *record, uint8_t *out)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, record, RECORD - 8);
    qfl_sha256_end(&h, out);
}

/* Sequence number of a copy, 0 when it is none. */
static uint32_t read_copy(const qfl_keep *k, uint32_t at, uint8_t *record)
{
    uint8_t check[QFL_SHA256_BYTES];
    if (k->port->flash_read(k->port->ctx, at, record, RECORD) < 0 || get32(record) != (uint32_t)MAGIC)
        return 0;
    check_of(record, check);
    return memcmp(check, record + RECORD - 8, 8) == 0 ? get32(record + 4) : 0;
}

QFL_COLD qfl_status qfl_keep_open(qfl_keep *k, const qfl_port *port)
{
    uint8_t record[RECORD];
    memset(k, 0, sizeof *k);
    k->port = port;
    qfl_flash_info f;
    if (port->flash_info(port->ctx, &f) < 0 || f.erase_unit < 256 ||
        f.size / f.erase_unit < 3 * QFL_KEEP_UNITS || f.program_unit < 1 || f.program_unit > 256 ||
        f.erase_unit % f.program_unit != 0)
        return QFL_E_UNSUPPORTED;
    k->usable = 1;
    for (unsigned copy = 0; copy < 2; copy++) {
        uint32_t sequence = read_copy(k, place(&f, copy), record);
        if (sequence > k->sequence) {
            k->sequence = sequence;
            k->copy = (uint8_t)copy;
            memcpy(k->body, record + 8, QFL_KEEP_BYTES);
        }
    }
    return QFL_OK;
}

QFL_COLD int qfl_keep_has(const qfl_keep *k) { return k->sequence != 0; }

QFL_COLD qfl_status qfl_keep_write(qfl_keep *k, const uint8_t *body)
{
    uint8_t record[256], back[RECORD], check[QFL_SHA256_BYTES];
    if (!k->usable)
        return QFL_E_UNSUPPORTED;
    unsigned copy = k->sequence != 0 ? 1u - k->copy : 0;
    qfl_flash_info f;
    if (k->port->flash_info(k->port->ctx, &f) < 0)
        return QFL_E_IO;
    uint32_t unit = f.program_unit, n = (RECORD + unit - 1) / unit * unit, at = place(&f, copy);
    memset(record, f.erased, sizeof record);
    put32(record, MAGIC);
    put32(record + 4, k->sequence + 1);
    memcpy(record + 8, body, QFL_KEEP_BYTES);
    check_of(record, check);
    memcpy(record + RECORD - 8, check, 8);
    const qfl_port *p = k->port;
    if (p->flash_erase(p->ctx, at, f.erase_unit) < 0 || p->flash_program(p->ctx, at, record, n) < 0 ||
        read_copy(k, at, back) != k->sequence + 1 || memcmp(back, record, RECORD) != 0)
        return QFL_E_IO;
    k->sequence++;
    k->copy = (uint8_t)copy;
    memcpy(k->body, body, QFL_KEEP_BYTES);
    return QFL_OK;
}
