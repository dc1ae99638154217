/*
 * The board's side of a BLE link between a vendor's stack and qfl_port's link_* functions (docs/BLE.md): a ring for values
 * received, output in pieces of the negotiated MTU, a count of connections. Any stack with a Nordic-UART-like service fits:
 * it calls qfl_ble_link_on_* from its callbacks and gives a function that sends one notification.
 *
 * on_* may run in another task or an interrupt, but only in one at a time; all else is called from the task that polls the
 * device. No malloc, no global state, nothing of a vendor's; the header can be read by a C++ compiler.
 */
#ifndef QFL_BLE_LINK_H
#define QFL_BLE_LINK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* UUIDs of the service and its characteristics: write without response (host to board), notify (board to host). */
#define QFL_BLE_SERVICE_UUID "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
#define QFL_BLE_RX_UUID      "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
#define QFL_BLE_TX_UUID      "6e400003-b5a3-f393-e0a9-e50e24dcca9e"

enum { QFL_BLE_ATT_HEADER = 3, QFL_BLE_VALUE_FIRST = 20, QFL_BLE_VALUE_MAX = 244, QFL_BLE_ATT_MTU = 247 };

/*
 * ble_send: one notification of n bytes, at most the MTU less 3; copies. n: sent, 0: not now (the stack's queue is full),
 * negative: not connected or not subscribed. It must not send a part.
 */
typedef int32_t (*qfl_ble_send)(void *ctx, const uint8_t *p, uint32_t n);

typedef struct qfl_ble_link {
    qfl_ble_send send;
    void *ctx;
    uint8_t *rx; /* ring, rx_size a power of two */
    uint32_t rx_size;
    volatile uint32_t rx_head; /* written by on_* only */
    volatile uint32_t rx_tail; /* written by the task only */
    volatile uint32_t rx_start; /* where the ring stood when the connection began */
    volatile uint32_t connections;   /* connections so far */
    volatile uint32_t value;   /* bytes per value now, 0: not connected */
    volatile uint32_t lost;    /* bytes of values that did not fit the ring */
    uint32_t seen;             /* connections as the task last saw them */
    uint8_t *tx;
    uint32_t tx_size, tx_at, tx_n; /* waiting: tx[tx_at, tx_n) */
} qfl_ble_link;

/*
 * rx: rx_size bytes, a power of two; at least window x (frame + 10) bytes, as the link negotiates them, or values are lost under
 * load. tx: tx_size bytes, at least QFL_BLE_VALUE_MAX. Both owned by the link from now on. Returns 0, or -1 for bad sizes.
 */
int qfl_ble_link_init(qfl_ble_link *l, qfl_ble_send send, void *ctx, uint8_t *rx, uint32_t rx_size,
                      uint8_t *tx, uint32_t tx_size);

/* From the stack's callbacks. att_mtu: 23 when a connection begins, more once negotiated; a stack that does not say: 0. */
void qfl_ble_link_on_connect(qfl_ble_link *l, uint32_t att_mtu);
void qfl_ble_link_on_mtu(qfl_ble_link *l, uint32_t att_mtu);
void qfl_ble_link_on_disconnect(qfl_ble_link *l);
void qfl_ble_link_on_receive(qfl_ble_link *l, const uint8_t *p,
                             uint32_t n); /* one value; kept whole or dropped whole */

/* For the port's functions of the same names. */
int32_t qfl_ble_link_up(const qfl_ble_link *l);
uint32_t qfl_ble_link_connections(const qfl_ble_link *l);
uint32_t qfl_ble_link_mtu(const qfl_ble_link *l);
int32_t qfl_ble_link_write(qfl_ble_link *l, const uint8_t *p,
                           uint32_t n); /* bytes taken; without a connection all of them */
int32_t qfl_ble_link_read(qfl_ble_link *l, uint8_t *p, uint32_t n);
uint32_t qfl_ble_link_lost(const qfl_ble_link *l);

/*
 * Sends what is waiting, also a last value that is not full. From the port's poll, and from its sleep before it sleeps:
 * frames written one after another then share a value. Returns the bytes still waiting: sleep no longer than a connection
 * interval when there are any.
 */
uint32_t qfl_ble_link_flush(qfl_ble_link *l);

#ifdef __cplusplus
}
#endif

#endif
