/* One producer (the stack), one consumer (the task); positions count up and wrap, so a full ring differs from an empty one. */
#include "qfl_ble_link.h"

#include <string.h>

static uint32_t load(const volatile uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static void store(volatile uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

int qfl_ble_link_init(qfl_ble_link *l, qfl_ble_send send, void *ctx, uint8_t *rx, uint32_t rx_size,
                      uint8_t *tx, uint32_t tx_size)
{
    memset(l, 0, sizeof *l);
    if (send == NULL || rx == NULL || tx == NULL || rx_size < QFL_BLE_VALUE_MAX ||
        (rx_size & (rx_size - 1)) != 0 || tx_size < QFL_BLE_VALUE_MAX)
        return -1;
    l->send = send;
    l->ctx = ctx;
    l->rx = rx;
    l->rx_size = rx_size;
    l->tx = tx;
    l->tx_size = tx_size;
    return 0;
}

void qfl_ble_link_on_mtu(qfl_ble_link *l, uint32_t att_mtu)
{
    uint32_t value = att_mtu > QFL_BLE_ATT_HEADER ? att_mtu - QFL_BLE_ATT_HEADER : 0;
    store(&l->value, value < QFL_BLE_VALUE_FIRST ? QFL_BLE_VALUE_FIRST
                     : value > QFL_BLE_VALUE_MAX ? QFL_BLE_VALUE_MAX
                                                 : value);
}

void qfl_ble_link_on_connect(qfl_ble_link *l, uint32_t att_mtu)
{
    l->rx_start = l->rx_head; /* what is before belongs to an earlier connection */
    store(&l->connections, l->connections + 1);
    qfl_ble_link_on_mtu(l, att_mtu);
}

void qfl_ble_link_on_disconnect(qfl_ble_link *l) { store(&l->value, 0); }

void qfl_ble_link_on_receive(qfl_ble_link *l, const uint8_t *p, uint32_t n)
{
    uint32_t head = l->rx_head, at = head & (l->rx_size - 1), first = l->rx_size - at;
    if (n > l->rx_size - (head - load(&l->rx_tail))) {
        l->lost = l->lost + n;
        return;
    }
    if (first > n)
        first = n;
    memcpy(l->rx + at, p, first);
    memcpy(l->rx, p + first, n - first);
    store(&l->rx_head, head + n);
}

int32_t qfl_ble_link_up(const qfl_ble_link *l) { return load(&l->value) != 0; }
uint32_t qfl_ble_link_connections(const qfl_ble_link *l) { return load(&l->connections); }
uint32_t qfl_ble_link_lost(const qfl_ble_link *l) { return load(&l->lost); }

uint32_t qfl_ble_link_mtu(const qfl_ble_link *l)
{
    uint32_t value = load(&l->value);
    return value != 0 ? value : QFL_BLE_VALUE_FIRST;
}

/* A new connection since we looked last: half frames of the old one, in and out, are dropped. */
static void enter_connection(qfl_ble_link *l)
{
    uint32_t connections = load(&l->connections);
    if (connections == l->seen)
        return;
    l->seen = connections;
    l->tx_at = l->tx_n = 0;
    if ((int32_t)(l->rx_start - l->rx_tail) > 0)
        store(&l->rx_tail, l->rx_start);
}

int32_t qfl_ble_link_read(qfl_ble_link *l, uint8_t *p, uint32_t n)
{
    enter_connection(l);
    uint32_t tail = l->rx_tail, have = load(&l->rx_head) - tail, at = tail & (l->rx_size - 1);
    if (n > have)
        n = have;
    uint32_t first = l->rx_size - at < n ? l->rx_size - at : n;
    memcpy(p, l->rx + at, first);
    memcpy(p + first, l->rx, n - first);
    store(&l->rx_tail, tail + n);
    return (int32_t)n;
}

/* least: values shorter than this wait for more. */
static uint32_t send_values(qfl_ble_link *l, uint32_t least)
{
    while (l->tx_n - l->tx_at >= least && l->tx_n != l->tx_at) {
        uint32_t value = load(&l->value), left = l->tx_n - l->tx_at;
        if (value == 0) { /* nobody listens: the bytes go into the air */
            l->tx_at = l->tx_n;
            break;
        }
        int32_t sent = l->send(l->ctx, l->tx + l->tx_at, left < value ? left : value);
        if (sent <= 0)
            break;
        l->tx_at += (uint32_t)sent;
    }
    if (l->tx_at == l->tx_n)
        l->tx_at = l->tx_n = 0;
    return l->tx_n - l->tx_at;
}

int32_t qfl_ble_link_write(qfl_ble_link *l, const uint8_t *p, uint32_t n)
{
    enter_connection(l);
    if (load(&l->value) == 0)
        return (int32_t)n; /* nobody listens: a UART would send into the air */
    uint32_t took = 0;
    while (took < n) {
        if (l->tx_n == l->tx_size && l->tx_at != 0) {
            memmove(l->tx, l->tx + l->tx_at, l->tx_n - l->tx_at);
            l->tx_n -= l->tx_at;
            l->tx_at = 0;
        }
        uint32_t room = l->tx_size - l->tx_n, piece = n - took < room ? n - took : room;
        if (piece == 0)
            break;
        memcpy(l->tx + l->tx_n, p + took, piece);
        l->tx_n += piece;
        took += piece;
        send_values(l, qfl_ble_link_mtu(l));
    }
    return (int32_t)took;
}

uint32_t qfl_ble_link_flush(qfl_ble_link *l)
{
    enter_connection(l);
    return send_values(l, 1);
}
