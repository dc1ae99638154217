/*
 * ESP32, ESP32-S3 and ESP32-C3 on Espressif's Arduino core 2.0.17 or 3.x: the serial port (on S3 and C3 the chip's own
 * USB), BLE by NimBLE-Arduino 2.5, the store in a data partition of its own ("qfl", partitions_*.csv), the arena from the
 * heap. Samples come as records (qfl_sample_record.h) on Serial1.
 */
#include <Arduino.h>
#include <esp_heap_caps.h>
#include <esp_partition.h>
#include <esp_system.h>
#include <string.h>
#ifndef QFL_BLE
#define QFL_BLE 1
#endif
#if QFL_BLE
#include <NimBLEDevice.h>
#endif

#include "../arduino/qfl_arduino.h"
#include "../common/qfl_board.h"

#ifndef QFL_LINK_BAUD
#define QFL_LINK_BAUD 921600
#endif
#ifndef QFL_SAMPLE_BAUD
#define QFL_SAMPLE_BAUD 460800
#endif
/* Bytes of heap that are left to the core, its radio and the stack of its tasks. */
#ifndef QFL_HEAP_LEFT
#define QFL_HEAP_LEFT (32u * 1024u)
#endif
/* MALLOC_CAP_SPIRAM: the arena in PSRAM, where the board has some. */
#ifndef QFL_ARENA_CAPS
#define QFL_ARENA_CAPS (MALLOC_CAP_8BIT | MALLOC_CAP_INTERNAL)
#endif
#ifndef QFL_STORE_LOG
#define QFL_STORE_LOG (128u * 1024u)
#endif

enum { MTU = 1024, RX = 8192, TX = 2048, SAMPLES_RX = 4096, BLE_RX = 8192, SECTOR = 4096 };

static qfl_arduino_link<decltype(Serial)> serial_or_ble;
#include "../arduino/qfl_arduino_functions.h"

static const esp_partition_t *partition;
static const uint8_t *map;
static uint8_t *arena;
static uint32_t arena_n;

#if QFL_BLE
static qfl_ble_link ble;
static uint8_t ble_rx[BLE_RX], ble_tx[2 * QFL_BLE_VALUE_MAX];
static NimBLECharacteristic *to_host;
static volatile bool subscribed;
static volatile uint16_t central = BLE_HS_CONN_HANDLE_NONE;

/* From the task that polls the device. notify() is false when the stack has no room: later. */
static int32_t ble_send(void *, const uint8_t *p, uint32_t n)
{
    if (!subscribed)
        return QFL_E_STATE;
    return to_host->notify(p, n, central) ? (int32_t)n : 0;
}

/* From NimBLE's task. */
class server_events : public NimBLEServerCallbacks
{
    void onConnect(NimBLEServer *server, NimBLEConnInfo &info) override
    {
        central = info.getConnHandle();
        server->setDataLen(central, 251);
        qfl_ble_link_on_connect(&ble, info.getMTU());
    }
    void onDisconnect(NimBLEServer *, NimBLEConnInfo &, int) override
    {
        subscribed = false;
        central = BLE_HS_CONN_HANDLE_NONE;
        qfl_ble_link_on_disconnect(&ble);
        NimBLEDevice::startAdvertising();
    }
    void onMTUChange(uint16_t mtu, NimBLEConnInfo &) override { qfl_ble_link_on_mtu(&ble, mtu); }
};

class value_events : public NimBLECharacteristicCallbacks
{
    void onWrite(NimBLECharacteristic *c, NimBLEConnInfo &) override
    {
        NimBLEAttValue value = c->getValue();
        qfl_ble_link_on_receive(&ble, value.data(), value.size());
    }
    void onSubscribe(NimBLECharacteristic *, NimBLEConnInfo &, uint16_t value) override
    {
        subscribed = value != 0;
    }
};

static bool open_ble(const char *name)
{
    static server_events on_server;
    static value_events on_value;
    if (qfl_ble_link_init(&ble, ble_send, NULL, ble_rx, sizeof ble_rx, ble_tx, sizeof ble_tx) != 0)
        return false;
    NimBLEDevice::init(name);
    NimBLEDevice::setMTU(QFL_BLE_ATT_MTU);
    NimBLEServer *server = NimBLEDevice::createServer();
    server->setCallbacks(&on_server, false);
    NimBLEService *service = server->createService(QFL_BLE_SERVICE_UUID);
    NimBLECharacteristic *from_host = service->createCharacteristic(
        QFL_BLE_RX_UUID, NIMBLE_PROPERTY::WRITE | NIMBLE_PROPERTY::WRITE_NR, QFL_BLE_VALUE_MAX);
    to_host = service->createCharacteristic(QFL_BLE_TX_UUID, NIMBLE_PROPERTY::NOTIFY, QFL_BLE_VALUE_MAX);
    from_host->setCallbacks(&on_value);
    to_host->setCallbacks(&on_value);
    server->start();
    NimBLEAdvertising *advertising = NimBLEDevice::getAdvertising();
    advertising->addServiceUUID(QFL_BLE_SERVICE_UUID); /* 18 of the 31 bytes; the name goes into the answer */
    advertising->enableScanResponse(true);
    advertising->setName(name);
    return advertising->start();
}
#endif

static bool open_flash()
{
    const void *at = NULL;
    partition = esp_partition_find_first(ESP_PARTITION_TYPE_DATA, ESP_PARTITION_SUBTYPE_ANY, "qfl");
    if (partition == NULL)
        return false;
#if defined(ESP_ARDUINO_VERSION_MAJOR) && ESP_ARDUINO_VERSION_MAJOR >= 3
    esp_partition_mmap_handle_t handle;
    esp_err_t error =
        esp_partition_mmap(partition, 0, partition->size, ESP_PARTITION_MMAP_DATA, &at, &handle);
#else
    spi_flash_mmap_handle_t handle;
    esp_err_t error = esp_partition_mmap(partition, 0, partition->size, SPI_FLASH_MMAP_DATA, &at, &handle);
#endif
    map = error == ESP_OK ? (const uint8_t *)at : NULL;
    return map != NULL;
}

/* The largest block that leaves QFL_HEAP_LEFT bytes. */
static bool take_arena()
{
    size_t largest = heap_caps_get_largest_free_block(QFL_ARENA_CAPS),
           all = heap_caps_get_free_size(QFL_ARENA_CAPS);
    size_t most = all > QFL_HEAP_LEFT ? all - QFL_HEAP_LEFT : 0, take = largest < most ? largest : most;
    for (; take > 16384; take -= 1024) { /* a block has its own head, and other tasks allocate, too */
        arena = (uint8_t *)heap_caps_aligned_alloc(16, take & ~(size_t)15, QFL_ARENA_CAPS);
        if (arena != NULL) {
            arena_n = take & ~(size_t)15;
            return true;
        }
    }
    return false;
}

static void port_poll(void *)
{
#if QFL_BLE
    (void)qfl_ble_link_flush(&ble);
#endif
}
static int32_t port_flash_info(void *, qfl_flash_info *out)
{
    memset(out, 0, sizeof *out);
    out->size = partition->size;
    out->erase_unit = SECTOR;
    out->program_unit = 4;
    out->worst_erase_ms = 400; /* data sheets of the usual flash chips: sector erase, at most */
    out->map = map;
    out->erased = 0xFF;
    out->write_once = 1;
    out->log_size = QFL_STORE_LOG;
    return 0;
}
static int32_t as_status(esp_err_t error) { return error == ESP_OK ? 0 : (int32_t)QFL_E_IO; }
static int32_t port_flash_read(void *, uint32_t at, uint8_t *p, uint32_t n)
{
    return as_status(esp_partition_read(partition, at, p, n));
}
static int32_t port_flash_program(void *, uint32_t at, const uint8_t *p, uint32_t n)
{
    return at % 4 != 0 || n % 4 != 0 ? (int32_t)QFL_E_INVAL
                                     : as_status(esp_partition_write(partition, at, p, n));
}
static int32_t port_flash_erase(void *, uint32_t at, uint32_t n)
{
    return as_status(esp_partition_erase_range(partition, at, n));
}

/* The generator is a true one while a radio is on. */
static int32_t port_entropy(void *, uint8_t *p, uint32_t n)
{
    esp_fill_random(p, n);
    return QFL_BLE ? (int32_t)n : 0;
}
static int32_t port_uid(void *, uint8_t *p, uint32_t n)
{
    uint64_t mac = ESP.getEfuseMac();
    uint32_t k = n < 6 ? n : 6;
    for (uint32_t i = 0; i < k; i++)
        p[i] = (uint8_t)(mac >> 8 * i);
    return (int32_t)k;
}
static uint32_t port_reset_cause(void *)
{
    switch (esp_reset_reason()) { /* the core reads and clears it when it starts */
    case ESP_RST_POWERON:
    case ESP_RST_BROWNOUT: return 0;
    case ESP_RST_EXT: return 1;
    case ESP_RST_SW: return 2;
    case ESP_RST_INT_WDT:
    case ESP_RST_TASK_WDT:
    case ESP_RST_WDT: return 3;
    default: return 4;
    }
}
/* A tick of FreeRTOS at a time, so that a byte ends it; the other tasks and the idle task run meanwhile. */
static void port_sleep(void *ctx, uint32_t ms)
{
    port_poll(ctx);
    for (uint32_t start = millis(); millis() - start < ms && !serial_or_ble.waits();)
        delay(1);
}
static void port_reboot(void *) { ESP.restart(); }
static uint8_t *port_arena(void *, uint32_t *size)
{
    *size = arena_n;
    return arena;
}

const qfl_port *qfl_board_open(int, char **)
{
    Serial.setRxBufferSize(RX); /* before begin, or it stays at 256 bytes */
    Serial.setTxBufferSize(TX);
    Serial.begin(QFL_LINK_BAUD);
#if ARDUINO_USB_CDC_ON_BOOT
    Serial.setTxTimeoutMs(1); /* 0 can hang */
#endif
    Serial1.setRxBufferSize(SAMPLES_RX);
    Serial1.begin(QFL_SAMPLE_BAUD);
    serial_or_ble.serial = &Serial;
    serial_or_ble.mtu = MTU;
#if QFL_BLE
    static char name[QFL_ARDUINO_NAME];
    uint8_t id[6];
    (void)port_uid(NULL, id, sizeof id);
    if (!open_ble(qfl_arduino_name(name, id + 3)))
        return NULL;
    serial_or_ble.ble = &ble;
#endif
    if (!open_flash() || !take_arena())
        return NULL;
    static const qfl_port port = {
        NULL,
        QFL_BOARD_NAME,
        QFL_BOARD_RAM,
        QFL_BOARD_FLASH,
        port_poll,
        port_ms,
        port_us,
        port_link_up,
        port_link_connections,
        port_link_mtu,
        port_link_write,
        port_link_read,
        port_link_lost,
        port_flash_info,
        port_flash_read,
        port_flash_program,
        port_flash_erase,
        port_entropy,
        port_uid,
        port_reset_cause,
        port_sleep,
        port_reboot,
        port_next_sample,
        port_sample_lost,
        port_arena,
        NULL,
    };
    return &port;
}
