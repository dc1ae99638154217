/*
 * The flash driver of firmware/boards/stm32 on a model of the STM32L4's controller: lock and keys, units of
 * 8 bytes written once, pages erased in the bank that is named, no data cache meanwhile. Compares with a shadow.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_stm32_flash.h"
#include "qfl_stm32_reg.h"

enum { REGS = 0x40022000, SIZE = 1 << 20, AT = 0x08000000, STORE = 512 * 1024, PAGE = 2048, ERRORS = 0xC3FA };
enum { BSY = 1 << 16, ERASE_MS = 22 };
static uint8_t mem[SIZE], shadow[STORE];
static uint32_t acr = 0x704, sr, cr = 0x80000000u, keys, half, half_at, erases, units, erasing, waits;

static void misuse(const char *what)
{
    fprintf(stderr, "flash misused: %s\n", what);
    exit(1);
}

uint32_t qfl_reg_get(uint32_t at)
{
    uint32_t v;
    switch (at - REGS) {
    case 0x00: return acr;
    case 0x10: return sr | (waits != 0 ? BSY : 0);
    case 0x14: return cr;
    }
    if (waits != 0)
        misuse("a read while a page is being erased");
    if (at < AT || at - AT > SIZE - 4 || at % 4 != 0)
        misuse("a read elsewhere");
    memcpy(&v, mem + (at - AT), 4);
    return v;
}

static void store(uint32_t at, uint32_t value)
{
    static const uint8_t blank[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    if ((acr & 1u << 10) != 0)
        misuse("programmed with the data cache on");
    if ((cr & 1) == 0 || (cr & 0x80000000u) != 0) {
        sr |= 1u << 7; /* PGSERR */
    } else if (at % 8 == 0) {
        half = value;
        half_at = at;
    } else if (half_at != at - 4) {
        sr |= 1u << 5; /* PGAERR */
    } else if (memcmp(mem + (half_at - AT), blank, 8) != 0) {
        sr |= 1u << 3; /* PROGERR */
    } else {
        memcpy(mem + (half_at - AT), &half, 4);
        memcpy(mem + (at - AT), &value, 4);
        units++;
    }
}

static void control(uint32_t value)
{
    if ((cr & 0x80000000u) != 0 || waits != 0)
        misuse("the control register is written while it is locked, or a page is being erased");
    cr = value & ~(1u << 16);
    if ((value & 1u << 16) == 0)
        return;
    if ((value & 2) == 0 || (value & 1) != 0 || (acr & 1u << 10) != 0)
        misuse("a start that erases no page");
    erasing = (value >> 3 & 255) + ((value & 1u << 11) != 0 ? 256 : 0);
    waits = ERASE_MS;
    erases++;
}

/* An interrupt a millisecond. */
void qfl_cpu_wait(void)
{
    if (waits != 0 && --waits == 0)
        memset(mem + erasing * PAGE, 0xFF, PAGE);
}

void qfl_reg_set(uint32_t at, uint32_t value)
{
    switch (at - REGS) {
    case 0x00: acr = value; return;
    case 0x08:
        keys = value == 0x45670123u ? 1 : keys == 1 && value == 0xCDEF89ABu ? 2 : 3;
        if (keys == 3)
            misuse("a wrong key");
        if (keys == 2)
            cr &= 0x7FFFFFFFu;
        return;
    case 0x10: sr &= ~value; return;
    case 0x14: control(value); return;
    }
    if (at < AT + STORE || at - AT > SIZE - 4 || at % 4 != 0)
        misuse("a write outside the second bank");
    store(at, value);
}

#define MUST(x)                                                                                              \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            misuse(#x);                                                                                      \
    } while (0)

int main(void)
{
    uint8_t data[2048], back[2048], first[8];
    uint32_t rng = 5, refused = 0;
    memset(mem, 0xFF, sizeof mem);
    memset(mem, 0x11, STORE); /* the firmware's bank, which must stay */
    memset(shadow, 0xFF, sizeof shadow);
    for (int i = 0; i < 20000; i++) {
        rng = rng * 1664525u + 1013904223u;
        uint32_t at = (rng >> 12) % (STORE / 8) * 8, n = 8 + (rng >> 5) % 64 * 8;
        if (i % 10 == 0) {
            at -= at % PAGE;
            MUST(qfl_stm32_flash_erase(at, PAGE) == 0);
            memset(shadow + at, 0xFF, PAGE);
            continue;
        }
        if (n > STORE - at)
            continue;
        int used = 0;
        for (uint32_t k = 0; k < n; k++) {
            data[k] = (uint8_t)(rng >> (k % 24)) & 0x7F;
            used |= shadow[at + k] != 0xFF;
        }
        int32_t status = qfl_stm32_flash_program(at, data, n);
        MUST((status < 0) == (used != 0));
        refused += used != 0;
        for (uint32_t k = 0; k < n && memcmp(shadow + at + k, "\377\377\377\377\377\377\377\377", 8) == 0;
             k += 8)
            memcpy(shadow + at + k, data + k, 8); /* up to the first unit that was used */
        MUST(qfl_stm32_flash_read(at, back, n) == 0 && memcmp(back, shadow + at, n) == 0);
    }
    MUST(memcmp(mem + STORE, shadow, STORE) == 0);
    for (uint32_t k = 0; k < STORE; k++)
        MUST(mem[k] == 0x11);
    MUST((cr & 0x80000000u) != 0 && (acr & 1u << 10) != 0 && (acr & 1u << 12) == 0);
    MUST(qfl_stm32_flash_program(4, data, 8) == QFL_E_INVAL && qfl_stm32_flash_program(0, data, 12) < 0);
    MUST(qfl_stm32_flash_program(STORE, data, 8) < 0 && qfl_stm32_flash_erase(1024, PAGE) == QFL_E_INVAL);
    MUST(qfl_stm32_flash_erase(STORE - PAGE, 2 * PAGE) < 0 && qfl_stm32_flash_read(STORE - 4, first, 8) < 0);
    printf("{\"erases\": %u, \"units\": %u, \"refused\": %u}\n", erases, units, refused);
    return 0;
}
