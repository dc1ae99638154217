/*
 * nRF52840 on Adafruit's Arduino core 1.7 (Feather nRF52840): USB serial, BLE by Bluefruit, the store in the part's own
 * flash below the core's file system, written through the SoftDevice. Samples come as records (qfl_sample_record.h) on
 * Serial1.
 */
#include <Adafruit_TinyUSB.h>
#include <Arduino.h>
#include <bluefruit.h>
#include <nrf_soc.h>
#include <string.h>

#include "../arduino/qfl_arduino.h"
#include "../arduino/qfl_tinyusb.h"
#include "../common/qfl_board.h"

#ifndef QFL_SAMPLE_BAUD
#define QFL_SAMPLE_BAUD 115200
#endif
/* 384 KB below the core's file system, which begins at 0xED000; board_upload.maximum_size keeps the firmware below. */
#ifndef QFL_STORE_AT
#define QFL_STORE_AT 0x8D000u
#endif
#ifndef QFL_STORE_BYTES
#define QFL_STORE_BYTES (384u * 1024u)
#endif
#ifndef QFL_STORE_LOG
#define QFL_STORE_LOG (48u * 1024u)
#endif
#ifndef QFL_ARENA_BYTES
#define QFL_ARENA_BYTES (160u * 1024u)
#endif

enum { MTU = 256, BLE_RX = 8192, PAGE = 4096, CHUNK = 256, TRIES = 40, OPERATION_MS = 250 };

static qfl_tinyusb usb; /* not Serial: it sends nothing while the host holds DTR low, as quantfl does */
static qfl_arduino_link<qfl_tinyusb> serial_or_ble;
#include "../arduino/qfl_arduino_functions.h"

alignas(16) static uint8_t arena[QFL_ARENA_BYTES];
static uint32_t reset_flags;

/* -- BLE -- */

static const uint8_t service_uuid[16] = {0x9E, 0xCA, 0xDC, 0x24, 0x0E, 0xE5, 0xA9, 0xE0,
                                         0x93, 0xF3, 0xA3, 0xB5, 0x01, 0x00, 0x40, 0x6E};
static const uint8_t rx_uuid[16] = {0x9E, 0xCA, 0xDC, 0x24, 0x0E, 0xE5, 0xA9, 0xE0,
                                    0x93, 0xF3, 0xA3, 0xB5, 0x02, 0x00, 0x40, 0x6E};
static const uint8_t tx_uuid[16] = {0x9E, 0xCA, 0xDC, 0x24, 0x0E, 0xE5, 0xA9, 0xE0,
                                    0x93, 0xF3, 0xA3, 0xB5, 0x03, 0x00, 0x40, 0x6E};
static BLEService service(service_uuid);
static BLECharacteristic from_host(rx_uuid), to_host(tx_uuid);
static qfl_ble_link ble;
static uint8_t ble_rx[BLE_RX], ble_tx[2 * QFL_BLE_VALUE_MAX];
static volatile uint16_t central = BLE_CONN_HANDLE_INVALID;

/* notify() waits up to 100 ms for room in the stack's queue, and is false when there is none. */
static int32_t ble_send(void *, const uint8_t *p, uint32_t n)
{
    uint16_t connection = central;
    if (connection == BLE_CONN_HANDLE_INVALID || !to_host.notifyEnabled(connection))
        return QFL_E_STATE;
    return to_host.notify(connection, p, (uint16_t)n) ? (int32_t)n : 0;
}

/* From Bluefruit's task. */
static void on_connect(uint16_t connection)
{
    BLEConnection *c = Bluefruit.Connection(connection);
    qfl_ble_link_on_connect(&ble, QFL_BLE_VALUE_FIRST + QFL_BLE_ATT_HEADER);
    central = connection;
    if (c != NULL) {
        c->requestPHY();
        c->requestDataLengthUpdate();
        c->requestMtuExchange(QFL_BLE_ATT_MTU);
    }
}
static void on_disconnect(uint16_t, uint8_t)
{
    central = BLE_CONN_HANDLE_INVALID;
    qfl_ble_link_on_disconnect(&ble);
}
static void on_value(uint16_t, BLECharacteristic *, uint8_t *p, uint16_t n)
{
    qfl_ble_link_on_receive(&ble, p, n);
}

static bool open_ble(const char *name)
{
    if (qfl_ble_link_init(&ble, ble_send, NULL, ble_rx, sizeof ble_rx, ble_tx, sizeof ble_tx) != 0)
        return false;
    Bluefruit.configPrphBandwidth(BANDWIDTH_MAX); /* before begin, or the MTU stays at 23 */
    if (!Bluefruit.begin(1, 0))
        return false;
    Bluefruit.setName(name);
    Bluefruit.Periph.setConnectCallback(on_connect);
    Bluefruit.Periph.setDisconnectCallback(on_disconnect);
    if (service.begin() != 0)
        return false;
    to_host.setProperties(CHR_PROPS_NOTIFY);
    to_host.setPermission(SECMODE_OPEN, SECMODE_NO_ACCESS);
    to_host.setMaxLen(QFL_BLE_VALUE_MAX);
    from_host.setProperties(CHR_PROPS_WRITE | CHR_PROPS_WRITE_WO_RESP);
    from_host.setPermission(SECMODE_NO_ACCESS, SECMODE_OPEN);
    from_host.setMaxLen(QFL_BLE_VALUE_MAX);
    from_host.setWriteCallback(on_value,
                               false); /* in the stack's task: values stay in order and none is copied */
    if (to_host.begin() != 0 || from_host.begin() != 0)
        return false;
    Bluefruit.Advertising.addFlags(BLE_GAP_ADV_FLAGS_LE_ONLY_GENERAL_DISC_MODE);
    Bluefruit.Advertising.addService(service);
    Bluefruit.ScanResponse.addName();
    Bluefruit.Advertising.restartOnDisconnect(true);
    return Bluefruit.Advertising.start(0);
}

/* -- flash: the SoftDevice does one operation at a time, later, and may fail it near a radio event -- */

static const uint8_t *cells() { return (const uint8_t *)(uintptr_t)QFL_STORE_AT; }

static bool outside(uint32_t at, uint32_t n, uint32_t unit)
{
    return at % unit != 0 || n % unit != 0 || at > QFL_STORE_BYTES || n > QFL_STORE_BYTES - at;
}

static bool holds(uint32_t at, const uint8_t *p, uint32_t n) /* p NULL: erased bytes */
{
    for (uint32_t i = 0; i < n; i++)
        if (((const volatile uint8_t *)cells())[at + i] != (p != NULL ? p[i] : 0xFF))
            return false;
    return true;
}

/* One operation until the memory shows it. source NULL: the page is erased. */
static int32_t until_done(uint32_t at, const uint32_t *source, uint32_t n)
{
    for (int i = 0; i < TRIES; i++) {
        uint32_t error = source != NULL
                             ? sd_flash_write((uint32_t *)(uintptr_t)(QFL_STORE_AT + at), source, n / 4)
                             : sd_flash_page_erase((QFL_STORE_AT + at) / PAGE);
        uint32_t start = millis();
        if (error == NRF_ERROR_BUSY) { /* the last operation, or one of the core's file system */
            delay(10);
            continue;
        }
        if (error != NRF_SUCCESS)
            return QFL_E_IO;
        while (millis() - start < OPERATION_MS) {
            if (holds(at, (const uint8_t *)source, n))
                return 0;
            delay(1);
        }
    }
    return QFL_E_IO;
}

static int32_t port_flash_program(void *, uint32_t at, const uint8_t *p, uint32_t n)
{
    static uint32_t words[CHUNK / 4]; /* aligned, and there until the operation is done */
    if (outside(at, n, 4))
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i += CHUNK) {
        uint32_t k = n - i < CHUNK ? n - i : (uint32_t)CHUNK;
        memcpy(words, p + i, k);
        if (holds(at + i, p + i, k))
            continue;
        if (until_done(at + i, words, k) < 0)
            return QFL_E_IO;
    }
    return 0;
}
static int32_t port_flash_erase(void *, uint32_t at, uint32_t n)
{
    if (outside(at, n, PAGE))
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i += PAGE)
        if (!holds(at + i, NULL, PAGE) && until_done(at + i, NULL, PAGE) < 0)
            return QFL_E_IO;
    return 0;
}
static int32_t port_flash_read(void *, uint32_t at, uint8_t *p, uint32_t n)
{
    if (outside(at, n, 1))
        return QFL_E_INVAL;
    memcpy(p, cells() + at, n);
    return 0;
}
static int32_t port_flash_info(void *, qfl_flash_info *out)
{
    memset(out, 0, sizeof *out);
    out->size = QFL_STORE_BYTES;
    out->erase_unit = PAGE;
    out->program_unit = 4;
    out->worst_erase_ms = 90; /* nRF52840 product specification, NVMC: 89.7 ms */
    out->map = cells();
    out->erased = 0xFF;
    out->write_once = 1;
    out->log_size = QFL_STORE_LOG;
    return 0;
}

/* -- the rest -- */

static void port_poll(void *)
{
    uint16_t connection = central;
    BLEConnection *c = connection != BLE_CONN_HANDLE_INVALID ? Bluefruit.Connection(connection) : NULL;
    if (c != NULL && qfl_ble_link_up(&ble) != 0)
        qfl_ble_link_on_mtu(&ble, c->getMtu()); /* Bluefruit has no callback for it */
    (void)qfl_ble_link_flush(&ble);
    (void)tud_cdc_write_flush();
}
/* The SoftDevice's pool fills slowly; what it does not give counts as not random. */
static int32_t port_entropy(void *, uint8_t *p, uint32_t n)
{
    uint32_t have = 0;
    for (int i = 0; i < 200 && have < n; i++) {
        uint8_t ready = 0;
        (void)sd_rand_application_bytes_available_get(&ready);
        uint32_t k = n - have < ready ? n - have : ready;
        if (k != 0 && sd_rand_application_vector_get(p + have, (uint8_t)k) == NRF_SUCCESS)
            have += k;
        else
            delay(1);
    }
    for (uint32_t i = have; i < n; i++)
        p[i] = (uint8_t)micros();
    return (int32_t)have;
}
static int32_t port_uid(void *, uint8_t *p, uint32_t n)
{
    uint32_t k = n < 8 ? n : 8;
    for (uint32_t i = 0; i < k; i++)
        p[i] = (uint8_t)(NRF_FICR->DEVICEID[i / 4] >> 8 * (i % 4));
    return (int32_t)k;
}
/* RESETREAS: pin, watchdog, software; 0 after power came. */
static uint32_t port_reset_cause(void *)
{
    return (reset_flags & 2) != 0   ? 3
           : (reset_flags & 4) != 0 ? 2
           : (reset_flags & 1) != 0 ? 1
           : reset_flags != 0       ? 4
                                    : 0;
}
static void port_sleep(void *ctx, uint32_t ms)
{
    port_poll(ctx);
    for (uint32_t start = millis(); millis() - start < ms && !serial_or_ble.waits();)
        delay(1);
}
static void port_reboot(void *) { NVIC_SystemReset(); }
static uint8_t *port_arena(void *, uint32_t *size)
{
    *size = sizeof arena;
    return arena;
}

const qfl_port *qfl_board_open(int, char **)
{
    static char name[QFL_ARDUINO_NAME];
    uint8_t id[8];
    reset_flags = readResetReason(); /* the core has read and cleared it */
    Serial.begin(115200);            /* USB: the number means nothing */
    Serial1.begin(QFL_SAMPLE_BAUD);
    serial_or_ble.serial = &usb;
    serial_or_ble.ble = &ble;
    serial_or_ble.mtu = MTU;
    (void)port_uid(NULL, id, sizeof id);
    if (!open_ble(qfl_arduino_name(name, id + 5)))
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
