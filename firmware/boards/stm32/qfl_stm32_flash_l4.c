/*
 * Flash of the STM32L47x (RM0351, chapter "Embedded Flash memory (FLASH)"). The store is the second bank:
 * the firmware runs from the first one, so the processor and its interrupts go on while the second bank is
 * erased or programmed.
 */
#include <string.h>

#include "qfl_stm32_flash.h"
#include "qfl_stm32_reg.h"

/*
 * Where the store is: build options, because a user's own firmware may need a part of the bank. Both are
 * multiples of 2 KB.
 */
#ifndef QFL_STORE_AT
#define QFL_STORE_AT 0x08080000u
#endif
#ifndef QFL_STORE_BYTES
#define QFL_STORE_BYTES (512u * 1024u)
#endif

#define FLASH_AT 0x08000000u
#define REGS     0x40022000u

enum {
    ACR = 0x00, /* FLASH_ACR */
    ACR_DCEN = 1 << 10,
    ACR_DCRST = 1 << 12,
    KEYR = 0x08,
    SR = 0x10, /* FLASH_SR; errors and EOP are cleared by writing 1 */
    SR_BSY = 1 << 16,
    SR_ERRORS = 0xC3FA,
    SR_CLEAR = 0xC3FB,
    CR = 0x14, /* FLASH_CR */
    CR_PG = 1 << 0,
    CR_PER = 1 << 1,
    CR_PNB_AT = 3,
    CR_BKER = 1 << 11,
    CR_START = 1 << 16,
    PAGE = 2048,
    PAGES_A_BANK = 256,
    UNIT = 8,
    CHUNK = 256,
    PROGRAM_TRIES = 100000, /* a unit takes 82 us, some 1,000 reads of SR */
    ERASE_TRIES = 10000 /* sleeps of 1 ms at most; a full line at 921,600 baud ends each after 11 us: 0.1 s */
};
#define CR_LOCK 0x80000000u

#if defined(__clang__)
#define QFL_FLASH_LEAF __attribute__((noinline))
#else
#define QFL_FLASH_LEAF __attribute__((noinline, noclone))
#endif
QFL_FLASH_LEAF uint32_t qfl_flash_get(uint32_t at);
QFL_FLASH_LEAF void qfl_flash_set(uint32_t at, uint32_t value);
QFL_FLASH_LEAF uint32_t qfl_flash_put(uint32_t to, const uint8_t *p, uint32_t n);

void qfl_stm32_flash_info(qfl_flash_info *out)
{
    memset(out, 0, sizeof *out);
    out->size = QFL_STORE_BYTES;
    out->erase_unit = PAGE;
    out->program_unit = UNIT;
    out->worst_erase_ms =
        25; /* data sheet DS10198, "Flash memory characteristics": page erase, at most 24.47 ms */
    out->map = (const uint8_t *)(uintptr_t)QFL_STORE_AT;
    out->erased = 0xFF;
    out->write_once = 1;
    out->log_size = 64u * 1024u;
}

static int outside(uint32_t at, uint32_t n, uint32_t unit)
{
    return at % unit != 0 || n % unit != 0 || at > QFL_STORE_BYTES || n > QFL_STORE_BYTES - at;
}

int32_t qfl_stm32_flash_read(uint32_t at, uint8_t *p, uint32_t n)
{
    if (outside(at, n, 1))
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from = QFL_STORE_AT + at + i;
        p[i] = (uint8_t)(qfl_reg_get(from & ~3u) >> 8 * (from & 3u));
    }
    return 0;
}

/*
 * Three leaves that the compiler neither inlines nor copies: a model of the controller can stop the processor
 * there, once a register and once a chunk (host/quantfl/emulation/flash_l4.py).
 */
QFL_FLASH_LEAF uint32_t qfl_flash_get(uint32_t at) { return qfl_reg_get(REGS + at); }

QFL_FLASH_LEAF void qfl_flash_set(uint32_t at, uint32_t value) { qfl_reg_set(REGS + at, value); }

/* Programs n bytes, whole units. The last SR_BSY or SR_ERRORS that it saw, 0: all is programmed. */
QFL_FLASH_LEAF uint32_t qfl_flash_put(uint32_t to, const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += UNIT) {
        uint32_t word[2], state, tries = 0;
        memcpy(word, p + i, UNIT);
        qfl_reg_set(to + i, word[0]);
        qfl_reg_set(to + i + 4, word[1]);
        do
            state = qfl_reg_get(REGS + SR) & (SR_BSY | SR_ERRORS);
        while ((state & SR_BSY) != 0 && ++tries < PROGRAM_TRIES);
        if (state != 0)
            return state;
    }
    return 0;
}

/* An erase takes 22 ms: the processor sleeps between two looks. */
static int32_t finish_erase(void)
{
    for (uint32_t i = 0; i < ERASE_TRIES; i++) {
        uint32_t state = qfl_flash_get(SR);
        if ((state & SR_BSY) == 0)
            return (state & SR_ERRORS) != 0 ? QFL_E_IO : 0;
        qfl_cpu_wait();
    }
    return QFL_E_IO;
}

static void change(uint32_t at, uint32_t mask, uint32_t value)
{
    qfl_flash_set(at, (qfl_flash_get(at) & ~mask) | value);
}

/*
 * The data cache is off while the flash changes, and empty afterwards: it would answer with old bytes, and
 * may be corrupted by reading one bank while the other is written (errata sheet ES0250, data cache and
 * read-while-write).
 */
static void begin(void)
{
    change(ACR, ACR_DCEN, 0);
    if ((qfl_flash_get(CR) & CR_LOCK) != 0) {
        qfl_flash_set(KEYR, 0x45670123u);
        qfl_flash_set(KEYR, 0xCDEF89ABu);
    }
    qfl_flash_set(SR, SR_CLEAR);
}

static int32_t end(int32_t status)
{
    qfl_flash_set(CR, CR_LOCK);
    change(ACR, ACR_DCRST, ACR_DCRST);
    change(ACR, ACR_DCRST, 0);
    change(ACR, ACR_DCEN, ACR_DCEN);
    return status;
}

int32_t qfl_stm32_flash_program(uint32_t at, const uint8_t *p, uint32_t n)
{
    int32_t status = 0;
    if (outside(at, n, UNIT))
        return QFL_E_INVAL;
    begin();
    qfl_flash_set(CR, CR_PG);
    for (uint32_t i = 0; i < n && status == 0; i += CHUNK)
        if (qfl_flash_put(QFL_STORE_AT + at + i, p + i, n - i < CHUNK ? n - i : CHUNK) != 0)
            status = QFL_E_IO;
    return end(status);
}

int32_t qfl_stm32_flash_erase(uint32_t at, uint32_t n)
{
    int32_t status = 0;
    if (outside(at, n, PAGE))
        return QFL_E_INVAL;
    begin();
    for (uint32_t i = 0; i < n && status == 0; i += PAGE) {
        uint32_t page = (QFL_STORE_AT - FLASH_AT + at + i) / PAGE;
        uint32_t bank = page >= PAGES_A_BANK ? CR_BKER : 0, number = page % PAGES_A_BANK;
        uint32_t value = CR_PER | bank | number << CR_PNB_AT;
        qfl_flash_set(CR, value);
        qfl_flash_set(CR, value | CR_START);
        status = finish_erase();
    }
    return end(status);
}
