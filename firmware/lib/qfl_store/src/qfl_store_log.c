/* A log in two halves: the snapshot a half begins with makes it the current one. */
#include "qfl_store_internal.h"

enum { MAGIC = 0x474C4651, PARTS_MAX = 5 }; /* "QFLG" */
enum { AT_TYPE = 4, AT_GENERATION = 8, AT_LENGTH = 12, AT_CHECK = 16 };

static uint32_t half_at(const qfl_store *s, int half) { return half > 0 ? s->log_half : 0; }
static uint32_t head_size(const qfl_store *s) { return padded(QFL_STORE_LOG_RECORD, step_of(s)); }

QFL_COLD uint32_t qfl_store_log_capacity(const qfl_store *s)
{
    return s->flash.map != NULL && s->log_half != 0 ? s->log_half - head_size(s) : 0;
}

/* The whole record at `at` of a half: payload length in *n; 0 when there is none. */
static int read_log(const qfl_store *s, int half, uint32_t at, uint8_t *r, uint32_t *n)
{
    uint8_t digest[QFL_SHA256_BYTES];
    qfl_sha256 h;
    uint32_t begin = half_at(s, half) + at;
    if (at + head_size(s) > s->log_half ||
        s->port->flash_read(s->port->ctx, begin, r, QFL_STORE_LOG_RECORD) < 0 ||
        qfl_get32(r) != (uint32_t)MAGIC)
        return 0;
    *n = qfl_get32(r + AT_LENGTH);
    if (*n > s->log_half - at - head_size(s))
        return 0;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, r, AT_CHECK);
    if (qfl_store_hash(s, begin + head_size(s), *n, &h) != QFL_OK)
        return 0;
    qfl_sha256_end(&h, digest);
    return memcmp(digest, r + AT_CHECK, QFL_STORE_CHECK) == 0;
}

QFL_COLD int qfl_store_log_next(const qfl_store *s, uint32_t *at, uint8_t *type, const uint8_t **p,
                                uint32_t *n)
{
    uint8_t r[QFL_STORE_LOG_RECORD];
    if (s->log_current < 0 || !read_log(s, s->log_current, *at, r, n) ||
        qfl_get32(r + AT_GENERATION) != s->log_generation)
        return 0;
    *type = r[AT_TYPE];
    *p = s->flash.map + half_at(s, s->log_current) + *at + head_size(s);
    *at += head_size(s) + padded(*n, step_of(s));
    return 1;
}

QFL_COLD void qfl_store_log_open(qfl_store *s)
{
    uint8_t r[QFL_STORE_LOG_RECORD], type;
    const uint8_t *p;
    uint32_t n, at = 0;
    if (s->log_half == 0) {
        s->found |= QFL_STORE_NO_LOG;
        return;
    }
    for (int half = 0; half < 2; half++)
        if (read_log(s, half, 0, r, &n) && qfl_get32(r + AT_GENERATION) > s->log_generation) {
            s->log_generation = qfl_get32(r + AT_GENERATION);
            s->log_current = (int8_t)half;
        }
    while (qfl_store_log_next(s, &at, &type, &p, &n))
        ;
    int half = s->log_current;
    s->found |= half >= 0 ? QFL_STORE_LOG : 0;
    if (half >= 0 && at < s->log_half && !qfl_store_blank(s, half_at(s, half) + at, s->log_half - at))
        s->found |= QFL_STORE_CUT_LOG;
}

QFL_COLD uint32_t qfl_store_log_room(const qfl_store *s)
{
    return s->log_end != 0 ? s->log_half - s->log_end : 0;
}
QFL_COLD void qfl_store_log_prepare(qfl_store *s)
{
    s->log_wanted = s->log_half != 0 && s->log_erased < s->log_half;
}

QFL_COLD int qfl_store_log_work(qfl_store *s)
{
    if (!s->log_wanted)
        return 0;
    int other = s->log_current == 0 ? 1 : 0;
    if (s->port->flash_erase(s->port->ctx, half_at(s, other) + s->log_erased, s->flash.erase_unit) < 0) {
        s->log_wanted = 0;
        return 0;
    }
    s->log_erased += s->flash.erase_unit;
    s->log_wanted = s->log_erased < s->log_half;
    return 1;
}

QFL_COLD qfl_status qfl_store_log_roll(qfl_store *s)
{
    if (qfl_store_log_capacity(s) == 0)
        return QFL_E_UNSUPPORTED;
    qfl_store_log_prepare(s);
    if (s->log_wanted)
        return QFL_E_BUSY;
    s->log_rolling = 1;
    return QFL_OK;
}

/* Parts, one after the other, in chunks padded with the erased value. */
static qfl_status write_parts(const qfl_store *s, uint32_t at, const qfl_store_part *parts, uint32_t count)
{
    uint8_t chunk[QFL_STORE_CHUNK];
    uint32_t k = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t done = 0; done < parts[i].n;) {
            uint32_t take = QFL_STORE_CHUNK - k < parts[i].n - done ? QFL_STORE_CHUNK - k : parts[i].n - done;
            memcpy(chunk + k, (const uint8_t *)parts[i].p + done, take);
            done += take;
            k += take;
            if (k == QFL_STORE_CHUNK) {
                if (qfl_store_program(s, at, chunk, k) != QFL_OK)
                    return QFL_E_IO;
                at += k;
                k = 0;
            }
        }
    uint32_t n = padded(k, s->flash.program_unit);
    memset(chunk + k, s->flash.erased, n - k);
    return k != 0 ? qfl_store_program(s, at, chunk, n) : QFL_OK;
}

QFL_COLD qfl_status qfl_store_log_append(qfl_store *s, uint8_t type, const qfl_store_part *parts,
                                         uint32_t count)
{
    uint8_t r[QFL_STORE_CHUNK], digest[QFL_SHA256_BYTES];
    uint32_t n = 0, at = s->log_rolling ? 0 : s->log_end, generation = s->log_generation + s->log_rolling;
    int half = s->log_rolling ? (s->log_current == 0 ? 1 : 0) : s->log_current;
    for (uint32_t i = 0; i < count; i++)
        n += parts[i].n;
    if (count > PARTS_MAX || (at == 0 && !s->log_rolling) || s->log_half == 0 ||
        at + head_size(s) > s->log_half || n > s->log_half - at - head_size(s))
        return QFL_E_NOMEM;
    memset(r, s->flash.erased, sizeof r);
    qfl_put32(r, MAGIC);
    qfl_put32(r + AT_TYPE, type);
    qfl_put32(r + AT_GENERATION, generation);
    qfl_put32(r + AT_LENGTH, n);
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, r, AT_CHECK);
    for (uint32_t i = 0; i < count; i++)
        qfl_sha256_add(&h, parts[i].p, parts[i].n);
    qfl_sha256_end(&h, digest);
    memcpy(r + AT_CHECK, digest, QFL_STORE_CHECK);
    uint32_t begin = half_at(s, half) + at, end = at + head_size(s) + padded(n, step_of(s));
    qfl_status status = write_parts(s, begin + head_size(s), parts, count);
    if (status == QFL_OK)
        status = qfl_store_program(s, begin, r, padded(QFL_STORE_LOG_RECORD, s->flash.program_unit));
    if (s->log_rolling) {
        s->log_rolling = 0;
        s->log_erased = 0; /* either it is the other one now, or it is spoilt */
    }
    if (status != QFL_OK) {
        s->log_end = 0; /* nothing goes behind a record that failed */
        return status;
    }
    s->log_current = (int8_t)half;
    s->log_generation = generation;
    s->log_end = end;
    return QFL_OK;
}
