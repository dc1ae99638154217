// A quantfl port for any board of the Arduino framework: link over Serial, package in RAM.
//
// RAM forgets: after a reset the host sends the package again. A port to the part's flash keeps it; write
// flash_info, flash_program and flash_erase for it, and leave STORE out.
#include "port.h"

#include <Arduino.h>
#include <stdlib.h>
#include <string.h>

#include "sensor.h"

enum { ERASE = 4096, UNIT = 4, BAUD = 921600 };

alignas(16) static uint8_t ARENA[QFL_ARENA];
static uint8_t *STORE; // QFL_RAM_STORE bytes of the heap: parts whose static RAM is short have room there
static_assert(QFL_ARENA % 16 == 0 && QFL_RAM_STORE % ERASE == 0, "whole blocks of 16, whole erase units");

static void poll(void *) {}
static uint32_t ms(void *) { return millis(); }
static uint32_t us(void *) { return micros(); }

static int32_t link_up(void *, uint8_t link) { return link == 0 && Serial; }
static uint32_t link_connections(void *, uint8_t) { return 0; }
static uint32_t link_mtu(void *, uint8_t) { return 256; }

static int32_t link_write(void *, uint8_t link, const uint8_t *p, uint32_t n)
{
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    const int room = Serial.availableForWrite(); // never more: write() would wait
    return room <= 0 ? 0 : (int32_t)Serial.write(p, n < (uint32_t)room ? n : (size_t)room);
}

static int32_t link_read(void *, uint8_t link, uint8_t *p, uint32_t n)
{
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    const int there = Serial.available();
    const uint32_t take = there <= 0 ? 0 : n < (uint32_t)there ? n : (uint32_t)there;
    return take == 0 ? 0 : (int32_t)Serial.readBytes((char *)p, take);
}

static uint32_t none_lost(void *, uint8_t) { return 0; }

static int32_t flash_info(void *, qfl_flash_info *out)
{
    memset(out, 0, sizeof *out);
    out->size = QFL_RAM_STORE;
    out->erase_unit = ERASE;
    out->program_unit = UNIT;
    out->worst_erase_ms = 1;
    out->map = STORE;
    out->erased = 0xFF;
    out->write_once = 1;
    return 0;
}

static int32_t flash_read(void *, uint32_t at, uint8_t *p, uint32_t n)
{
    if (at > QFL_RAM_STORE || n > QFL_RAM_STORE - at)
        return QFL_E_INVAL;
    memcpy(p, STORE + at, n);
    return 0;
}

static int32_t flash_program(void *, uint32_t at, const uint8_t *p, uint32_t n)
{
    if (at % UNIT != 0 || n % UNIT != 0 || at > QFL_RAM_STORE || n > QFL_RAM_STORE - at)
        return QFL_E_INVAL;
    memcpy(STORE + at, p, n);
    return 0;
}

static int32_t flash_erase(void *, uint32_t at, uint32_t n)
{
    if (at % ERASE != 0 || n % ERASE != 0 || at > QFL_RAM_STORE || n > QFL_RAM_STORE - at)
        return QFL_E_INVAL;
    memset(STORE + at, 0xFF, n);
    return 0;
}

// Arduino's random() is not random enough for keys: say so, and none are made of it.
static int32_t entropy(void *, uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        p[i] = (uint8_t)random(256);
    return 0;
}

// The part's unique id. Two boards must not have the same: add your part where it is missing.
static int32_t uid(void *, uint8_t *p, uint32_t n)
{
#if defined(ARDUINO_ARCH_ESP32)
    const uint64_t id = ESP.getEfuseMac();
#elif defined(NRF_FICR)
    const uint64_t id = (uint64_t)NRF_FICR->DEVICEID[1] << 32 | NRF_FICR->DEVICEID[0];
#elif defined(ARDUINO_ARCH_STM32)
    const uint32_t id[3] = {HAL_GetUIDw0(), HAL_GetUIDw1(), HAL_GetUIDw2()};
#else
    const char id[] = "@NAME@"; // one id for all boards of this project
#endif
    const uint32_t take = n < sizeof id ? n : (uint32_t)sizeof id;
    memcpy(p, &id, take);
    return (int32_t)take;
}

static uint32_t reset_cause(void *) { return 4; }
static void idle(void *, uint32_t ms) { delay(ms != 0 && Serial.available() == 0 ? 1 : 0); }
static void reboot(void *) {}

static int32_t next_sample(void *, int8_t *x, uint32_t n, uint16_t *label) { return read_sensor(x, n, label); }
static uint32_t samples_lost(void *) { return 0; }

static uint8_t *arena(void *, uint32_t *size)
{
    *size = sizeof ARENA;
    return ARENA;
}

const qfl_port *board_port()
{
    static qfl_port p;
    Serial.begin(BAUD);
    uint8_t *block = (uint8_t *)malloc(QFL_RAM_STORE + 16u);
    if (block == nullptr)
        return nullptr;
    STORE = block + (16u - (uintptr_t)block % 16u) % 16u;
    memset(STORE, 0xFF, QFL_RAM_STORE);
    p.board = QFL_BOARD_NAME;
    p.ram_bytes = sizeof ARENA + QFL_RAM_STORE;
    p.flash_bytes = QFL_RAM_STORE;
    p.poll = poll;
    p.ms = ms;
    p.us = us;
    p.link_up = link_up;
    p.link_connections = link_connections;
    p.link_mtu = link_mtu;
    p.link_write = link_write;
    p.link_read = link_read;
    p.link_lost = none_lost;
    p.flash_info = flash_info;
    p.flash_read = flash_read;
    p.flash_program = flash_program;
    p.flash_erase = flash_erase;
    p.entropy = entropy;
    p.uid = uid;
    p.reset_cause = reset_cause;
    p.sleep = idle;
    p.reboot = reboot;
    p.next_sample = next_sample;
    p.sample_lost = samples_lost;
    p.arena = arena;
    return &p;
}
