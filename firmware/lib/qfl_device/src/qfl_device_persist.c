/*
 * What survives a reset beside the package: configuration, head, residual, and the delta of the last round, so that a board that
 * was reset goes on with the bytes it would have sent. Written to the store's log before a request is answered; docs/STORE.md.
 */
#include <string.h>

#include "qfl_device_internal.h"

/* Records of the log. SNAPSHOT: binding, configuration, head, round; the others: what has changed since. */
enum { SNAPSHOT = 1, CONFIG = 2, UPDATE = 3, ROUND = 4, HEAD = 5 };
enum { BIND = 4 + QFL_SHA256_BYTES, CONFIG_AT = BIND + 4, HEAD_AT = CONFIG_AT + 36, ROUND_HEAD = 20 };
enum { QUICK_MS = 200, OVERHEAD = 2 * 256 + 64 };
_Static_assert(QFL_CONFIG_BYTES <= 36 && HEAD_AT % 4 == 0, "a snapshot's fields");

/* 1: the log can take a snapshot of this package's state. Without QFL_LOG nothing behind this question is linked. */
static int persists(const qfl_device *d)
{
    if (!QFL_LOG)
        return 0;
    uint32_t most = HEAD_AT + 4 * d->params + ROUND_HEAD + d->params + 4 * d->params + SLACK_BYTES;
    return d->have_package && d->params != 0 && qfl_store_log_capacity(&d->store) >= most;
}

QFL_COLD uint32_t qfl_device_persisted(const qfl_device *d)
{
    return d->store.found | (persists(d) ? 32u : 0) | (d->log.failed ? 64u : 0);
}

QFL_COLD int qfl_device_persist_ready(qfl_device *d, uint32_t n)
{
    qfl_store *s = &d->store;
    if (!persists(d) || s->log_rolling || qfl_store_log_room(s) >= n + OVERHEAD)
        return 1;
    while (qfl_store_log_roll(s) == QFL_E_BUSY)
        if (qfl_store_busy_ms(s) > QUICK_MS)
            return 0;
        else if (!qfl_store_work(s))
            break;
    return 1;
}

static void pack_round(const qfl_device *d, uint8_t *b)
{
    b[0] = d->round.done;
    b[1] = d->round.number;
    b[2] = d->round.step;
    b[3] = (uint8_t)d->round.status;
    qfl_put16(b + 4, d->round.samples);
    b[6] = d->round.loss;
    b[7] = d->round.residual_round;
    qfl_put32(b + 8, d->round.head);
    qfl_put_float(b + 12, d->round.residual_step);
    qfl_put32(b + 16, d->round.done && d->round.status == QFL_OK ? d->round.size : 0);
}

static void record(qfl_device *d, uint8_t type, const qfl_store_part *parts, uint32_t count)
{
    qfl_store *s = &d->store;
    if (!persists(d))
        return;
    qfl_status status = s->log_rolling ? QFL_E_NOMEM : qfl_store_log_append(s, type, parts, count);
    if (status != QFL_OK) { /* the other half, with everything */
        uint8_t front[HEAD_AT] = {0}, round[ROUND_HEAD];
        qfl_put32(front, s->sequence);
        memcpy(front + 4, s->sha256, QFL_SHA256_BYTES);
        front[BIND] = d->have_config;
        memcpy(front + CONFIG_AT, d->config_bytes, QFL_CONFIG_BYTES);
        pack_round(d, round);
        const qfl_store_part all[5] = {{front, sizeof front},
                                       {d->global, 4 * d->params},
                                       {round, sizeof round},
                                       {d->round.residual, d->round.residual_step != 0.0f ? d->params : 0},
                                       {d->work, qfl_get32(round + 16)}};
        while ((status = qfl_store_log_roll(s)) == QFL_E_BUSY && qfl_store_work(s))
            ;
        if (status == QFL_OK)
            status = qfl_store_log_append(s, SNAPSHOT, all, 5);
    }
    d->log.failed = status != QFL_OK;
    if (qfl_store_log_room(s) < s->log_half / 2)
        qfl_store_log_prepare(s);
}

QFL_COLD void qfl_device_persist_config(qfl_device *d)
{
    const qfl_store_part part = {d->config_bytes, QFL_CONFIG_BYTES};
    record(d, CONFIG, &part, 1);
}

QFL_COLD void qfl_device_persist_update(qfl_device *d, const uint8_t *p, uint32_t n)
{
    uint8_t result[4];
    qfl_put32(result, d->head_hash);
    const qfl_store_part parts[2] = {{result, 4}, {p, n}};
    record(d, UPDATE, parts, 2);
}

QFL_COLD void qfl_device_persist_head(qfl_device *d)
{
    const qfl_store_part part = {d->global, 4 * d->params};
    record(d, HEAD, &part, 1);
}

QFL_COLD void qfl_device_persist_round(qfl_device *d)
{
    uint8_t round[ROUND_HEAD];
    pack_round(d, round);
    const qfl_store_part parts[3] = {{round, sizeof round},
                                     {d->round.residual, d->round.residual_step != 0.0f ? d->params : 0},
                                     {d->work, qfl_get32(round + 16)}};
    record(d, ROUND, parts, 3);
}

/* A float that may have come from anywhere: finite and not negative, or 0. */
static float step_of(const uint8_t *p)
{
    uint32_t u = qfl_get32(p);
    return (u & 0x7F800000u) == 0x7F800000u || u >> 31 ? 0.0f : qfl_get_float(p);
}

static int take_round(qfl_device *d, const uint8_t *p, uint32_t n)
{
    if (n < ROUND_HEAD)
        return 0;
    float step = step_of(p + 12);
    uint32_t size = qfl_get32(p + 16), residual = step != 0.0f ? d->params : 0;
    if (size > 4 * d->params + SLACK_BYTES || n != ROUND_HEAD + residual + size)
        return 0;
    d->round.residual_step = step;
    d->round.residual_round = p[7];
    memcpy(d->round.residual, p + ROUND_HEAD, residual);
    d->round.number = p[1];
    d->round.step = p[2];
    d->round.status = (int8_t)p[3];
    d->round.samples = qfl_get16(p + 4);
    d->round.loss = p[6];
    d->round.head = qfl_get32(p + 8);
    d->round.size = size;
    d->round.done = p[0] != 0 && (size != 0 || d->round.status < 0);
    if (d->round.done)
        memcpy(d->work, p + ROUND_HEAD + residual, size);
    return 1;
}

static int take_head(qfl_device *d, const uint8_t *p)
{
    for (uint32_t i = 0; i < d->params; i++)
        if ((qfl_get32(p + 4 * i) & 0x7F800000u) == 0x7F800000u)
            return 0;
    memcpy(d->global, p, 4 * d->params);
    d->head_hash = qfl_device_head_hash(d->global, d->params);
    d->round.done = 0;
    return 1;
}

static int take_snapshot(qfl_device *d, const uint8_t *p, uint32_t n)
{
    uint32_t round = HEAD_AT + 4 * d->params;
    if (n < round + ROUND_HEAD || qfl_get32(p) != d->store.sequence ||
        memcmp(p + 4, d->store.sha256, QFL_SHA256_BYTES) != 0)
        return 0; /* of another package */
    if (p[BIND] != 0 && qfl_device_take_config(d, p + CONFIG_AT) != QFL_OK)
        return 0;
    return take_head(d, p + HEAD_AT) && take_round(d, p + round, n - round);
}

QFL_COLD void qfl_device_restore(qfl_device *d)
{
    uint32_t at = 0, n;
    uint8_t type;
    const uint8_t *p;
    int first = 1, good = 1;
    while (persists(d) && good && qfl_store_log_next(&d->store, &at, &type, &p, &n)) {
        if (first)
            good = type == SNAPSHOT && take_snapshot(d, p, n);
        else if (type == CONFIG)
            good = n == QFL_CONFIG_BYTES && qfl_device_take_config(d, p) == QFL_OK;
        else if (type == UPDATE)
            good = n >= 4 && qfl_device_lead(d, qfl_get32(p), p + 4, n - 4) == QFL_OK;
        else if (type == HEAD)
            good = n == 4 * d->params && take_head(d, p);
        else
            good = type == ROUND && take_round(d, p, n);
        d->log.restored |= (uint8_t)(good != 0);
        first = 0;
    }
}
