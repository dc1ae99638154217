// A stand-in for Arduino, so that the firmware runs as a process of this computer: Serial is a TCP port.
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t millis();
uint32_t micros();
void delay(uint32_t ms);
long random(long low, long high);
inline long random(long high) { return random(0, high); }

class SerialPort {
  public:
    void begin(unsigned long baud);
    explicit operator bool(); // a host is connected
    int available();
    int availableForWrite();
    size_t write(const uint8_t *p, size_t n);
    size_t readBytes(char *p, size_t n);
};
extern SerialPort Serial;

void setup();
void loop();
