/*
 * Functions that all ports for Arduino cores have alike. Included once by a port's source, behind its `serial_or_ble`
 * (a qfl_arduino_link) and before its qfl_port.
 */
#ifndef QFL_ARDUINO_FUNCTIONS_H
#define QFL_ARDUINO_FUNCTIONS_H

static qfl_sample_reader sample_reader;

static uint32_t port_ms(void *) { return millis(); }
static uint32_t port_us(void *) { return micros(); }
static int32_t port_link_up(void *, uint8_t link) { return link == 0; }
static uint32_t port_link_connections(void *, uint8_t) { return serial_or_ble.connections(); }
static uint32_t port_link_mtu(void *, uint8_t) { return serial_or_ble.link_mtu(); }
static int32_t port_link_write(void *, uint8_t link, const uint8_t *p, uint32_t n)
{
    return link == 0 ? serial_or_ble.write(p, n) : (int32_t)QFL_E_UNSUPPORTED;
}
static int32_t port_link_read(void *, uint8_t link, uint8_t *p, uint32_t n)
{
    return link == 0 ? serial_or_ble.read(p, n) : (int32_t)QFL_E_UNSUPPORTED;
}
/* The cores do not count what their serial ports lose. */
static uint32_t port_link_lost(void *, uint8_t)
{
    return serial_or_ble.ble != NULL ? qfl_ble_link_lost(serial_or_ble.ble) : 0;
}
static uint32_t sample_bytes(void *, uint8_t *p, uint32_t n)
{
    return (uint32_t)qfl_serial_read(Serial1, p, n);
}
static int32_t port_next_sample(void *, int8_t *x, uint32_t n, uint16_t *label)
{
    return qfl_sample_next(&sample_reader, sample_bytes, NULL, x, n, label);
}
static uint32_t port_sample_lost(void *) { return sample_reader.lost; }

#endif
