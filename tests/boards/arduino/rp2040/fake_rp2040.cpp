/* Bodies of the fakes of the RP2040's core and SDK: what they and the part enforce. */
#include <string.h>
#include <unistd.h>

#include "Arduino.h"
#include "hardware/flash.h"
#include "hardware/sync.h"
#include "pico/unique_id.h"

fake_port Serial(0), Serial1(1);
RP2040 rp2040;

unsigned long millis() { return (unsigned long)(uint32_t)(fake::now_us() / 1000); }
unsigned long micros() { return (unsigned long)(uint32_t)fake::now_us(); }
void delay(unsigned long ms) { usleep((useconds_t)ms * 1000); }

static fake::flash store(1 << 20, FLASH_SECTOR_SIZE, FLASH_PAGE_SIZE);
static bool masked, idle;

bool fake_port::setFIFOSize(size_t n)
{
    if (line_.opened())
        fake::misuse("setFIFOSize() after begin() does nothing");
    fifo_ = n;
    return true;
}
void fake_port::begin(unsigned long baud)
{
    bool usb = number_ == 0;
    if (usb)
        store.open_at((void *)QFL_STORE_BEGIN);
    line_.open(usb ? fake::given.link : fake::given.samples, usb ? 256 : (uint32_t)fifo_, usb ? 256 : 32,
               usb ? 0 : (uint32_t)baud, usb);
}

void RP2040::idleOtherCore() { idle = true; }
void RP2040::resumeOtherCore() { idle = false; }
uint32_t save_and_disable_interrupts(void)
{
    masked = true;
    return 1;
}
void restore_interrupts(uint32_t) { masked = false; }

static void nobody_runs(const uint8_t *source)
{
    if (!masked || !idle)
        fake::misuse("an interrupt or the other core may run from flash while it is written");
    if (source >= store.cells() && source < store.cells() + store.size())
        fake::misuse("flash is written from flash, which cannot be read meanwhile");
}
void flash_range_erase(uint32_t at, size_t n)
{
    nobody_runs(nullptr);
    usleep(fake::given.erase_ms * 1000);
    store.erase(at - (uint32_t)(QFL_STORE_BEGIN - XIP_BASE), (uint32_t)n);
}
void flash_range_program(uint32_t at, const uint8_t *p, size_t n)
{
    nobody_runs(p);
    store.program(at - (uint32_t)(QFL_STORE_BEGIN - XIP_BASE), p, (uint32_t)n);
}
void pico_get_unique_board_id(pico_unique_board_id_t *out)
{
    memcpy(out->id, fake::given.uid, sizeof out->id);
}
