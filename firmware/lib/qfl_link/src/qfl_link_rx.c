/* Receiving: bytes to frames to messages. */
#include <string.h>

#include "qfl_link_internal.h"

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The message under way is complete when every frame up to FIN has come. */
static void check_complete(qfl_link *l)
{
    if (!l->rx_fin_known || l->rx_next != (uint8_t)(l->rx_fin + 1))
        return;
    l->rx_n = (l->rx_frames - 1) * l->frame + l->rx_fin_bytes;
    l->rx_frames = 0;
    l->rx_number = (l->rx_number + 1u) & 3u;
    l->rx_fin_known = 0;
    l->rx_started = l->rx_kind_known = 0;
    l->rx_ready = 1;
}

/* Books a frame of the message under way. Its kind stands in the first frame, which may come later than others. */
static void book_data(qfl_link *l, uint32_t index, const uint8_t *body, uint32_t payload, uint32_t wire)
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
        qfl_link_book_late(l, l->rx_kind);
}

/* A frame that is not used: its kind is known when the frame itself or others of its message have come before. */
static void book_unused(qfl_link *l, uint8_t seq, int here, uint32_t wire)
{
    uint8_t behind = (uint8_t)(l->rx_next - seq);
    uint8_t kind = here ? (l->rx_kind_known ? l->rx_kind : 0)
                 : behind >= 1 && behind <= KINDS_KEPT ? l->rx_kinds[seq % KINDS_KEPT] : 0;
    qfl_link_book(l, QFL_LINK_RX, kind, QFL_LINK_RETRANSMISSION, wire);
}

static void on_data(qfl_link *l, const uint8_t *p, uint32_t n, uint32_t wire, uint32_t now_ms)
{
    uint8_t seq = p[1], ahead = (uint8_t)(seq - l->rx_next);
    uint32_t payload = n - DATA_HEADER;
    int fin = (p[0] & FLAG_FIN) != 0;
    qfl_link_on_ack(l, p[2], 0, now_ms);
    if (ahead >= l->window || (l->rx_have >> ahead & 1u)) { /* an old frame: its acknowledgement was lost */
        book_unused(l, seq, ahead < l->window, wire);
        l->owe_acks = l->owe_acks ? l->owe_acks : 1;
        l->lead_ack = 1;
        l->since_ack = 0;
        return;
    }
    /* Only frames of the message under way have a place; a later message's frame ahead of a gap has to come again. */
    uint64_t at = (uint64_t)(l->rx_frames + ahead) * l->frame;
    int same = ((p[0] >> MSG_SHIFT) & 3u) == l->rx_number && !(l->rx_fin_known && ahead > (uint8_t)(l->rx_fin - l->rx_next));
    int fits = payload <= l->frame && (fin || payload == l->frame) && at + payload <= l->config.message_max;
    if (!same || !fits) {
        book_unused(l, seq, same, wire);
        if (!same && ahead != 0)
            l->owe_acks = l->owe_acks ? l->owe_acks : 1;
        return;
    }
    if (!l->rx_started) {
        l->before = l->count;
        l->before.rx_frames--; /* this one */
        l->rx_started = 1;
    }
    book_data(l, l->rx_frames + ahead, p + DATA_HEADER, payload, wire);
    memcpy(l->message + at, p + DATA_HEADER, payload);
    l->rx_have |= (uint16_t)(1u << ahead);
    if (fin) {
        l->rx_fin_known = 1;
        l->rx_fin = seq;
        l->rx_fin_bytes = payload;
    }
    if (ahead != 0) { /* a gap: tell the sender at once */
        l->owe_acks = l->owe_acks ? l->owe_acks : 1;
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
    if (l->since_ack >= (l->window + 1) / 2 && !l->rx_ready) {
        l->owe_acks++;
        l->since_ack = 0;
    }
}

static void put_terms(qfl_link *l, const uint8_t *p)
{
    uint32_t frame = p[7] | (uint32_t)p[8] << 8;
    l->window = p[6] < l->config.window ? p[6] : l->config.window;
    l->frame = frame < l->config.frame_max ? frame : l->config.frame_max;
    l->peer_message_max = get32(p + 9);
}

void qfl_link_established(qfl_link *l, const uint8_t *p)
{
    l->nonce = get32(p + 2);
    l->epoch = l->nonce & 3u;
    l->session++;
    put_terms(l, p);
    l->owe_handshake = 0;
    l->state = QFL_LINK_UP;
}

static int terms_ok(const uint8_t *p, uint32_t n)
{
    uint32_t frame = n >= SYN_BYTES ? p[7] | (uint32_t)p[8] << 8 : 0;
    return n >= SYN_BYTES && n <= SYNACK_MAX && p[6] >= 1 && p[6] <= QFL_LINK_WINDOW_MAX && frame >= QFL_LINK_FRAME_MIN &&
           get32(p + 9) >= QFL_LINK_HEAD_MAX;
}

static void on_handshake(qfl_link *l, const uint8_t *p, uint32_t n)
{
    uint8_t type = p[0] & TYPE_MASK;
    if (type == TYPE_SYN && !l->config.initiator && terms_ok(p, n)) {
        uint32_t nonce = l->syn_nonce = get32(p + 2);
        int open = qfl_link_secure_on_syn(l, p, n) && p[1] == QFL_LINK_VERSION;
        if (open && (l->state != QFL_LINK_UP || nonce != l->nonce)) {
            qfl_link_reset_session(l);
            qfl_link_established(l, p);
        }
        l->owe_handshake = TYPE_SYNACK; /* another version is answered too: the initiator reads ours from it */
    } else if (type == TYPE_SYNACK && l->config.initiator && l->state == QFL_LINK_CONNECTING && terms_ok(p, n) &&
               get32(p + 2) == l->nonce) {
        if (p[1] != QFL_LINK_VERSION) {
            l->state = QFL_LINK_DOWN;
            return;
        }
        if (qfl_link_secure_synack(l, p, n))
            qfl_link_established(l, p);
    } else if (type == TYPE_RST && l->config.initiator && l->state == QFL_LINK_UP && p[0] >> EPOCH_SHIFT == l->epoch) {
        l->state = QFL_LINK_DOWN;
    }
}

/* One piece between delimiters, `wire` bytes with its delimiter. Returns 0 when it is no valid frame. */
static int on_frame(qfl_link *l, uint32_t wire, uint32_t now_ms)
{
    int32_t len = qfl_link_cobs_decode(l->raw, l->raw_n);
    if (len < 1 + CRC_BYTES)
        return 0;
    const uint8_t *p = l->raw;
    uint8_t type = p[0] & TYPE_MASK;
    int32_t unsealed = l->secure.sealed || l->secure.keyed ? qfl_link_unseal(l, l->raw, (uint32_t)len) : -1;
    uint32_t n = unsealed >= 0 ? (uint32_t)unsealed : (uint32_t)len - CRC_BYTES;
    if (unsealed < 0 && ((l->secure.sealed && type < TYPE_SYN) || qfl_link_crc32(0, p, n) != get32(p + n))) {
        /* A board that was reset cannot read what is sealed: it says so as it does to plain frames. A frame of the session that
         * is being opened may have suffered on the line; that is no reason to end it. */
        int opening = l->secure.pending && p[0] >> EPOCH_SHIFT == l->secure.syn[0] >> EPOCH_SHIFT;
        if (l->secure.keyed && l->state != QFL_LINK_UP && !opening && type == TYPE_DATA && n >= DATA_HEADER + SEAL_BYTES - CRC_BYTES) {
            l->epoch = p[0] >> EPOCH_SHIFT;
            l->owe_handshake = TYPE_RST;
        }
        return 0;
    }
    if (type > TYPE_RST || (type == TYPE_DATA && n < DATA_HEADER) || (type == TYPE_ACK && (n < 2 || n > 4)))
        return 0;
    l->count.rx_frames++;
    if (type >= TYPE_SYN) {
        qfl_link_book(l, QFL_LINK_RX, 0, QFL_LINK_HANDSHAKE, wire);
        on_handshake(l, p, n);
    } else if (l->state != QFL_LINK_UP || p[0] >> EPOCH_SHIFT != l->epoch) {
        /* Of another session: a board that has none tells the host at once instead of letting it time out. */
        qfl_link_book(l, QFL_LINK_RX, 0, QFL_LINK_RETRANSMISSION, wire);
        if (!l->config.initiator && l->state != QFL_LINK_UP && type == TYPE_DATA) {
            l->epoch = p[0] >> EPOCH_SHIFT;
            l->owe_handshake = TYPE_RST;
        }
    } else if (type == TYPE_ACK) {
        uint32_t security = qfl_link_security_bytes(l);
        uint8_t kind = qfl_link_acked_kind(l, p[1]);
        /* One that comes after so many later frames that nobody knows its kind any more is of no use either. */
        int late = (uint8_t)(l->tx_next - p[1]) >= KINDS_KEPT;
        qfl_link_book(l, QFL_LINK_RX, kind, late ? QFL_LINK_RETRANSMISSION : QFL_LINK_ACK, wire - security);
        qfl_link_book(l, QFL_LINK_RX, kind, QFL_LINK_SECURITY, security);
        uint32_t bitmap = (n > 2 ? p[2] : 0u) | (n > 3 ? (uint32_t)p[3] << 8 : 0u);
        qfl_link_on_ack(l, p[1], bitmap, now_ms);
    } else {
        on_data(l, p, n, wire, now_ms);
    }
    return 1;
}

uint32_t qfl_link_feed(qfl_link *l, const uint8_t *bytes, uint32_t n, uint32_t now_ms)
{
    uint32_t i = 0;
    while (i < n && !l->rx_ready) {
        uint8_t c = bytes[i++];
        if (c != 0) {
            if (l->raw_n < l->raw_cap)
                l->raw[l->raw_n] = c;
            l->raw_n++;
            continue;
        }
        uint32_t wire = l->lone + l->raw_n + 1;
        if (l->raw_n == 0) {
            /* A frame after a silence leads with a delimiter, to end whatever noise came before; it belongs to it. */
            l->lone++;
            continue;
        }
        l->lone = 0;
        if (l->raw_n > l->raw_cap || !on_frame(l, wire, now_ms)) {
            qfl_link_book(l, QFL_LINK_RX, 0, QFL_LINK_NOISE, wire);
            l->count.rx_bad_frames++;
        }
        l->raw_n = 0;
    }
    return i;
}
