/*
 * RP2040 on Earle Philhower's Arduino core (Pico, Pico W): USB serial, the store in the part of the flash that the core
 * sets aside for a file system (board_build.filesystem_size), the arena from the heap. Samples come as records
 * (qfl_sample_record.h) on Serial1. No BLE.
 */
#include <Arduino.h>
#include <hardware/flash.h>
#include <hardware/sync.h>
#include <malloc.h>
#include <pico/unique_id.h>
#include <string.h>

#include "../arduino/qfl_arduino.h"
#include "../common/qfl_board.h"

#ifndef QFL_SAMPLE_BAUD
#define QFL_SAMPLE_BAUD 460800
#endif
/* Bytes of heap that are left to the core. */
#ifndef QFL_HEAP_LEFT
#define QFL_HEAP_LEFT (24u * 1024u)
#endif
#ifndef QFL_STORE_LOG
#define QFL_STORE_LOG (128u * 1024u)
#endif
#ifndef QFL_STORE_BEGIN
extern "C" uint8_t _FS_start, _FS_end; /* of the core's linker script */
#define QFL_STORE_BEGIN ((uintptr_t)&_FS_start)
#define QFL_STORE_END   ((uintptr_t)&_FS_end)
#endif

enum { MTU = 256, SAMPLES_RX = 4096 };

static qfl_arduino_link<decltype(Serial)> serial_or_ble;
#include "../arduino/qfl_arduino_functions.h"

static uint8_t *arena;
static uint32_t arena_n;

static uint32_t store_bytes() { return (uint32_t)(QFL_STORE_END - QFL_STORE_BEGIN); }
static const uint8_t *cells() { return (const uint8_t *)QFL_STORE_BEGIN; }
static uint32_t from_flash_start(uint32_t at) { return (uint32_t)(QFL_STORE_BEGIN - XIP_BASE) + at; }

static bool outside(uint32_t at, uint32_t n, uint32_t unit)
{
    return at % unit != 0 || n % unit != 0 || at > store_bytes() || n > store_bytes() - at;
}

/* Nobody may run from flash meanwhile: neither an interrupt nor the other core. */
static uint32_t quiet()
{
    rp2040.idleOtherCore();
    return save_and_disable_interrupts();
}
static void loud(uint32_t state)
{
    restore_interrupts(state);
    rp2040.resumeOtherCore();
}

static int32_t port_flash_info(void *, qfl_flash_info *out)
{
    memset(out, 0, sizeof *out);
    out->size = store_bytes();
    out->erase_unit = FLASH_SECTOR_SIZE;
    out->program_unit = FLASH_PAGE_SIZE;
    out->worst_erase_ms = 400; /* W25Q16JV: sector erase, at most */
    out->map = cells();
    out->erased = 0xFF;
    out->write_once = 1;
    out->log_size = QFL_STORE_LOG;
    return 0;
}
static int32_t port_flash_read(void *, uint32_t at, uint8_t *p, uint32_t n)
{
    if (outside(at, n, 1))
        return QFL_E_INVAL;
    memcpy(p, cells() + at, n);
    return 0;
}
static int32_t port_flash_program(void *, uint32_t at, const uint8_t *p, uint32_t n)
{
    static uint8_t page[FLASH_PAGE_SIZE]; /* the source may be in flash itself */
    if (outside(at, n, FLASH_PAGE_SIZE))
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i += FLASH_PAGE_SIZE) {
        memcpy(page, p + i, sizeof page);
        uint32_t state = quiet();
        flash_range_program(from_flash_start(at + i), page, sizeof page);
        loud(state);
    }
    return 0;
}
/* One sector at a time, so that USB is served in between. */
static int32_t port_flash_erase(void *, uint32_t at, uint32_t n)
{
    if (outside(at, n, FLASH_SECTOR_SIZE))
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i += FLASH_SECTOR_SIZE) {
        uint32_t state = quiet();
        flash_range_erase(from_flash_start(at + i), FLASH_SECTOR_SIZE);
        loud(state);
    }
    return 0;
}

/* From ring oscillators, whose entropy nobody guarantees: none of it counts as random. */
static int32_t port_entropy(void *, uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 4) {
        uint32_t word = rp2040.hwrand32();
        memcpy(p + i, &word, n - i < 4 ? n - i : 4);
    }
    return 0;
}
static int32_t port_uid(void *, uint8_t *p, uint32_t n)
{
    pico_unique_board_id_t id;
    pico_get_unique_board_id(&id);
    uint32_t k = n < sizeof id.id ? n : (uint32_t)sizeof id.id;
    memcpy(p, id.id, k);
    return (int32_t)k;
}
static uint32_t port_reset_cause(void *)
{
    switch (rp2040.getResetReason()) {
    case RP2040::PWRON_RESET:
    case RP2040::BROWNOUT_RESET: return 0;
    case RP2040::RUN_PIN_RESET: return 1;
    case RP2040::SOFT_RESET: return 2;
    case RP2040::WDT_RESET: return 3;
    default: return 4;
    }
}
static void port_poll(void *) {}
static void port_sleep(void *, uint32_t ms)
{
    for (uint32_t start = millis(); millis() - start < ms && !serial_or_ble.waits();)
        delay(1);
}
static void port_reboot(void *) { rp2040.reboot(); }
static uint8_t *port_arena(void *, uint32_t *size)
{
    *size = arena_n;
    return arena;
}

/* The largest block that leaves QFL_HEAP_LEFT bytes. */
static bool take_arena()
{
    int all = rp2040.getFreeHeap();
    for (int take = all - (int)QFL_HEAP_LEFT; take > 16384; take -= 1024) {
        arena_n = (uint32_t)take & ~15u;
        arena = (uint8_t *)memalign(16, arena_n);
        if (arena != NULL)
            return true;
    }
    return false;
}

const qfl_port *qfl_board_open(int, char **)
{
    Serial.ignoreFlowControl(true); /* or nothing is sent while the host holds DTR low, as quantfl does */
    Serial.begin(115200);           /* USB: the number means nothing */
    Serial1.setFIFOSize(SAMPLES_RX); /* before begin, or it stays at 32 bytes */
    Serial1.begin(QFL_SAMPLE_BAUD);
    serial_or_ble.serial = &Serial;
    serial_or_ble.mtu = MTU;
    if (!take_arena())
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
