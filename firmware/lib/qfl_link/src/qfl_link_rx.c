/* Receiving: bytes to frames to messages. */
#include <string.h>

#include "qfl_link_internal.h"

/* The message under way is complete when every frame up to FIN has come. */
static void check_complete(qfl_link *l)
{
    if (!l->rx_fin_known || l->rx_next != (uint8_t)(l->rx_fin + 1))
        return;
    l->rx_n = (l->rx_frames - 1) * l->frame + l->rx_fin_bytes;
    l->rx_frames = 0;
    l->rx_number = (l->rx_number + 1u) & MSG_MASK;
    l->rx_fin_known = 0;
    l->rx_started = l->rx_kind_known = 0;
    l->rx_ready = 1;
}

/* Counts a frame of the message under way. Its kind stands in the first frame, which may come later than others. */
static void count_data(qfl_link *l, uint32_t index, const uint8_t *body, uint32_t payload, uint32_t wire)
{
    uint32_t security = qfl_link_security_bytes(l);
    l->rx_late_payload += payload;
    l->rx_late_framing += wire - payload - security;
    l->rx_late_security += security;
    if (index == 0) {
        l->rx_kind = payload != 0 ? qfl_link_kind(body[0]) : 0;
        l->rx_kind_known = 1;
    }
    if (l->rx_kind_known)
        qfl_link_count_late(l, l->rx_kind);
}

/* A frame that is not used: its kind is known when the frame itself or others of its message have come before. */
static void count_unused(qfl_link *l, uint8_t seq, int here, uint32_t wire)
{
    uint8_t behind = (uint8_t)(l->rx_next - seq);
    uint8_t kind = here                                  ? (l->rx_kind_known ? l->rx_kind : 0)
                   : behind >= 1 && behind <= KINDS_KEPT ? l->rx_kinds[seq % KINDS_KEPT]
                                                         : 0;
    qfl_link_count(l, QFL_LINK_RX, kind, QFL_LINK_RETRANSMISSION, wire);
}

/* Frames of an unfinished message that are acknowledged together. */
static uint32_t ack_every(const qfl_link *l)
{
    return l->frame < ACK_SMALL ? (l->window + 3u) / 4 : (l->window + 1u) / 2;
}

static void on_data(qfl_link *l, const uint8_t *p, uint32_t n, uint32_t wire, uint32_t now_ms)
{
    uint8_t seq = p[1], ahead = (uint8_t)(seq - l->rx_next);
    uint32_t payload = n - DATA_HEADER;
    int fin = (p[0] & TYPE_MASK) == TYPE_FIN;
    qfl_link_on_ack(l, p[2], 0, now_ms);
    if (ahead >= l->window || (l->rx_have >> ahead & 1u)) { /* an old frame: its acknowledgement was lost */
        count_unused(l, seq, ahead < l->window, wire);
        l->pending_acks = l->pending_acks ? l->pending_acks : 1;
        l->lead_ack = 1;
        l->since_ack = 0;
        return;
    }
    /* Only frames of the message under way have a place; a later message's frame ahead of a gap has to come again. */
    uint64_t at = (uint64_t)(l->rx_frames + ahead) * l->frame;
    int same = ((p[0] >> MSG_SHIFT) & MSG_MASK) == l->rx_number &&
               !(l->rx_fin_known && ahead > (uint8_t)(l->rx_fin - l->rx_next));
    int fits = payload <= l->frame && (fin || payload == l->frame) && at + payload <= l->config.message_max;
    if (!same || !fits) {
        count_unused(l, seq, same, wire);
        if (!same && ahead != 0) {
            l->pending_acks = l->pending_acks ? l->pending_acks : 1;
            l->pending_dropped = 1;
            l->dropped = seq;
        }
        return;
    }
    if (!l->rx_started) {
        l->before = l->count;
        l->before.rx_frames--; /* this one */
        l->rx_started = 1;
    }
    count_data(l, l->rx_frames + ahead, p + DATA_HEADER, payload, wire);
    memcpy(l->message + at, p + DATA_HEADER, payload);
    l->rx_have |= (uint16_t)(1u << ahead);
    if (fin) {
        l->rx_fin_known = 1;
        l->rx_fin = seq;
        l->rx_fin_bytes = payload;
    }
    if (ahead != 0) { /* a gap: tell the sender at once */
        l->pending_acks = l->pending_acks ? l->pending_acks : 1;
        l->since_ack = 0;
        return;
    }
    while (l->rx_have & 1u) {
        l->rx_have >>= 1;
        l->rx_kinds[l->rx_next % KINDS_KEPT] = l->rx_kind;
        l->rx_next++;
        l->rx_frames++;
        l->since_ack++;
    }
    check_complete(l);
    if (l->since_ack >= ack_every(l) && !l->rx_ready) {
        l->pending_acks++;
        l->since_ack = 0;
    }
}

static void put_terms(qfl_link *l, const uint8_t *p)
{
    uint32_t frame = qfl_get16(p + 7);
    l->window = p[6] < l->config.window ? p[6] : l->config.window;
    l->frame = frame < l->config.frame_max ? frame : l->config.frame_max;
    l->peer_message_max = qfl_get32(p + 9);
}

QFL_COLD void qfl_link_established(qfl_link *l, const uint8_t *p)
{
    l->nonce = qfl_get32(p + 2);
    l->session_bits = l->nonce & 3u;
    l->session++;
    put_terms(l, p);
    l->heard_ms = l->now_ms;
    l->pending_handshake = 0;
    l->state = QFL_LINK_UP;
}

static int terms_ok(const uint8_t *p, uint32_t n)
{
    uint32_t frame = n >= SYN_BYTES ? qfl_get16(p + 7) : 0;
    return n >= SYN_BYTES && n <= SYNACK_MAX && p[6] >= 1 && p[6] <= QFL_LINK_WINDOW_MAX &&
           frame >= QFL_LINK_FRAME_MIN && qfl_get32(p + 9) >= QFL_LINK_HEAD_MAX;
}

static void on_handshake(qfl_link *l, const uint8_t *p, uint32_t n)
{
    uint8_t type = p[0] & TYPE_MASK;
    if (type == TYPE_SYN && !qfl_link_initiates(l) && terms_ok(p, n)) {
        uint32_t nonce = l->syn_nonce = qfl_get32(p + 2);
        int open = qfl_link_secure_on_syn(l, p, n) && p[1] == QFL_LINK_VERSION;
        if (open && (l->state != QFL_LINK_UP || nonce != l->nonce)) {
            qfl_link_reset_session(l);
            qfl_link_established(l, p);
        }
        l->pending_handshake =
            TYPE_SYNACK; /* another version is answered too: the initiator reads ours from it */
    } else if (type == TYPE_SYNACK && qfl_link_initiates(l) && l->state == QFL_LINK_CONNECTING &&
               terms_ok(p, n) && qfl_get32(p + 2) == l->nonce) {
        if (p[1] != QFL_LINK_VERSION) {
            l->state = QFL_LINK_DOWN;
            return;
        }
        if (qfl_link_secure_synack(l, p, n))
            qfl_link_established(l, p);
    } else if (type == TYPE_RST && qfl_link_initiates(l) && l->state == QFL_LINK_UP &&
               p[0] >> SESSION_SHIFT == l->session_bits) {
        l->state = QFL_LINK_DOWN;
    }
}

/* What an ACK says beyond its bitmap. */
static void on_more(qfl_link *l, const uint8_t *p, uint32_t n, uint32_t now_ms)
{
    if (n == ACK_ASK_BYTES && p[ACK_BYTES_MAX] == SAY_ASK) {
        l->pending_acks = l->pending_acks ? l->pending_acks : 1;
        l->lead_ack = 1;
        l->since_ack = 0;
    } else if (n == ACK_DROPPED_BYTES && p[ACK_BYTES_MAX] == SAY_DROPPED) {
        qfl_link_on_dropped(l, p[ACK_BYTES_MAX + 1]);
    } else if (n == ACK_BUSY_BYTES && p[ACK_BYTES_MAX] == SAY_BUSY) {
        uint32_t ms = qfl_get32(p + ACK_BYTES_MAX + 1);
        l->peer_busy = 1;
        l->busy_until_ms = now_ms + (ms < BUSY_MAX_MS ? ms : BUSY_MAX_MS);
    }
}

static int length_ok(uint8_t type, uint32_t n)
{
    if (type == TYPE_DATA)
        return n >= DATA_HEADER;
    if (type == TYPE_ACK)
        return (n >= 2 && n <= ACK_DROPPED_BYTES) || n == ACK_BUSY_BYTES;
    return type <= TYPE_RST;
}

/* A board without a session says so at once to whoever believes to have one, instead of letting it time out. */
static void answer_reset(qfl_link *l, uint8_t first)
{
    l->session_bits = first >> SESSION_SHIFT;
    l->pending_handshake = TYPE_RST;
}

/*
 * Tries raw[at, raw_n) as a frame of `wire` bytes with its delimiters. Returns 0 when it is none; raw is left as it is. Here every
 * frame is accepted or refused, with keys and without.
 */
static int on_frame(qfl_link *l, uint32_t at, uint32_t wire, uint32_t now_ms)
{
    uint8_t *p = l->plain;
    if (l->raw_n - at > l->raw_cap)
        return 0;
    memcpy(p, l->raw + at, l->raw_n - at);
    int32_t len = qfl_link_cobs_decode(p, l->raw_n - at);
    if (len < 1 + CRC_BYTES)
        return 0;
    uint8_t type = qfl_link_type(p[0]);
    int32_t unsealed = qfl_link_sealed(l) || qfl_link_keyed(l) ? qfl_link_unseal(l, p, (uint32_t)len) : -1;
    uint32_t n = unsealed >= 0 ? (uint32_t)unsealed : (uint32_t)len - CRC_BYTES;
    int asks = type == TYPE_DATA ||
               (type == TYPE_ACK && n == ACK_ASK_BYTES); /* and so wants to be told that nobody is there */
    if (unsealed < 0 &&
        ((qfl_link_sealed(l) && type < TYPE_SYN) || qfl_link_crc32(0, p, n) != qfl_get32(p + n))) {
        /* A board that was reset cannot read what is sealed: it says so as it does to plain frames. A frame of the session that
         * is being opened may have suffered on the line; that is no reason to end it. */
        int opening = l->secure.pending && p[0] >> SESSION_SHIFT == l->secure.syn[0] >> SESSION_SHIFT;
        if (qfl_link_keyed(l) && l->state != QFL_LINK_UP && !opening && type != TYPE_RST &&
            n >= DATA_HEADER + SEAL_BYTES - CRC_BYTES)
            answer_reset(l, p[0]);
        return 0;
    }
    if (!length_ok(type, n))
        return 0;
    l->count.rx_frames++;
    if (type >= TYPE_SYN) {
        qfl_link_count(l, QFL_LINK_RX, 0, QFL_LINK_HANDSHAKE, wire);
        on_handshake(l, p, n);
    } else if (l->state != QFL_LINK_UP || p[0] >> SESSION_SHIFT != l->session_bits) {
        qfl_link_count(l, QFL_LINK_RX, 0, QFL_LINK_RETRANSMISSION, wire);
        if (!qfl_link_initiates(l) && l->state != QFL_LINK_UP && asks)
            answer_reset(l, p[0]);
    } else {
        l->heard_ms = now_ms;
        l->asked = l->pending_ask = l->peer_busy = 0;
        if (type == TYPE_ACK) {
            uint32_t security = qfl_link_security_bytes(l);
            uint8_t kind = qfl_link_acked_kind(l, p[1]);
            /* One that comes after so many later frames that nobody knows its kind any more is of no use either. */
            int late = (uint8_t)(l->tx_next - p[1]) >= KINDS_KEPT;
            qfl_link_count(l, QFL_LINK_RX, kind, late ? QFL_LINK_RETRANSMISSION : QFL_LINK_ACKNOWLEDGEMENT,
                           wire - security);
            qfl_link_count(l, QFL_LINK_RX, kind, QFL_LINK_SECURITY, security);
            uint32_t bitmap = (n > 2 ? p[2] : 0u) | (n > 3 ? (uint32_t)p[3] << 8 : 0u);
            qfl_link_on_ack(l, p[1], bitmap, now_ms);
            if (!late)
                on_more(l, p, n, now_ms);
        } else {
            on_data(l, p, n, wire, now_ms);
        }
    }
    return 1;
}

/* The codes of raw[at, raw_n) lead from one to the next up to its end, as those of a frame do. */
static int is_chain(const qfl_link *l, uint32_t at)
{
    while (at < l->raw_n)
        at += l->raw[at];
    return at == l->raw_n;
}

/*
 * A piece that is no frame may have one of the session at its end, behind noise: what a user's firmware has printed, or half a frame
 * of before a reset. Returns where that frame begins, having taken it, or raw_n.
 */
static uint32_t resync(qfl_link *l, uint32_t first, uint32_t now_ms)
{
    uint32_t tries = 0;
    if (l->state != QFL_LINK_UP)
        return l->raw_n;
    for (uint32_t at = first; at + 1 + 2 + CRC_BYTES <= l->raw_n && tries < RESYNC_TRIES; at++) {
        uint8_t begins = l->raw[at] == 1 ? 0 : l->raw[at + 1];
        if (qfl_link_type(begins) >= TYPE_SYN || begins >> SESSION_SHIFT != l->session_bits ||
            !is_chain(l, at))
            continue;
        tries++;
        if (on_frame(l, at, l->raw_n - at + 1, now_ms))
            return at;
    }
    return l->raw_n;
}

/* One piece between delimiters is complete. One delimiter before it leads it; more are noise. */
static QFL_COLD void on_piece(qfl_link *l, uint32_t now_ms)
{
    uint32_t lead = l->leading != 0, noise = l->leading - lead, wire = lead + l->raw_lost + l->raw_n + 1;
    if (l->raw_lost != 0 || !on_frame(l, 0, wire, now_ms)) {
        uint32_t at = resync(l, l->raw_lost == 0, now_ms);
        if (at == l->raw_n && l->state == QFL_LINK_UP) /* not what a board prints when it starts */
            qfl_link_set_lossy(l);
        noise += at == l->raw_n ? wire : lead + l->raw_lost + at;
        l->count.rx_bad_frames++;
    }
    qfl_link_count(l, QFL_LINK_RX, 0, QFL_LINK_NOISE, noise);
    l->leading = l->raw_lost = l->raw_n = 0;
}

uint32_t qfl_link_feed(qfl_link *l, const uint8_t *bytes, uint32_t n, uint32_t now_ms)
{
    uint32_t i = 0;
    l->now_ms = now_ms;
    while (i < n && !l->rx_ready) {
        uint8_t c = bytes[i++];
        if (c == 0 && l->raw_n == 0) {
            /* A frame after a silence leads with a delimiter, to end whatever noise came before; it belongs to it. */
            l->leading++;
        } else if (c == 0) {
            on_piece(l, now_ms);
        } else {
            if (l->raw_n == l->raw_cap + RAW_SLIP) { /* longer than any frame: its front is noise */
                memmove(l->raw, l->raw + RAW_SLIP, l->raw_cap);
                l->raw_n = l->raw_cap;
                l->raw_lost += RAW_SLIP;
            }
            l->raw[l->raw_n++] = c;
        }
    }
    return i;
}
