/* Sending: messages to frames to bytes, acknowledgement and retransmission. */
#include <string.h>

#include "qfl_link_internal.h"

/* Place in the queue of the i-th message from the front. */
static uint8_t slot_of(const qfl_link *l, uint32_t i)
{
    uint32_t slot = l->q_first + i;
    return (uint8_t)(slot < qfl_link_queue(l) ? slot : slot - qfl_link_queue(l));
}

static tx_frame *frame_of(qfl_link *l, uint8_t seq) { return &l->flight[seq % QFL_LINK_WINDOW_MAX]; }

QFL_COLD qfl_status qfl_link_send(qfl_link *l, const uint8_t *head, uint32_t head_n, const uint8_t *body,
                                  uint32_t body_n)
{
    if (head_n > QFL_LINK_HEAD_MAX || (head_n != 0 && head == NULL) || (body_n != 0 && body == NULL))
        return QFL_E_INVAL;
    if (l->state != QFL_LINK_UP)
        return QFL_E_STATE;
    if (body_n > l->peer_message_max || head_n + body_n > l->peer_message_max)
        return QFL_E_RANGE;
    if (l->q_count == qfl_link_queue(l))
        return QFL_E_BUSY;
    tx_message *m = &l->queue[slot_of(l, l->q_count)];
    if (head_n != 0)
        memcpy(m->head, head, head_n);
    m->head_n = head_n;
    m->body = body;
    m->body_n = body_n;
    m->sent = 0;
    m->unacked = 0;
    m->done = 0;
    m->kind = head_n != 0 ? qfl_link_kind(head[0]) : body_n != 0 ? qfl_link_kind(body[0]) : 0;
    m->number = l->next_number;
    l->next_number = (l->next_number + 1u) & MSG_MASK;
    l->q_count++;
    return QFL_OK;
}

/* Smoothed round trip (RFC 6298) of frames sent once. */
static void learn_rtt(qfl_link *l, uint32_t rtt)
{
    if (l->srtt8 == 0) {
        l->srtt8 = rtt * 8;
        l->rttvar4 = rtt * 2;
    } else {
        int32_t err = (int32_t)rtt - (int32_t)(l->srtt8 / 8);
        l->srtt8 = (uint32_t)((int32_t)l->srtt8 + err);
        uint32_t mag = (uint32_t)(err < 0 ? -err : err);
        l->rttvar4 = l->rttvar4 - l->rttvar4 / 4 + mag;
    }
    uint32_t rto = l->srtt8 / 8 + l->rttvar4;
    l->rto = rto < l->config.rto_min_ms ? l->config.rto_min_ms : rto > RTO_MAX_MS ? RTO_MAX_MS : rto;
}

/* The same of the newest frame of each acknowledgement: the time after which silence tells that the last of a row got lost. */
static void learn_tail(qfl_link *l, uint32_t rtt)
{
    uint32_t t = (rtt < RTO_MAX_MS ? rtt : RTO_MAX_MS) + 1; /* ms begun */
    l->tail8 = (uint16_t)(l->tail8 == 0 ? t * 8 : l->tail8 - l->tail8 / 8 + t);
}

/*
 * The line keeps order: what went out up to transmission `newest` and was not seen is lost. Where that is the front of a message, the
 * frames of later messages behind it will find no place: they are sent again now, in order, and not once the peer says so of each.
 */
static void mark_lost(qfl_link *l, uint32_t newest)
{
    const tx_frame *base = frame_of(l, l->tx_base);
    for (uint8_t s = l->tx_base; s != l->tx_next; s++) {
        tx_frame *f = frame_of(l, s);
        if (f->acked || f->lost || (f->order > newest && (!base->lost || f->slot == base->slot)))
            continue;
        f->lost = 1;
        qfl_link_set_lossy(l);
        f->expected = f->order > newest;
    }
}

static uint32_t probe_ms(const qfl_link *l) { return l->tail8 / 4u + PROBE_MORE_MS; }

QFL_COLD void qfl_link_on_ack(qfl_link *l, uint8_t ack, uint32_t bitmap, uint32_t now_ms)
{
    uint8_t in_flight = (uint8_t)(l->tx_next - l->tx_base), up_to = (uint8_t)(ack - l->tx_base);
    const tx_frame *newest = NULL;
    if (up_to > in_flight)
        return; /* an acknowledgement older than the window */
    for (uint8_t i = 0; i < in_flight; i++) {
        tx_frame *f = frame_of(l, (uint8_t)(l->tx_base + i));
        int got = i < up_to || (i > up_to && i - up_to <= 16 && (bitmap >> (i - up_to - 1) & 1u));
        if (!got || f->acked)
            continue;
        f->acked = 1;
        f->lost = 0;
        l->queue[f->slot].unacked--;
        if (newest == NULL || f->order > newest->order)
            newest = f;
        if (f->tries == 1)
            learn_rtt(l, now_ms - f->sent_ms);
    }
    if (newest == NULL)
        return;
    uint32_t since = now_ms - newest->sent_ms;
    if (l->probed &&
        since * 16u < l->tail8) /* too soon for an answer to the probe: what was probed for was only late */
        learn_tail(l, since + probe_ms(l));
    else if (l->probed || newest->tries == 1)
        learn_tail(l, since);
    l->backoff = l->probed = 0;
    if (l->lossy != 0)
        l->lossy--;
    while (l->tx_base != l->tx_next && frame_of(l, l->tx_base)->acked)
        l->tx_base++;
    mark_lost(l, newest->order);
    while (l->q_count != 0 && l->queue[l->q_first].done && l->queue[l->q_first].unacked == 0) {
        l->q_first = slot_of(l, 1);
        l->q_count--;
    }
}

QFL_COLD void qfl_link_on_dropped(qfl_link *l, uint8_t seq)
{
    uint8_t in_flight = (uint8_t)(l->tx_next - l->tx_base);
    tx_frame *f = frame_of(l, seq);
    if ((uint8_t)(seq - l->tx_base) >= in_flight || f->acked)
        return;
    if (f->expected)
        f->expected = 0;
    else
        mark_lost(l, f->order); /* it was ahead of a gap */
}

/*
 * Encodes l->plain[0, n) with its checksum, or sealed, to out; returns the bytes written with the delimiter. lead: 1 puts a delimiter
 * in front, which ends noise on the line that would otherwise spoil the frame.
 */
static uint32_t encode(qfl_link *l, uint32_t n, uint8_t *out, int lead)
{
    if (qfl_link_sealed(l) && qfl_link_type(l->plain[0]) < TYPE_SYN) {
        n = qfl_link_seal(l, l->plain, n);
    } else {
        qfl_put32(l->plain + n, qfl_link_crc32(0, l->plain, n));
        n += CRC_BYTES;
    }
    if (lead)
        *out++ = 0;
    uint32_t w = qfl_link_cobs_encode(l->plain, n, out);
    out[w] = 0;
    l->count.tx_frames++;
    return w + 1 + (lead != 0);
}

QFL_COLD uint32_t qfl_link_terms(const qfl_link *l, uint8_t type, uint8_t *p)
{
    uint32_t nonce = type == TYPE_SYN ? l->nonce : l->syn_nonce;
    p[0] = (uint8_t)(type | (nonce & 3u) << SESSION_SHIFT);
    p[1] = QFL_LINK_VERSION;
    qfl_put32(p + 2, nonce);
    p[6] = l->config.window;
    p[7] = (uint8_t)l->config.frame_max;
    p[8] = (uint8_t)(l->config.frame_max >> 8);
    qfl_put32(p + 9, l->config.message_max);
    return SYN_BYTES;
}

static uint32_t make_handshake(qfl_link *l, uint8_t *out, uint32_t now_ms)
{
    uint8_t type = l->pending_handshake, *p = l->plain;
    uint32_t n = 1, w;
    p[0] = (uint8_t)(type | l->session_bits << SESSION_SHIFT);
    if (type != TYPE_RST) {
        n = qfl_link_terms(l, type, p);
        n = type == TYPE_SYN ? qfl_link_secure_syn(l, p) : qfl_link_secure_answer(l, p, n);
    }
    w = encode(l, n, out, 1);
    qfl_link_count(l, QFL_LINK_TX, 0, QFL_LINK_HANDSHAKE, w);
    l->pending_handshake = 0;
    l->syn_ms = now_ms + SYN_PERIOD_MS;
    return w;
}

static uint32_t make_ack(qfl_link *l, uint8_t *out)
{
    uint32_t n = 2, later = (uint32_t)l->rx_have >> 1;
    l->plain[0] = (uint8_t)(TYPE_ACK | l->session_bits << SESSION_SHIFT);
    l->plain[1] = l->rx_next;
    int say = l->pending_busy_ms != 0 ? SAY_BUSY
              : l->pending_ask        ? SAY_ASK
              : l->pending_dropped    ? SAY_DROPPED
                                      : 0,
        more = say != 0;
    if (later != 0 || more)
        l->plain[n++] = (uint8_t)later;
    if (later > 0xFF || more)
        l->plain[n++] = (uint8_t)(later >> 8);
    if (more)
        l->plain[n++] = (uint8_t)say;
    if (say == SAY_BUSY) {
        qfl_put32(l->plain + n, l->pending_busy_ms);
        n += 4;
        l->pending_busy_ms = 0;
    } else if (say == SAY_ASK) {
        l->pending_ask = 0;
    } else if (say == SAY_DROPPED) {
        l->plain[n++] = l->dropped;
        l->pending_dropped = 0;
    }
    uint32_t w = encode(l, n, out, l->lead_ack || say == SAY_ASK || say == SAY_BUSY);
    uint8_t kind = l->rx_kinds[(uint8_t)(l->rx_next - 1) % KINDS_KEPT];
    uint32_t security = qfl_link_security_bytes(l);
    qfl_link_count(l, QFL_LINK_TX, kind, QFL_LINK_ACKNOWLEDGEMENT, w - security);
    qfl_link_count(l, QFL_LINK_TX, kind, QFL_LINK_SECURITY, security);
    l->lead_ack = 0;
    if (l->pending_acks != 0)
        l->pending_acks--;
    return w;
}

static uint32_t make_data(qfl_link *l, uint8_t seq, uint8_t *out, uint32_t now_ms)
{
    tx_frame *f = frame_of(l, seq);
    tx_message *m = &l->queue[f->slot];
    uint8_t *p = l->plain;
    p[0] = (uint8_t)((f->fin ? TYPE_FIN : TYPE_DATA) | m->number << MSG_SHIFT |
                     l->session_bits << SESSION_SHIFT);
    p[1] = seq;
    p[2] = l->rx_next;
    uint32_t at = f->at, n = f->n, w = DATA_HEADER;
    if (at < m->head_n) {
        uint32_t k = m->head_n - at < n ? m->head_n - at : n;
        memcpy(p + w, m->head + at, k);
        w += k;
        at += k;
        n -= k;
    }
    if (n != 0)
        memcpy(p + w, m->body + (at - m->head_n), n);
    uint32_t wire = encode(l, w + n, out, f->tries != 0);
    if (f->tries == 0) {
        qfl_link_count(l, QFL_LINK_TX, m->kind, QFL_LINK_PAYLOAD, f->n);
        uint32_t security = qfl_link_security_bytes(l);
        qfl_link_count(l, QFL_LINK_TX, m->kind, QFL_LINK_FRAMING, wire - f->n - security);
        qfl_link_count(l, QFL_LINK_TX, m->kind, QFL_LINK_SECURITY, security);
    } else {
        qfl_link_count(l, QFL_LINK_TX, m->kind, QFL_LINK_RETRANSMISSION, wire);
    }
    f->tries++;
    f->lost = 0;
    f->order = ++l->order;
    f->sent_ms = now_ms;
    l->since_ack = 0; /* the frame carries the acknowledgement */
    return wire;
}

/* Takes the next piece of the first message that still has one; returns 0 when there is none or the window is full. */
static int new_frame(qfl_link *l)
{
    if ((uint8_t)(l->tx_next - l->tx_base) >= l->window)
        return 0;
    for (uint8_t i = 0; i < l->q_count; i++) {
        uint8_t slot = slot_of(l, i);
        tx_message *m = &l->queue[slot];
        if (m->done)
            continue;
        tx_frame *f = frame_of(l, l->tx_next);
        uint32_t left = m->head_n + m->body_n - m->sent;
        memset(f, 0, sizeof *f);
        f->slot = slot;
        l->tx_kinds[l->tx_next % KINDS_KEPT] = m->kind;
        f->at = m->sent;
        f->n = (uint16_t)(left < l->frame ? left : l->frame);
        f->fin = left <= l->frame;
        m->sent += f->n;
        m->done = f->fin;
        m->unacked++;
        return 1;
    }
    return 0;
}

/* Something can be sent now: what was lost, or more of a message. */
static int has_work(const qfl_link *l)
{
    if (l->q_count != 0 && !l->queue[slot_of(l, l->q_count - 1u)].done &&
        (uint8_t)(l->tx_next - l->tx_base) < l->window)
        return 1; /* they are sent in order: the last one tells for all */
    for (uint8_t s = l->tx_base; s != l->tx_next; s++)
        if (l->flight[s % QFL_LINK_WINDOW_MAX].lost)
            return 1;
    return 0;
}

/*
 * Tail-loss probe (RFC 8985, section 7): behind the last frame of a row, or its acknowledgement, comes nothing that would show it lost.
 * After twice the time an acknowledgement takes, the frame sent last is sent once more, once in a row; what is missing, the peer's
 * answer tells. Only where the line has lost frames lately: no byte more moves on one that is merely slow at times.
 */
static int may_probe(const qfl_link *l)
{
    return l->lossy != 0 && !l->probed && l->backoff == 0 && l->tail8 != 0 && l->tx_base != l->tx_next &&
           !has_work(l);
}

/* Number of the frame sent last. Where frames are in flight and none is known to be lost, it is: its acknowledgement tells of all. */
static uint8_t sent_last(const qfl_link *l)
{
    uint8_t s = l->tx_base;
    while ((uint8_t)(s + 1) != l->tx_next && l->flight[s % QFL_LINK_WINDOW_MAX].order != l->order)
        s++;
    return s;
}

/* Milliseconds until the first frame in flight counts as lost, or the last one is probed for; QFL_LINK_NEVER: none is in flight. */
static uint32_t until_timeout(const qfl_link *l, uint32_t now_ms)
{
    if (l->tx_base == l->tx_next)
        return QFL_LINK_NEVER;
    uint32_t rto = l->rto, busy = qfl_link_peer_busy(l, now_ms);
    if (l->lossy == 0 && rto < l->config.rto_calm_ms)
        rto = l->config.rto_calm_ms;
    rto <<= l->backoff < 5 ? l->backoff : 5;
    if (rto > RTO_MAX_MS)
        rto = RTO_MAX_MS;
    uint8_t s = l->tx_base;
    if (may_probe(l)) {
        uint32_t probe = probe_ms(l);
        rto = probe < rto ? probe : rto;
        s = sent_last(l);
    }
    uint32_t spent = now_ms - l->flight[s % QFL_LINK_WINDOW_MAX].sent_ms;
    uint32_t left = spent >= rto ? 0 : rto - spent;
    return left > busy ? left : busy;
}

/* Milliseconds until a silent peer is asked, taken for dead (responder), or given up; QFL_LINK_NEVER: it is not watched. */
static uint32_t until_quiet(const qfl_link *l, uint32_t now_ms)
{
    if (l->config.quiet_ms == 0 || (qfl_link_initiates(l) && l->tx_base != l->tx_next))
        return QFL_LINK_NEVER; /* frames in flight find a dead peer out by themselves */
    uint32_t since = l->asked != 0 ? l->ask_ms : l->heard_ms,
             limit = l->asked != 0 ? ASK_PERIOD_MS : l->config.quiet_ms;
    uint32_t spent = now_ms - since, busy = qfl_link_peer_busy(l, now_ms);
    uint32_t left = spent >= limit ? 0 : limit - spent;
    return left > busy ? left : busy;
}

static void check_quiet(qfl_link *l, uint32_t now_ms)
{
    if (l->pending_ask || until_quiet(l, now_ms) != 0)
        return;
    if (!qfl_link_initiates(l)) {
        l->state = QFL_LINK_CLOSED; /* its next frame is answered with RST, if it comes back at all */
    } else if (l->asked >= ASK_TIMES) {
        l->state = QFL_LINK_DOWN;
    } else {
        l->asked++;
        l->ask_ms = now_ms;
        l->pending_ask = 1;
    }
}

static void check_timeouts(qfl_link *l, uint32_t now_ms)
{
    if (l->state == QFL_LINK_CONNECTING && (int32_t)(now_ms - l->syn_ms) >= 0)
        l->pending_handshake = TYPE_SYN;
    if (l->state == QFL_LINK_UP)
        check_quiet(l, now_ms);
    if (l->state != QFL_LINK_UP || until_timeout(l, now_ms) != 0)
        return;
    if (may_probe(l)) {
        l->probed = frame_of(l, sent_last(l))->lost = 1;
        return;
    }
    tx_frame *f = frame_of(l, l->tx_base);
    if (f->lost)
        return;
    if (qfl_link_initiates(l) && f->tries > l->config.give_up + l->probed) {
        l->state = QFL_LINK_DOWN;
        return;
    }
    f->lost = 1;
    l->backoff++;
    if (l->config.rto_calm_ms == 0 || l->backoff > 1) /* the peer may have been slow, once */
        qfl_link_set_lossy(l);
}

static uint32_t pull_one(qfl_link *l, uint8_t *out, uint32_t now_ms)
{
    check_timeouts(l, now_ms);
    /* New keys before a nonce could come twice. */
    if (qfl_link_sealed(l) && l->state == QFL_LINK_UP && l->secure.tx_count >= (uint32_t)SEALS_MAX)
        l->state = qfl_link_initiates(l) ? QFL_LINK_DOWN : QFL_LINK_CLOSED;
    if (l->pending_handshake != 0)
        return make_handshake(l, out, now_ms);
    if (l->state != QFL_LINK_UP)
        return 0;
    if (l->pending_acks != 0 || l->pending_ask)
        return make_ack(l, out);
    for (uint8_t s = l->tx_base; s != l->tx_next; s++)
        if (frame_of(l, s)->lost)
            return make_data(l, s, out, now_ms);
    if (new_frame(l))
        return make_data(l, l->tx_next++, out, now_ms);
    return 0;
}

QFL_COLD uint32_t qfl_link_pull(qfl_link *l, uint8_t *out, uint32_t cap, uint32_t now_ms)
{
    uint32_t w = 0;
    l->now_ms = now_ms;
    while (cap - w >= l->raw_cap) {
        uint32_t n = pull_one(l, out + w, now_ms);
        if (n == 0)
            break;
        w += n;
    }
    return w;
}

QFL_COLD uint32_t qfl_link_wait(const qfl_link *l, uint32_t now_ms)
{
    if (l->pending_handshake != 0 || (l->state == QFL_LINK_UP && (l->pending_acks != 0 || l->pending_ask)))
        return 0;
    if (l->state == QFL_LINK_CONNECTING) {
        int32_t left = (int32_t)(l->syn_ms - now_ms);
        return left > 0 ? (uint32_t)left : 0;
    }
    if (l->state != QFL_LINK_UP)
        return QFL_LINK_NEVER;
    if (has_work(l))
        return 0;
    uint32_t quiet = until_quiet(l, now_ms), timeout = until_timeout(l, now_ms);
    return quiet < timeout ? quiet : timeout;
}
