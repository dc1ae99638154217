/* Of Adafruit's nRF52 core: what firmware/boards/nrf52 calls, with bodies in fake_nrf52.cpp. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#include "../fake.h"

uint32_t millis();
uint32_t micros();
void delay(uint32_t ms);
uint32_t readResetReason();
[[noreturn]] void NVIC_SystemReset();

struct NRF_FICR_Type {
    uint32_t DEVICEID[2];
};
extern NRF_FICR_Type *const NRF_FICR;

/* Uart and Adafruit_USBD_CDC alike, but that the latter sends nothing while DTR is low, which is always here. */
class fake_port
{
  public:
    explicit fake_port(int number) : number_(number) {}
    void begin(unsigned long baud);
    int available() { return line_.available(); }
    int availableForWrite() { return line_.room(); }
    size_t readBytes(char *p, size_t n) { return line_.read((uint8_t *)p, n); }
    size_t write(const uint8_t *p, size_t n) { return number_ == 0 ? 0 : line_.write(p, n); }

    fake::line line_;

  private:
    int number_;
};
extern fake_port Serial, Serial1;

#endif
