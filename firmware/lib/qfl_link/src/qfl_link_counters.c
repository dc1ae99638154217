/* Traffic counters: bytes by direction, category and kind of message. Both ends count alike, so that they agree on a clean link. */
#include "qfl_link_internal.h"

uint32_t qfl_link_weight(uint32_t kind, uint32_t category)
{
    uint32_t w = (kind * QFL_LINK_CATEGORIES + category + 1u) * 0x9E3779B1u;
    w = (w ^ w >> 15) * 0x85EBCA77u;
    return (w ^ w >> 13) | 1u;
}

QFL_COLD uint8_t qfl_link_kind(uint8_t first_byte) { return first_byte & (QFL_LINK_KINDS - 1u); }

QFL_COLD void qfl_link_count(qfl_link *l, unsigned direction, unsigned kind, qfl_link_category category,
                             uint32_t n)
{
#define AT(field) offsetof(qfl_link_counters, field)
    static const uint8_t sums[2][QFL_LINK_CATEGORIES] = {
        {AT(tx_payload), AT(tx_framing), AT(tx_acknowledgement), AT(tx_retransmission), AT(tx_handshake),
         AT(tx_security), 0},
        {AT(rx_payload), AT(rx_framing), AT(rx_acknowledgement), AT(rx_retransmission), AT(rx_handshake),
         AT(rx_security), AT(rx_noise)},
    };
    qfl_link_counters *c = &l->count;
    *(uint32_t *)(void *)((uint8_t *)c + sums[direction][category]) += n;
    if (category != QFL_LINK_NOISE)
        *(direction == QFL_LINK_TX ? &c->tx_checksum : &c->rx_checksum) +=
            n * qfl_link_weight(kind, category);
    if (QFL_INITIATOR && l->config.kinds != NULL)
        l->config.kinds[(direction * QFL_LINK_KINDS + kind) * QFL_LINK_CATEGORIES + category] += n;
}

#ifdef QFL_HOST
void qfl_link_uncount(qfl_link *l, uint32_t kind, qfl_link_category category, uint32_t n, uint32_t frames)
{
    qfl_link_count(l, QFL_LINK_TX, kind, category, 0u - n);
    l->count.tx_frames -= frames;
}
#endif

QFL_COLD void qfl_link_count_late(qfl_link *l, uint8_t kind)
{
    qfl_link_count(l, QFL_LINK_RX, kind, QFL_LINK_PAYLOAD, l->rx_late_payload);
    qfl_link_count(l, QFL_LINK_RX, kind, QFL_LINK_FRAMING, l->rx_late_framing);
    qfl_link_count(l, QFL_LINK_RX, kind, QFL_LINK_SECURITY, l->rx_late_security);
    l->rx_late_payload = l->rx_late_framing = l->rx_late_security = 0;
}

QFL_COLD uint32_t qfl_link_uncounted(const qfl_link *l)
{
    return l->leading + l->raw_lost + l->raw_n + l->rx_late_payload + l->rx_late_framing +
           l->rx_late_security;
}

QFL_COLD uint8_t qfl_link_acked_kind(const qfl_link *l, uint8_t ack)
{
    uint8_t behind = (uint8_t)(l->tx_next - ack);
    return behind < KINDS_KEPT ? l->tx_kinds[(uint8_t)(ack - 1) % KINDS_KEPT] : 0;
}
