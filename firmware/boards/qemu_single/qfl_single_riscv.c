/*
 * QEMU's RISC-V "virt" machine: NS16550A UART, PLIC, CLINT. The flash is a piece of memory at QFL_MEMORY, beyond what the firmware
 * has as RAM; a memory backend can make it survive the machine.
 */
#if defined(__riscv)
#include "qfl_single.h"

#include "../common/qfl_ram_flash.h"

#define REG(a)  (*(volatile uint32_t *)(uintptr_t)(a))
#define UART(o) (*(volatile uint8_t *)(uintptr_t)(0x10000000u + (o)))

enum {
    DATA = 0,
    INTERRUPTS = 1,
    FIFO = 2,
    LINE = 5,
    LINE_DATA = 1,
    LINE_SENT = 0x20,
    PLIC = 0x0C000000,
    IRQ_UART = 10,
    MTIME = 0x0200BFF8,
    MTIMECMP = 0x02004000,
    TICKS_PER_US = 10,
    FLASH = 1 << 20,
    TEST = 0x00100000,
    TEST_RESET = 0x7777,
    MIE_TIMER = 1 << 7,
    MIE_EXTERNAL = 1 << 11,
    MSTATUS_MIE = 8
};

void qfl_single_open(void)
{
    UART(FIFO) = 0x07;
    UART(INTERRUPTS) = 1;
    REG(PLIC + 4 * IRQ_UART) = 1;
    REG(PLIC + 0x2000u) = 1u << IRQ_UART;
    REG(PLIC + 0x200000u) = 0;
    __asm volatile("csrs mie, %0" ::"r"(MIE_EXTERNAL));
}

int qfl_single_receive(uint8_t *byte)
{
    if ((UART(LINE) & LINE_DATA) == 0)
        return 0;
    *byte = UART(DATA);
    return 1;
}

void qfl_single_receive_on(int on) { UART(INTERRUPTS) = on ? 1 : 0; }

int qfl_single_send(uint8_t byte)
{
    if ((UART(LINE) & LINE_SENT) == 0)
        return 0;
    UART(DATA) = byte;
    return 1;
}

void qfl_single_mask(int masked)
{
    if (masked)
        __asm volatile("csrc mstatus, %0" ::"r"(MSTATUS_MIE) : "memory");
    else
        __asm volatile("csrs mstatus, %0" ::"r"(MSTATUS_MIE) : "memory");
}

static uint64_t ticks(void)
{
    uint32_t high, low;
    do {
        high = REG(MTIME + 4);
        low = REG(MTIME);
    } while (REG(MTIME + 4) != high);
    return (uint64_t)high << 32 | low;
}

uint64_t qfl_single_us(void) { return ticks() / TICKS_PER_US; }

void qfl_single_wait(uint32_t ms)
{
    uint64_t until = ticks() + (uint64_t)ms * 1000u * TICKS_PER_US;
    REG(MTIMECMP + 4) = 0xFFFFFFFFu; /* never in between */
    REG(MTIMECMP) = (uint32_t)until;
    REG(MTIMECMP + 4) = (uint32_t)(until >> 32);
    __asm volatile("csrs mie, %0\n wfi\n csrc mie, %0" ::"r"(MIE_TIMER) : "memory");
}

static uint8_t *memory(void) { return (uint8_t *)(uintptr_t)QFL_MEMORY; }

int32_t qfl_single_flash_info(qfl_flash_info *out)
{
    qfl_ram_flash_info(memory(), FLASH, out);
    return 0;
}

int32_t qfl_single_flash_program(uint32_t at, const uint8_t *p, uint32_t n)
{
    return qfl_ram_flash_program(memory(), FLASH, at, p, n);
}

int32_t qfl_single_flash_erase(uint32_t at, uint32_t n)
{
    return qfl_ram_flash_erase(memory(), FLASH, at, n);
}

int32_t qfl_single_entropy(uint8_t *p, uint32_t n)
{
    uint32_t s = (uint32_t)ticks(); /* jitter of the clock: unpredictable in part, counted as none */
    for (uint32_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        p[i] = (uint8_t)(s >> 24);
    }
    return 0;
}

void qfl_single_reboot(void)
{
    REG(TEST) = TEST_RESET;
    for (;;)
        ;
}
#else
typedef int qfl_single_riscv_is_for_riscv;
#endif
