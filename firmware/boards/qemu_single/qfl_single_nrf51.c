/*
 * QEMU's micro:bit: nRF51822, Cortex-M0, 16 KiB of RAM. Registers: nRF51 Series Reference Manual 3.0. The upper half of the
 * flash is quantfl's, written through the non-volatile memory controller; it survives a reset.
 */
#if defined(__ARM_ARCH_6M__)
#include "qfl_bytes.h"
#include "qfl_single.h"

#include "../common/qfl_systick.h"

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))

enum {
    UART = 0x40002000,
    RNG = 0x4000D000,
    NVMC = 0x4001E000,
    STARTRX = 0x000,
    STARTTX = 0x008,
    RXDRDY = 0x108,
    TXDRDY = 0x11C,
    INTENSET = 0x304,
    INTENCLR = 0x308,
    ENABLE = 0x500,
    RXD = 0x518,
    TXD = 0x51C,
    BAUDRATE = 0x524,
    BAUD_1M = 0x10000000,
    INT_RX = 1 << 2,
    NVMC_READY = 0x400,
    NVMC_CONFIG = 0x504,
    NVMC_ERASEPAGE = 0x508,
    READ_ONLY = 0,
    WRITE = 1,
    ERASE = 2,
    FLASH_AT = 0x20000,
    FLASH = 0x20000,
    PAGE = 1024,
    WORD = 4,
    CLOCKS_PER_US = 16,
    IRQ_UART = 2
};

static uint8_t sending;

void qfl_single_open(void)
{
    REG(UART + ENABLE) = 4;
    REG(UART + BAUDRATE) = BAUD_1M;
    REG(UART + INTENSET) = INT_RX;
    REG(UART + STARTTX) = 1;
    REG(UART + STARTRX) = 1;
    REG(0xE000E100u) = 1u << IRQ_UART;
    qfl_systick_start();
}

int qfl_single_receive(uint8_t *byte)
{
    if (REG(UART + RXDRDY) == 0)
        return 0;
    REG(UART + RXDRDY) = 0;
    *byte = (uint8_t)REG(UART + RXD);
    return 1;
}

void qfl_single_receive_on(int on) { REG(UART + (on ? INTENSET : INTENCLR)) = INT_RX; }

int qfl_single_send(uint8_t byte)
{
    if (sending && REG(UART + TXDRDY) == 0)
        return 0;
    REG(UART + TXDRDY) = 0;
    REG(UART + TXD) = byte;
    sending = 1;
    return 1;
}

void qfl_single_mask(int masked)
{
    if (masked)
        __asm volatile("cpsid i" ::: "memory");
    else
        __asm volatile("cpsie i" ::: "memory");
}

uint64_t qfl_single_us(void) { return qfl_systick_now() / CLOCKS_PER_US; }
void qfl_single_wait(uint32_t ms) { qfl_systick_wait(ms * 1000u * CLOCKS_PER_US); }

int32_t qfl_single_flash_info(qfl_flash_info *out)
{
    qfl_flash_info info = {FLASH, PAGE, WORD, 22, (const uint8_t *)FLASH_AT, 0xFF, 0, 16 * PAGE};
    *out = info;
    return 0;
}

static void nvmc(uint32_t mode)
{
    REG(NVMC + NVMC_CONFIG) = mode;
    while (REG(NVMC + NVMC_READY) == 0)
        ;
}

int32_t qfl_single_flash_program(uint32_t at, const uint8_t *p, uint32_t n)
{
    if (at % WORD != 0 || n % WORD != 0 || at > FLASH || n > FLASH - at)
        return QFL_E_INVAL;
    nvmc(WRITE);
    for (uint32_t i = 0; i < n; i += WORD) {
        REG(FLASH_AT + at + i) = qfl_get32(p + i);
        while (REG(NVMC + NVMC_READY) == 0)
            ;
    }
    nvmc(READ_ONLY);
    return 0;
}

int32_t qfl_single_flash_erase(uint32_t at, uint32_t n)
{
    if (at % PAGE != 0 || n % PAGE != 0 || at > FLASH || n > FLASH - at)
        return QFL_E_INVAL;
    nvmc(ERASE);
    for (uint32_t i = 0; i < n; i += PAGE) {
        REG(NVMC + NVMC_ERASEPAGE) = FLASH_AT + at + i;
        while (REG(NVMC + NVMC_READY) == 0)
            ;
    }
    nvmc(READ_ONLY);
    return 0;
}

/* The random number generator: thermal noise on the part, the host's generator here. */
int32_t qfl_single_entropy(uint8_t *p, uint32_t n)
{
    REG(RNG) = 1; /* start */
    for (uint32_t i = 0; i < n; i++) {
        REG(RNG + 0x100) = 0; /* value ready */
        while (REG(RNG + 0x100) == 0)
            ;
        p[i] = (uint8_t)REG(RNG + 0x508);
    }
    REG(RNG + 4) = 1; /* stop */
    return (int32_t)n;
}

void qfl_single_reboot(void)
{
    REG(0xE000ED0Cu) = 0x05FA0004u;
    for (;;)
        ;
}
#else
typedef int qfl_single_nrf51_is_for_cortex_m0;
#endif
