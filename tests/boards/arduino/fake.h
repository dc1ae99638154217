/*
 * What the fakes of Arduino cores are made of: a board as a process with the options and the line of JSON of
 * firmware/boards/posix, so that the host's tests drive it as a native board. A rule of the part that a port breaks
 * ends the process with a line on stderr.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stddef.h>
#include <stdint.h>

#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fake
{

[[noreturn]] void misuse(const char *what);
uint64_t now_us();
[[noreturn]] void restart(); /* a reset: the process begins anew, its ports and flash stay */

/* Options of the process. QFL_FAKE_ERASE_MS: how long an erase stalls; QFL_FAKE_USB: nobody drains what is sent. */
struct options {
    uint8_t uid[8];
    bool ble;
    uint32_t erase_ms;
    bool usb;
    int link, samples; /* listening sockets */
};
extern options given;

/*
 * A serial port at a TCP port. A UART moves baud / 10 bytes a second whether somebody listens or not, and has 128
 * bytes of FIFO while the processor is deaf; USB moves what the host takes.
 */
class line
{
  public:
    void open(int listener, uint32_t rx_size, uint32_t tx_size, uint32_t baud, bool usb);
    bool opened() const { return open_; }
    void unplug() { plugged_ = false; } /* nothing will ever come */
    int available();
    int room();
    size_t write(const uint8_t *p, size_t n);
    size_t read(uint8_t *p, size_t n);
    void deaf(uint32_t ms); /* interrupts are off for so long */
    uint32_t lost = 0; /* bytes that did not fit the ring, or the FIFO of a deaf processor */

  private:
    void move();
    void receive(uint32_t most, uint32_t kept);
    int listener_ = -1, client_ = -1;
    bool usb_ = false, open_ = false, plugged_ = true;
    uint32_t rx_size_ = 0, tx_size_ = 0, baud_ = 0;
    uint64_t at_ = 0;
    std::vector<uint8_t> rx_, tx_;
};

/* Flash that is erased by sectors and written once; in a file with --flash. */
class flash
{
  public:
    flash(uint32_t size, uint32_t sector, uint32_t unit) : size_(size), sector_(sector), unit_(unit) {}
    void open() { open_at(nullptr); }
    void open_at(void *address); /* where the part has it; NULL: anywhere */
    uint8_t *cells() { return cells_; }
    uint32_t size() const { return size_; }
    void erase(uint32_t at, uint32_t n); /* misuse: not whole sectors */
    void program(uint32_t at, const uint8_t *p, uint32_t n); /* misuse: a unit that is not erased */

  private:
    uint32_t size_, sector_, unit_;
    uint8_t *cells_ = nullptr;
};

/* What a vendor's stack does with a central; called from a thread of its own. */
class stack
{
  public:
    virtual ~stack() {}
    virtual void connected(uint16_t att_mtu) = 0;
    virtual void mtu(uint16_t att_mtu) = 0;
    virtual void value(const uint8_t *p, uint16_t n) = 0;
    virtual void disconnected() = 0;
};

/* A radio at a TCP port, in the records of qfl_ble_records.h. It connects to boards that advertise only. */
class radio
{
  public:
    void start(stack *s);
    void advertise();
    /* false: no room in the stack, nobody is connected, or nobody has subscribed. misuse: longer than a value. */
    bool notify(const uint8_t *p, size_t n);
    void set_limit(uint16_t most) { most_ = most; } /* the largest ATT MTU that the port has asked for */

  private:
    void serve();
    bool record(uint8_t kind, const uint8_t *p, uint32_t n);
    void ended();
    stack *stack_ = nullptr;
    std::thread thread_;
    std::mutex lock_;
    int client_ = -1;
    bool advertising_ = false, connected_ = false;
    uint16_t mtu_ = 23, most_ = 23;
    uint32_t sent_ = 0;
};

extern radio air;
uint32_t random32();

} // namespace fake

void setup();
void loop();

#endif
