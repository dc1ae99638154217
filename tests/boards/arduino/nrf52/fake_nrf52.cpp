/* Bodies of the fakes of Adafruit's core, Bluefruit and the SoftDevice: what they and the part enforce. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>

#include "Adafruit_TinyUSB.h"
#include "Arduino.h"
#include "bluefruit.h"
#include "nrf_soc.h"

fake_port Serial(0), Serial1(1);
static NRF_FICR_Type ficr;
NRF_FICR_Type *const NRF_FICR = &ficr;
AdafruitBluefruit Bluefruit;

uint32_t millis() { return (uint32_t)(fake::now_us() / 1000); }
uint32_t micros() { return (uint32_t)fake::now_us(); }
void delay(uint32_t ms) { usleep(ms * 1000); }
uint32_t readResetReason()
{
    memcpy(ficr.DEVICEID, fake::given.uid, 8); /* before anybody asks */
    return 0;
}
void NVIC_SystemReset() { fake::restart(); }

void fake_port::begin(unsigned long baud)
{
    bool usb = number_ == 0;
    if (usb && fake::given.ble) {
        line_.open(-1, 256, 256, (uint32_t)baud, true);
        line_.unplug();
    } else {
        /* SERIAL_BUFFER_SIZE=1024 of platformio.ini; TinyUSB's FIFOs */
        line_.open(usb ? fake::given.link : fake::given.samples, usb ? 256 : 1024, 256,
                   usb ? 0 : (uint32_t)baud, usb);
    }
}

/* A byte stays in TinyUSB's FIFO until it is flushed, or 64 are there. */
static std::vector<uint8_t> fifo;
uint32_t tud_cdc_available(void) { return (uint32_t)Serial.line_.available(); }
uint32_t tud_cdc_write_available(void) { return 256 - (uint32_t)fifo.size(); }
uint32_t tud_cdc_read(void *p, uint32_t n) { return (uint32_t)Serial.line_.read((uint8_t *)p, n); }
uint32_t tud_cdc_write_flush(void)
{
    uint32_t room = (uint32_t)Serial.line_.room(), n = fifo.size() < room ? (uint32_t)fifo.size() : room;
    (void)Serial.line_.write(fifo.data(), n);
    fifo.erase(fifo.begin(), fifo.begin() + n);
    return n;
}
uint32_t tud_cdc_write(void const *p, uint32_t n)
{
    n = n < tud_cdc_write_available() ? n : tud_cdc_write_available();
    fifo.insert(fifo.end(), (const uint8_t *)p, (const uint8_t *)p + n);
    if (fifo.size() >= 64)
        (void)tud_cdc_write_flush();
    return n;
}

/* -- flash at its own addresses -- */

enum { STORE_AT = 0x8D000, STORE_BYTES = 384 * 1024, PAGE = 4096 };
static std::mutex lock;
static std::condition_variable changed;
static bool pending;
static uint32_t operations, erase_page;
static uint32_t *write_to;
static uint32_t const *write_from;
static uint32_t write_words;
static std::atomic<uint64_t> radio_event(0);
static fake::flash store(STORE_BYTES, PAGE, 4);
static bool opened;

static void softdevice()
{
    for (;;) {
        std::unique_lock<std::mutex> hold(lock);
        changed.wait(hold, [] { return pending; });
        hold.unlock();
        usleep(write_to != nullptr ? 500 : fake::given.erase_ms * 1000);
        hold.lock();
        /* an operation meets a radio event: it is not done, and only an event says so */
        bool fails = operations % 23 == 22 || fake::now_us() - radio_event < 20000;
        if (!fails && write_to != nullptr)
            store.program((uint32_t)((uintptr_t)write_to - STORE_AT), (const uint8_t *)write_from,
                          4 * write_words);
        else if (!fails)
            store.erase(erase_page * PAGE - STORE_AT, PAGE);
        pending = false;
    }
}

static uint32_t begin_operation()
{
    if (pending)
        return NRF_ERROR_BUSY;
    pending = true;
    operations++;
    changed.notify_one();
    return NRF_SUCCESS;
}
static void open_store()
{
    if (!opened) {
        store.open_at((void *)(uintptr_t)STORE_AT);
        std::thread(softdevice).detach();
    }
    opened = true;
}
uint32_t sd_flash_page_erase(uint32_t page)
{
    std::lock_guard<std::mutex> hold(lock);
    if (page * PAGE < STORE_AT || page * PAGE >= STORE_AT + STORE_BYTES)
        fake::misuse("an erase outside the store");
    if (!pending) {
        erase_page = page;
        write_to = nullptr;
    }
    return begin_operation();
}
uint32_t sd_flash_write(uint32_t *to, uint32_t const *from, uint32_t words)
{
    std::lock_guard<std::mutex> hold(lock);
    if (((uintptr_t)to | (uintptr_t)from) % 4 != 0)
        return NRF_ERROR_INVALID_ADDR;
    if (words > 1024)
        fake::misuse("more than a page is written at once");
    if (!pending) {
        write_to = to;
        write_from = from;
        write_words = words;
    }
    return begin_operation();
}

static uint8_t pool = 0;
uint32_t sd_rand_application_bytes_available_get(uint8_t *n)
{
    *n = pool = pool < 60 ? pool + 4 : 64;
    return NRF_SUCCESS;
}
uint32_t sd_rand_application_vector_get(uint8_t *p, uint8_t n)
{
    if (n > pool)
        return NRF_ERROR_SOC_RAND_NOT_ENOUGH_VALUES;
    pool = (uint8_t)(pool - n);
    for (uint8_t i = 0; i < n; i++)
        p[i] = (uint8_t)fake::random32();
    return NRF_SUCCESS;
}

/* -- Bluefruit -- */

static bool begun, in_service, wide;
static std::atomic<uint16_t> att_mtu(23);
static std::atomic<bool> connected_now(false), listening(false);
static BLECharacteristic *from_host;
static BLEConnection connection;

class bluefruit : public fake::stack
{
    void connected(uint16_t mtu) override
    {
        radio_event = fake::now_us();
        att_mtu = mtu;
        connected_now = true;
        Bluefruit.Periph.on_connect(0);
        listening = true; /* the host subscribes */
    }
    void mtu(uint16_t mtu) override { att_mtu = mtu; }
    void value(const uint8_t *p, uint16_t n) override { from_host->written(p, n); }
    void disconnected() override
    {
        radio_event = fake::now_us();
        connected_now = listening = false;
        Bluefruit.Periph.on_disconnect(0, 0x13);
        if (Bluefruit.Advertising.restart)
            fake::air.advertise();
    }
};

void AdafruitBluefruit::configPrphBandwidth(uint8_t b)
{
    if (begun)
        fake::misuse("configPrphBandwidth() after begin() does nothing");
    wide = b == BANDWIDTH_MAX;
}
bool AdafruitBluefruit::begin(uint8_t, uint8_t)
{
    open_store();
    begun = true;
    fake::air.set_limit(wide ? 247 : 23);
    return true;
}
BLEConnection *AdafruitBluefruit::Connection(uint16_t) { return connected_now ? &connection : nullptr; }
uint16_t BLEConnection::getMtu() { return att_mtu; }
bool AdafruitBluefruit::advertising::start(uint16_t)
{
    static bluefruit callbacks;
    if (!begun || from_host == nullptr)
        fake::misuse("advertising begins before the service is there");
    fake::air.advertise();
    if (fake::given.ble)
        fake::air.start(&callbacks);
    return true;
}
uint32_t BLEService::begin()
{
    in_service = begun;
    return begun ? 0 : 8;
}
uint32_t BLECharacteristic::begin()
{
    if (!in_service)
        fake::misuse("a characteristic begins before its service");
    if (properties_ & CHR_PROPS_WRITE_WO_RESP)
        from_host = this;
    return 0;
}
void BLECharacteristic::setWriteCallback(write_cb_t f, bool) { on_write_ = f; }
void BLECharacteristic::written(const uint8_t *p, uint16_t n)
{
    uint8_t copy[512];
    memcpy(copy, p, n);
    if (n > max_)
        fake::misuse("a value longer than setMaxLen()");
    on_write_(0, this, copy, n);
}
bool BLECharacteristic::notifyEnabled(uint16_t) { return listening; }
bool BLECharacteristic::notify(uint16_t, const void *p, uint16_t n)
{
    return fake::air.notify((const uint8_t *)p, n);
}
