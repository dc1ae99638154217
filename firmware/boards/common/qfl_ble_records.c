#include "qfl_ble_records.h"

#include <string.h>

#include "qfl_bytes.h"
#include "qfl_port.h"

void qfl_ble_records_reset(qfl_ble_records *r) { r->in_n = r->out_n = r->out_at = 0; }

/* 1 when nothing is left of the last record. */
static int written(qfl_ble_records *r)
{
    if (r->out_at != r->out_n)
        r->out_at += r->write(r->ctx, r->out + r->out_at, r->out_n - r->out_at);
    return r->out_at == r->out_n;
}

static void on_record(qfl_ble_link *l, const uint8_t *p, uint32_t n)
{
    uint32_t mtu = n >= 2 ? qfl_get16(p + 3) : 0;
    switch (p[0]) {
    case QFL_BLE_RECORD_CONNECTED: qfl_ble_link_on_connect(l, mtu); break;
    case QFL_BLE_RECORD_MTU: qfl_ble_link_on_mtu(l, mtu); break;
    case QFL_BLE_RECORD_DISCONNECTED: qfl_ble_link_on_disconnect(l); break;
    case QFL_BLE_RECORD_VALUE: qfl_ble_link_on_receive(l, p + QFL_BLE_RECORD_HEAD, n); break;
    default: break;
    }
}

void qfl_ble_records_poll(qfl_ble_records *r, qfl_ble_link *l)
{
    (void)written(r);
    for (int i = 0; i < 64; i++) { /* bounded: the device is to work, too */
        uint32_t need = QFL_BLE_RECORD_HEAD;
        if (r->in_n >= QFL_BLE_RECORD_HEAD)
            need += qfl_get16(r->in + 1);
        if (need > sizeof r->in) {
            qfl_ble_records_reset(r); /* nonsense: this is no radio */
            return;
        }
        if (r->in_n < need) {
            uint32_t got = r->read(r->ctx, r->in + r->in_n, need - r->in_n);
            r->in_n += got;
            if (r->in_n < need && got == 0)
                return;
        }
        if (r->in_n >= QFL_BLE_RECORD_HEAD &&
            r->in_n == QFL_BLE_RECORD_HEAD + (uint32_t)qfl_get16(r->in + 1)) {
            on_record(l, r->in, r->in_n - QFL_BLE_RECORD_HEAD);
            r->in_n = 0;
        }
    }
}

int32_t qfl_ble_records_send(void *records, const uint8_t *p, uint32_t n)
{
    qfl_ble_records *r = records;
    if (n > QFL_BLE_RECORD_MAX)
        return QFL_E_INVAL;
    if (!written(r))
        return 0;
    r->out[0] = QFL_BLE_RECORD_VALUE;
    qfl_put16(r->out + 1, (uint16_t)n);
    memcpy(r->out + QFL_BLE_RECORD_HEAD, p, n);
    r->out_n = n + QFL_BLE_RECORD_HEAD;
    r->out_at = 0;
    (void)written(r);
    return (int32_t)n;
}
