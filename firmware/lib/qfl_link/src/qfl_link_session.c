/* Set-up, sessions, and small questions about a link. */
#include <string.h>

#include "qfl_link_internal.h"

static size_t aligned(size_t n) { return (n + 7u) & ~(size_t)7u; }

static uint32_t queue_of(const qfl_link_config *c)
{
    return QFL_INITIATOR && c->queue != 0 ? c->queue : (uint32_t)QFL_LINK_QUEUE;
}
static size_t link_size(const qfl_link_config *c)
{
    return offsetof(qfl_link, queue) + queue_of(c) * sizeof(tx_message);
}

static int config_ok(const qfl_link_config *c)
{
    return c->frame_max >= QFL_LINK_FRAME_MIN && c->frame_max <= QFL_LINK_FRAME_MAX && c->window >= 1 &&
           c->window <= QFL_LINK_WINDOW_MAX && c->message_max >= QFL_LINK_HEAD_MAX &&
           c->message_max <= 0x10000000u && c->queue <= QFL_LINK_QUEUE_MAX &&
           (QFL_INITIATOR || (!c->initiator && c->queue == 0));
}

QFL_COLD size_t qfl_link_size(const qfl_link_config *config)
{
    if (config == NULL || !config_ok(config))
        return 0;
    return aligned(link_size(config)) + 2 * aligned(qfl_link_pull_size(config)) + RAW_SLIP +
           aligned(config->message_max);
}

#ifdef QFL_HOST
size_t qfl_link_size_32(const qfl_link_config *config)
{
    size_t size = qfl_link_size(config);
    return size != 0 ? size - aligned(link_size(config)) +
                           aligned(LINK_BYTES_32 + queue_of(config) * LINK_MESSAGE_BYTES_32)
                     : 0;
}
#endif

QFL_COLD uint32_t qfl_link_pull_size(const qfl_link_config *config)
{
    uint32_t n = config->frame_max + (uint32_t)SLACK;
    return n > HANDSHAKE_MAX ? n : HANDSHAKE_MAX;
}

QFL_COLD qfl_status qfl_link_init(qfl_link **out, const qfl_link_config *config, void *mem, size_t size)
{
    size_t need = qfl_link_size(config);
    if (out == NULL || mem == NULL || need == 0 || ((uintptr_t)mem & 7u) != 0)
        return QFL_E_INVAL;
    if (size < need)
        return QFL_E_NOMEM;
    qfl_link *l = mem;
    uint8_t *p = (uint8_t *)mem + aligned(link_size(config));
    memset(l, 0, link_size(config));
    l->config = *config;
    l->config.queue = (uint8_t)queue_of(config);
    if (l->config.rto_ms == 0)
        l->config.rto_ms = 1000;
    if (l->config.rto_min_ms == 0)
        l->config.rto_min_ms = 500;
    if (l->config.give_up == 0)
        l->config.give_up = 8;
    l->raw_cap = qfl_link_pull_size(config);
    l->raw = p;
    p += aligned(l->raw_cap) + RAW_SLIP;
    l->plain = p;
    p += aligned(l->raw_cap);
    l->message = p;
    qfl_link_reset_session(l);
    *out = l;
    return QFL_OK;
}

QFL_COLD void qfl_link_reset_session(qfl_link *l)
{
    qfl_link_secure_reset(l);
    l->q_first = l->q_count = 0;
    l->next_number = 0;
    l->tx_base = l->tx_next = 0;
    l->order = 0;
    l->rto = l->config.rto_ms;
    l->srtt8 = l->rttvar4 = 0;
    l->backoff = 0;
    l->lossy = l->probed = 0;
    l->tail8 = 0;
    l->rx_next = l->rx_number = 0;
    l->rx_frames = 0;
    qfl_link_count_late(l, 0);
    l->rx_kind_known = 0;
    memset(l->rx_kinds, 0, sizeof l->rx_kinds);
    memset(l->tx_kinds, 0, sizeof l->tx_kinds);
    l->since_ack = l->pending_acks = l->lead_ack = 0;
    l->rx_fin_known = l->rx_ready = l->rx_started = 0;
    l->rx_have = 0;
    l->rx_n = 0;
    l->pending_busy_ms = 0;
    l->asked = l->pending_ask = l->peer_busy = l->pending_dropped = 0;
}

QFL_COLD qfl_status qfl_link_connect(qfl_link *l, uint32_t nonce, uint32_t now_ms)
{
    if (!qfl_link_initiates(l))
        return QFL_E_STATE;
    qfl_link_reset_session(l);
    l->state = QFL_LINK_CONNECTING;
    l->nonce = nonce;
    l->session_bits = nonce & 3u;
    l->peer_message_max = 0;
    qfl_link_secure_connect(l);
    l->pending_handshake = TYPE_SYN;
    l->syn_ms = now_ms;
    return QFL_OK;
}

QFL_COLD qfl_link_state qfl_link_get_state(const qfl_link *l) { return (qfl_link_state)l->state; }
QFL_COLD uint32_t qfl_link_session(const qfl_link *l) { return l->session; }
QFL_COLD uint32_t qfl_link_peer_message_max(const qfl_link *l) { return l->peer_message_max; }
QFL_COLD uint32_t qfl_link_frame_size(const qfl_link *l) { return l->frame; }
QFL_COLD uint32_t qfl_link_window(const qfl_link *l) { return l->window; }
QFL_COLD uint32_t qfl_link_pending(const qfl_link *l) { return l->q_count; }
QFL_COLD void qfl_link_get_counters(const qfl_link *l, qfl_link_counters *out) { *out = l->count; }
QFL_COLD void qfl_link_get_counters_before(const qfl_link *l, qfl_link_counters *out) { *out = l->before; }

QFL_COLD const uint8_t *qfl_link_message(const qfl_link *l, uint32_t *n)
{
    if (!l->rx_ready)
        return NULL;
    if (n != NULL)
        *n = l->rx_n;
    return l->message;
}

QFL_COLD void qfl_link_release(qfl_link *l, int ack)
{
    if (!l->rx_ready)
        return;
    l->rx_ready = 0;
    if (ack && l->since_ack != 0) {
        l->pending_acks++;
        l->since_ack = 0;
    }
}

QFL_COLD void qfl_link_busy(qfl_link *l, uint32_t ms)
{
    if (l->state != QFL_LINK_UP || ms == 0)
        return;
    l->pending_busy_ms = ms;
    l->pending_acks = l->pending_acks ? l->pending_acks : 1;
    l->since_ack = 0;
}

QFL_COLD uint32_t qfl_link_peer_busy(const qfl_link *l, uint32_t now_ms)
{
    int32_t left = (int32_t)(l->busy_until_ms - now_ms);
    return l->peer_busy && left > 0 ? (uint32_t)left : 0;
}

QFL_COLD const uint8_t *qfl_link_partial(const qfl_link *l, uint32_t *n)
{
    *n = l->rx_ready ? 0 : l->rx_frames * l->frame;
    return l->message;
}
