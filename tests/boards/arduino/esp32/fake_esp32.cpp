/* Bodies of the fakes of Espressif's core and of NimBLE: what the part and the stack enforce. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "Arduino.h"
#include "NimBLEDevice.h"
#include "esp_heap_caps.h"
#include "esp_partition.h"
#include "esp_system.h"

HardwareSerial Serial(0), Serial1(1);
EspClass ESP;

unsigned long millis() { return (unsigned long)(uint32_t)(fake::now_us() / 1000); }
unsigned long micros() { return (unsigned long)(uint32_t)fake::now_us(); }
void delay(uint32_t ms) { usleep(ms * 1000); }

size_t HardwareSerial::setRxBufferSize(size_t n)
{
    if (line_.opened())
        fake::misuse("setRxBufferSize() after begin() does nothing");
    return rx_ = n;
}
size_t HardwareSerial::setTxBufferSize(size_t n)
{
    if (line_.opened())
        fake::misuse("setTxBufferSize() after begin() does nothing");
    return tx_ = n;
}
void HardwareSerial::begin(unsigned long baud)
{
    if (number_ == 0 && fake::given.ble) { /* the link's port is the radio's: nobody is at the serial one */
        line_.open(-1, (uint32_t)rx_, (uint32_t)tx_, (uint32_t)baud, false);
        line_.unplug();
        return;
    }
    line_.open(number_ == 0 ? fake::given.link : fake::given.samples, (uint32_t)rx_, (uint32_t)tx_,
               (uint32_t)baud, number_ == 0 && fake::given.usb);
}

uint64_t EspClass::getEfuseMac()
{
    uint64_t mac = 0;
    for (int i = 0; i < 6; i++)
        mac |= (uint64_t)fake::given.uid[i + 2] << 8 * i;
    return mac;
}
void EspClass::restart() { fake::restart(); }
esp_reset_reason_t esp_reset_reason(void) { return ESP_RST_POWERON; }
void esp_fill_random(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)fake::random32();
}

/* A heap of 180 KB in two blocks, of which an allocation's own head takes 16 bytes. */
enum { LARGEST = 110 * 1024, FREE = 180 * 1024 };
static bool taken;
size_t heap_caps_get_largest_free_block(uint32_t) { return LARGEST; }
size_t heap_caps_get_free_size(uint32_t) { return FREE; }
void *heap_caps_aligned_alloc(size_t alignment, size_t n, uint32_t)
{
    if (taken || n > LARGEST - 16 - alignment)
        return NULL;
    taken = true;
    return aligned_alloc(alignment, n);
}

static fake::flash cells(1 << 20, 4096, 4);
static const esp_partition_t store = {0x2F0000, 1 << 20, "qfl"};
static bool found;

const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t,
                                                const char *label)
{
    if (type != ESP_PARTITION_TYPE_DATA || strcmp(label, store.label) != 0)
        return NULL;
    if (!found)
        cells.open();
    found = true;
    return &store;
}
esp_err_t esp_partition_mmap(const esp_partition_t *, size_t at, size_t n, fake_mmap_memory, const void **p,
                             fake_mmap_handle *handle)
{
    if (at + n > store.size)
        return ESP_ERR_INVALID_ARG;
    *p = cells.cells() + at;
    *handle = 1;
    return ESP_OK;
}
esp_err_t esp_partition_read(const esp_partition_t *, size_t at, void *p, size_t n)
{
    if (at > store.size || n > store.size - at)
        return ESP_ERR_INVALID_ARG;
    memcpy(p, cells.cells() + at, n);
    return ESP_OK;
}
esp_err_t esp_partition_write(const esp_partition_t *, size_t at, const void *p, size_t n)
{
    cells.program((uint32_t)at, (const uint8_t *)p, (uint32_t)n);
    return ESP_OK;
}
/* The cache is off meanwhile, and with it the interrupts of the serial ports. */
esp_err_t esp_partition_erase_range(const esp_partition_t *, size_t at, size_t n)
{
    cells.erase((uint32_t)at, (uint32_t)n);
    if (!fake::given.usb)
        Serial.deaf(fake::given.erase_ms);
    return ESP_OK;
}

static NimBLEServerCallbacks *server_callbacks;
static NimBLECharacteristic *from_host, *to_host;
static NimBLEServer server;
static NimBLEService service;
static NimBLEAdvertising advertising;
static NimBLEConnInfo information;
static bool started;

class nimble : public fake::stack
{
    void connected(uint16_t) override
    {
        server_callbacks->onConnect(&server, information);
        to_host->subscribed = true; /* the host subscribes at once */
        to_host->callbacks->onSubscribe(to_host, information, 1);
    }
    void mtu(uint16_t att_mtu) override { server_callbacks->onMTUChange(att_mtu, information); }
    void value(const uint8_t *p, uint16_t n) override
    {
        from_host->value.assign(p, p + n);
        from_host->callbacks->onWrite(from_host, information);
    }
    void disconnected() override
    {
        to_host->subscribed = false;
        server_callbacks->onDisconnect(&server, information, 0x213);
    }
};

bool NimBLEDevice::init(const std::string &name) { return !name.empty(); }
bool NimBLEDevice::setMTU(uint16_t most)
{
    fake::air.set_limit(most);
    return true;
}
NimBLEServer *NimBLEDevice::createServer() { return &server; }
NimBLEAdvertising *NimBLEDevice::getAdvertising() { return &advertising; }
bool NimBLEDevice::startAdvertising() { return advertising.start(); }
void NimBLEServer::setCallbacks(NimBLEServerCallbacks *c, bool) { server_callbacks = c; }
NimBLEService *NimBLEServer::createService(const char *) { return &service; }
NimBLECharacteristic *NimBLEService::createCharacteristic(const char *, uint32_t properties, uint16_t)
{
    NimBLECharacteristic *c = new NimBLECharacteristic;
    c->properties = properties;
    ((properties & NOTIFY) != 0 ? to_host : from_host) = c;
    return c;
}
void NimBLEServer::start()
{
    static nimble callbacks;
    started = true;
    if (fake::given.ble)
        fake::air.start(&callbacks);
}
bool NimBLEAdvertising::addServiceUUID(const char *) { return true; }
void NimBLEAdvertising::enableScanResponse(bool) {}
bool NimBLEAdvertising::setName(const std::string &) { return true; }
bool NimBLEAdvertising::start()
{
    if (!started)
        fake::misuse("advertising begins before the server has started, so it would have no services");
    fake::air.advertise();
    return true;
}
bool NimBLECharacteristic::notify(const uint8_t *p, size_t n, uint16_t) const
{
    return subscribed && fake::air.notify(p, n);
}
