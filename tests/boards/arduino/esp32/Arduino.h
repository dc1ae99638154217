/* Of Espressif's Arduino core: what firmware/boards/esp32 calls, with bodies in fake_esp32.cpp. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#include "../fake.h"

unsigned long millis();
unsigned long micros();
void delay(uint32_t ms);

class HardwareSerial
{
  public:
    explicit HardwareSerial(int number) : number_(number) {}
    size_t setRxBufferSize(size_t n);
    size_t setTxBufferSize(size_t n);
    void begin(unsigned long baud);
    int available() { return line_.available(); }
    int availableForWrite() { return line_.room(); }
    size_t readBytes(char *p, size_t n) { return line_.read((uint8_t *)p, n); }
    size_t write(const uint8_t *p, size_t n) { return line_.write(p, n); }
    void deaf(uint32_t ms) { line_.deaf(ms); }

  private:
    int number_;
    size_t rx_ = 256, tx_ = 128; /* without a call: the receive ring of the core, the hardware's FIFO */
    fake::line line_;
};
extern HardwareSerial Serial, Serial1;

class EspClass
{
  public:
    uint64_t getEfuseMac();
    void restart();
};
extern EspClass ESP;

#endif
