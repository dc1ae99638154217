/*
 * A BLE radio at the end of a byte stream, for emulated boards: `kind u8, length u16, body` (little-endian), both ways, between
 * the board and quantfl.emulate.ble_radio. It stands for a vendor's stack: what comes in calls qfl_ble_link_on_*.
 */
#ifndef QFL_BLE_RECORDS_H
#define QFL_BLE_RECORDS_H

#include "qfl_ble_link.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QFL_BLE_RECORD_CONNECTED = 1, /* att_mtu u16 */
    QFL_BLE_RECORD_DISCONNECTED = 2,
    QFL_BLE_RECORD_MTU = 3,       /* att_mtu u16 */
    QFL_BLE_RECORD_VALUE = 4,     /* a value written by the host, or notified by the board */
    QFL_BLE_RECORD_HEAD = 3,
    QFL_BLE_RECORD_MAX = 512
};

/* Both without blocking; return bytes moved. */
typedef uint32_t (*qfl_ble_stream_read)(void *ctx, uint8_t *p, uint32_t n);
typedef uint32_t (*qfl_ble_stream_write)(void *ctx, const uint8_t *p, uint32_t n);

typedef struct qfl_ble_records {
    qfl_ble_stream_read read;
    qfl_ble_stream_write write;
    void *ctx;
    uint8_t in[QFL_BLE_RECORD_HEAD + QFL_BLE_RECORD_MAX], out[QFL_BLE_RECORD_HEAD + QFL_BLE_RECORD_MAX];
    uint32_t in_n, out_n, out_at;
} qfl_ble_records;

void qfl_ble_records_reset(qfl_ble_records *r); /* the stream was reconnected: half a record is dropped */
void qfl_ble_records_poll(qfl_ble_records *r, qfl_ble_link *l);
int32_t qfl_ble_records_send(void *records, const uint8_t *p, uint32_t n); /* a qfl_ble_send */

#ifdef __cplusplus
}
#endif

#endif
