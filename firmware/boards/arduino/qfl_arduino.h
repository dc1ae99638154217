/*
 * What ports for Arduino cores share: a serial port or a BLE link as the one link of a board. C++11.
 *
 * A Print's write may block for as long as nobody reads, or say that it wrote what it dropped. So no more is given
 * to it than availableForWrite() has room for, and no more is asked of it than available() holds.
 */
#ifndef QFL_ARDUINO_H
#define QFL_ARDUINO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/qfl_ble_link.h"
#include "../common/qfl_sample_record.h"
#include "qfl_port.h"

template <class Port> int32_t qfl_serial_write(Port &port, const uint8_t *p, uint32_t n)
{
    int room = port.availableForWrite();
    if (room <= 0)
        return 0;
    return (int32_t)port.write(p, n < (uint32_t)room ? n : (uint32_t)room);
}

template <class Port> int32_t qfl_serial_read(Port &port, uint8_t *p, uint32_t n)
{
    int have = port.available();
    if (have <= 0)
        return 0;
    return (int32_t)port.readBytes((char *)p, n < (uint32_t)have ? n : (uint32_t)have);
}

/*
 * Link 0 is BLE while a central is connected, else the serial port. Every change counts as a connection, so that
 * half frames are dropped.
 */
template <class Port> struct qfl_arduino_link {
    Port *serial;
    qfl_ble_link *ble; /* NULL: this build has none */
    uint32_t mtu;      /* of the serial port */
    uint32_t changes;
    bool on_ble;

    bool look()
    {
        bool now = ble != NULL && qfl_ble_link_up(ble) != 0;
        if (now != on_ble)
            changes++;
        on_ble = now;
        return now;
    }
    uint32_t connections() { return (look(), changes) + (ble != NULL ? qfl_ble_link_connections(ble) : 0); }
    uint32_t link_mtu() { return look() ? qfl_ble_link_mtu(ble) : mtu; }
    int32_t write(const uint8_t *p, uint32_t n)
    {
        return look() ? qfl_ble_link_write(ble, p, n) : qfl_serial_write(*serial, p, n);
    }
    int32_t read(uint8_t *p, uint32_t n)
    {
        return look() ? qfl_ble_link_read(ble, p, n) : qfl_serial_read(*serial, p, n);
    }
    bool waits() /* a byte has come */
    {
        return look() ? ble->rx_head != ble->rx_tail : serial->available() > 0;
    }
};

enum { QFL_ARDUINO_NAME = 15 };
/* "quantfl-" and three bytes of the id; out: QFL_ARDUINO_NAME bytes. */
static inline const char *qfl_arduino_name(char *out, const uint8_t *id)
{
    memcpy(out, "quantfl-", 8);
    for (int i = 0; i < 6; i++)
        out[8 + i] = "0123456789abcdef"[id[i / 2] >> (i % 2 != 0 ? 0 : 4) & 15];
    out[14] = 0;
    return out;
}

#endif
