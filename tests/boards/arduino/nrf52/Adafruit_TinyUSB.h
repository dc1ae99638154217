/* The core links USB serial only where this is included; what it brings of TinyUSB. */
#ifndef ADAFRUIT_TINYUSB_H
#define ADAFRUIT_TINYUSB_H
#include <stdint.h>

uint32_t tud_cdc_available(void);
uint32_t tud_cdc_write_available(void);
uint32_t tud_cdc_read(void *p, uint32_t n);
uint32_t tud_cdc_write(void const *p, uint32_t n);
uint32_t tud_cdc_write_flush(void);
#endif
