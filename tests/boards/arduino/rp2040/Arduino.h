/* Of Earle Philhower's RP2040 core: what firmware/boards/rp2040 calls, with bodies in fake_rp2040.cpp. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#include "../fake.h"

unsigned long millis();
unsigned long micros();
void delay(unsigned long ms);

/* SerialUSB and SerialUART alike; DTR is always low here. */
class fake_port
{
  public:
    explicit fake_port(int number) : number_(number) {}
    void begin(unsigned long baud);
    void ignoreFlowControl(bool on = true) { ignores_ = on; }
    bool setFIFOSize(size_t n);
    int available() { return line_.available(); }
    int availableForWrite() { return line_.room(); }
    size_t readBytes(char *p, size_t n) { return line_.read((uint8_t *)p, n); }
    size_t write(const uint8_t *p, size_t n) { return number_ == 0 && !ignores_ ? 0 : line_.write(p, n); }

  private:
    int number_;
    bool ignores_ = false;
    size_t fifo_ = 32;
    fake::line line_;
};
extern fake_port Serial, Serial1;

class RP2040
{
  public:
    enum resetReason_t {
        UNKNOWN_RESET,
        PWRON_RESET,
        RUN_PIN_RESET,
        SOFT_RESET,
        WDT_RESET,
        DEBUG_RESET,
        GLITCH_RESET,
        BROWNOUT_RESET
    };
    resetReason_t getResetReason() { return PWRON_RESET; }
    void idleOtherCore();
    void resumeOtherCore();
    int getFreeHeap() { return 200 * 1024; }
    uint32_t hwrand32() { return fake::random32(); }
    [[noreturn]] void reboot() { fake::restart(); }
};
extern RP2040 rp2040;

#endif
