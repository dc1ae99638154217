/* What a board says of itself: CBOR (RFC 8949) for the rare full description, fixed fields for the rest. */
#include <string.h>

#include "qfl_device_internal.h"

#ifndef QFL_FIRMWARE_VERSION
#define QFL_FIRMWARE_VERSION "0.1.0"
#endif

enum {
    DIGESTED = 14,
    COUNTERS_SENT = DIGESTED + 6
}; /* numbers of the counters' digest, and those that COUNTERS is answered with */

typedef struct writer {
    uint8_t *p;
    uint32_t n, cap;
} writer;

static void put_head(writer *w, uint8_t major, uint32_t v)
{
    if (w->cap - w->n < 5)
        return;
    uint8_t *p = w->p + w->n;
    if (v < 24) {
        p[0] = (uint8_t)((uint32_t)major << 5 | v);
        w->n += 1;
    } else if (v < 256) {
        p[0] = (uint8_t)(major << 5 | 24);
        p[1] = (uint8_t)v;
        w->n += 2;
    } else {
        p[0] = (uint8_t)(major << 5 | 26);
        for (unsigned i = 0; i < 4; i++)
            p[1 + i] = (uint8_t)(v >> (24 - 8 * i));
        w->n += 5;
    }
}

static void put_bytes(writer *w, uint8_t major, const void *s, uint32_t n)
{
    put_head(w, major, n);
    if (w->cap - w->n >= n) {
        memcpy(w->p + w->n, s, n);
        w->n += n;
    }
}

static void put_text(writer *w, const char *s) { put_bytes(w, 3, s, (uint32_t)strlen(s)); }

/* Names of the numbers, in the order in which qfl_device_on_info lists them; the last six only with a package. */
static const char NUMBERS[] =
    "protocol\0ram\0flash\0arena\0store\0state\0reset\0lost\0uptime_ms\0operators\0selftest\0keys\0kept\0"
    "codecs\0kinds\0parts\0head\0params\0features\0classes\0samples\0capacity";
enum { ALWAYS = 16, WITH_PACKAGE = 6, TEXTS = 3 };

/* What this build has of what may be left out (qfl_options.h). */
enum {
    PARTS = (QFL_KEYS ? QFL_PART_KEYS : 0) | (QFL_STATS ? QFL_PART_STATS : 0) |
    (QFL_PERSONAL ? QFL_PART_PERSONAL : 0) | (QFL_LOG ? QFL_PART_LOG : 0)
};

QFL_COLD void qfl_device_on_info(qfl_device *d, uint8_t number)
{
    const qfl_port *port = d->port;
    writer w = {d->answer, 0, ANSWER_BYTES};
    uint8_t uid[16];
    int32_t uid_n = port->uid(port->ctx, uid, sizeof uid);
    if (qfl_link_pending(d->link) != 0) {
        /* The last long answer may still be on its way from the same buffer. */
        qfl_device_say(d, QFL_MSG_INFO, number, QFL_E_BUSY);
        return;
    }
    const uint32_t v[ALWAYS + WITH_PACKAGE] = {
        QFL_DEVICE_PROTOCOL,
        port->ram_bytes,
        port->flash_bytes,
        d->arena_size,
        d->store.flash.map != NULL ? qfl_store_capacity(&d->store) : 0,
        d->state,
        port->reset_cause(port->ctx),
        port->link_lost(port->ctx, 0),
        port->ms(port->ctx),
        qfl_nn_operators(),
        d->selftest_failed != 0 ? d->selftest_first : 0,
        qfl_device_keys(d),
        qfl_device_persisted(d),
        qfl_codec_kinds(),
        qfl_head_kinds(),
        PARTS,
        d->head_hash,
        d->params,
        d->nn.feature_count,
        d->have_package ? qfl_head_classes(&d->shape) : 0,
        d->samples,
        d->capacity,
    };
    uint32_t count = d->have_package ? ALWAYS + WITH_PACKAGE : ALWAYS;
    int32_t battery = QFL_BATTERY && port->battery_percent != NULL ? port->battery_percent(port->ctx) : -1;
    put_head(&w, 5, count + TEXTS + d->have_package + (battery >= 0));
    put_text(&w, "firmware");
    put_text(&w, QFL_FIRMWARE_VERSION);
    put_text(&w, "board");
    put_text(&w, port->board);
    put_text(&w, "uid");
    put_bytes(&w, 2, uid, uid_n > 0 ? (uint32_t)uid_n : 0);
    if (d->have_package) {
        put_text(&w, "package");
        put_bytes(&w, 2, d->store.sha256, QFL_SHA256_BYTES);
    }
    if (battery >= 0) {
        put_text(&w, "battery");
        put_head(&w, 0, (uint32_t)battery);
    }
    const char *name = NUMBERS;
    for (uint32_t i = 0; i < count; i++, name += strlen(name) + 1) {
        put_text(&w, name);
        put_head(&w, 0, v[i]);
    }
    qfl_device_answer(d, QFL_MSG_INFO, number, QFL_OK, NULL, 0, w.p, w.n);
}

QFL_COLD void qfl_device_on_status(qfl_device *d, uint8_t number)
{
    uint8_t b[22];
    const qfl_port *port = d->port;
    uint32_t rejected = d->rejected + port->sample_lost(port->ctx);
    b[0] = d->state;
    b[1] = (uint8_t)(d->have_package | d->have_config << 1 | d->round.done << 2 | d->log.restored << 3 |
                     d->personal.in_use << 4);
    qfl_put16(b + 2, (uint16_t)d->samples);
    qfl_put16(b + 4, (uint16_t)d->capacity);
    qfl_put32(b + 6, d->head_hash);
    qfl_put16(b + 10, d->round.number);
    qfl_put32(b + 12, rejected);
    qfl_put16(b + 16, d->personal.held);
    qfl_put16(b + 18, d->personal.global_hits);
    qfl_put16(b + 20, d->personal.hits);
    qfl_device_answer(d, QFL_MSG_STATUS, number, QFL_OK, b, sizeof b, NULL, 0);
}

QFL_COLD void qfl_device_selftest(qfl_device *d, void *mem)
{
    uint32_t first;
    d->selftest_failed = (uint16_t)qfl_nn_selftest(mem, &first);
    d->selftest_first = (uint16_t)first;
}

/* Memory for it while a package is loaded: what is left for samples, or else the board has to be reset, which tests it too. */
static void *spare_memory(const qfl_device *d)
{
    uintptr_t at = (uintptr_t)d->arena + d->model_at;
    if (d->have_package) {
        if (d->samples >= d->capacity)
            return NULL;
        at = (uintptr_t)(d->features + (size_t)d->samples * d->row);
    }
    at = (at + 15u) & ~(uintptr_t)15u;
    uintptr_t end = d->have_package ? (uintptr_t)(d->features + (size_t)d->capacity * d->row)
                                    : (uintptr_t)d->arena + d->arena_size;
    return at + QFL_NN_SELFTEST_BYTES <= end ? (void *)at : NULL;
}

QFL_COLD void qfl_device_on_selftest(qfl_device *d, uint8_t number)
{
    uint8_t b[6];
    void *mem = spare_memory(d);
    if (mem == NULL) {
        qfl_device_say(d, QFL_MSG_SELFTEST, number, QFL_E_NOMEM);
        return;
    }
    qfl_device_selftest(d, mem);
    qfl_put16(b, (uint16_t)qfl_nn_selftest_count());
    qfl_put16(b + 2, d->selftest_failed);
    qfl_put16(b + 4, d->selftest_first);
    qfl_device_answer(d, QFL_MSG_SELFTEST, number, QFL_OK, b, sizeof b, NULL, 0);
}

/* The counters in their order on the wire: sent by category and its checksum, received by category and its checksum. */
static void pack_counters(const qfl_link_counters *c, int peer, uint32_t *v)
{
    const uint32_t tx[DIGESTED / 2] = {c->tx_payload,        c->tx_framing,   c->tx_acknowledgement,
                                       c->tx_retransmission, c->tx_handshake, c->tx_security,
                                       c->tx_checksum};
    const uint32_t rx[DIGESTED / 2] = {c->rx_payload,        c->rx_framing,   c->rx_acknowledgement,
                                       c->rx_retransmission, c->rx_handshake, c->rx_security,
                                       c->rx_checksum};
    memcpy(v, peer ? rx : tx, sizeof tx);
    memcpy(v + DIGESTED / 2, peer ? tx : rx, sizeof rx);
}

QFL_COLD uint32_t qfl_device_counters_digest(const qfl_link_counters *c, int peer)
{
    uint32_t v[DIGESTED];
    uint8_t b[4 * DIGESTED];
    pack_counters(c, peer, v);
    for (unsigned i = 0; i < DIGESTED; i++)
        qfl_put32(b + 4 * i, v[i]);
    return qfl_link_crc32(0, b, sizeof b) & 0xFFFFu;
}

QFL_COLD void qfl_device_on_counters(qfl_device *d, uint8_t number)
{
    qfl_link_counters c;
    uint32_t v[COUNTERS_SENT];
    if (qfl_link_pending(d->link) != 0) { /* as for INFO */
        qfl_device_say(d, QFL_MSG_COUNTERS, number, QFL_E_BUSY);
        return;
    }
    qfl_link_get_counters(d->link, &c);
    pack_counters(&c, 0, v);
    v[DIGESTED] = c.rx_noise;
    v[DIGESTED + 1] = c.tx_frames;
    v[DIGESTED + 2] = c.rx_frames;
    v[DIGESTED + 3] = c.rx_bad_frames;
    v[DIGESTED + 4] = d->port->link_lost(d->port->ctx, 0);
    v[DIGESTED + 5] = d->boot;
    for (unsigned i = 0; i < COUNTERS_SENT; i++)
        qfl_put32(d->answer + 4 * i, v[i]);
    qfl_device_answer(d, QFL_MSG_COUNTERS, number, QFL_OK, NULL, 0, d->answer, 4 * COUNTERS_SENT);
}

QFL_COLD void qfl_device_counters(const qfl_device *d, qfl_link_counters *out)
{
    qfl_link_get_counters(d->link, out);
}
