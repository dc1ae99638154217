/*
 * USB serial by TinyUSB itself, with the functions of a serial port of an Arduino core. The cores' own classes over it
 * send nothing while the host holds DTR low. The source that includes this includes TinyUSB's header first.
 */
#ifndef QFL_TINYUSB_H
#define QFL_TINYUSB_H

#include <stddef.h>
#include <stdint.h>

struct qfl_tinyusb {
    int available() { return (int)tud_cdc_available(); }
    int availableForWrite() { return (int)tud_cdc_write_available(); }
    size_t readBytes(char *p, size_t n) { return tud_cdc_read(p, (uint32_t)n); }
    size_t write(const uint8_t *p, size_t n)
    {
        n = tud_cdc_write(p, (uint32_t)n);
        (void)tud_cdc_write_flush();
        return n;
    }
};

#endif
