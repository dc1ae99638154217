/*
 * Nucleo-L476RG at register level (RM0351; UM1724 for the board). USART2 is the link: PA2 and PA3, which
 * lead to the ST-LINK's virtual COM port. USART3, PB10 (transmit) and PB11 (receive), takes samples as
 * records (qfl_sample_record.h).
 */
#include <string.h>

#include "../common/qfl_board.h"
#include "../common/qfl_sample_record.h"
#include "qfl_stm32_flash.h"
#include "qfl_stm32_reg.h"
#include "qfl_stm32_usart.h"

#ifndef QFL_LINK_BAUD
#define QFL_LINK_BAUD 921600u
#endif
#ifndef QFL_SAMPLE_BAUD
#define QFL_SAMPLE_BAUD 460800u
#endif
/* The part's 96-bit unique id (chapter "Device electronic signature"). */
#ifndef QFL_UID_AT
#define QFL_UID_AT 0x1FFF7590u
#endif

/* RCC, chapter "Reset and clock control (RCC)". */
#define RCC          0x40021000u
#define RCC_CR       (RCC + 0x00)
#define RCC_CFGR     (RCC + 0x08)
#define RCC_PLLCFGR  (RCC + 0x0C)
#define RCC_AHB2ENR  (RCC + 0x4C)
#define RCC_APB1ENR1 (RCC + 0x58)
#define RCC_CCIPR    (RCC + 0x88)
#define RCC_CSR      (RCC + 0x94)
#define FLASH_ACR    0x40022000u
#define GPIOA        0x48000000u
#define GPIOB        0x48000400u
#define RNG          0x50060800u /* chapter "True random number generator (RNG)": CR, SR, DR */
#define USART2       0x40004400u
#define USART3       0x40004800u
#define SYST_CSR     0xE000E010u /* Armv7-M manual, B3.3 */
#define SYST_RVR     0xE000E014u
#define SYST_CVR     0xE000E018u
#define NVIC_ISER1   0xE000E104u
#define AIRCR        0xE000ED0Cu

enum {
    CR_MSIRGSEL = 1 << 3,
    CR_MSI_48MHZ = 11 << 4,
    CR_MSIRANGE = 15 << 4,
    CR_HSION = 1 << 8,
    CR_HSIRDY = 1 << 10,
    CR_PLLON = 1 << 24,
    CR_PLLRDY = 1 << 25,
    CFGR_PLL = 3,
    CFGR_SWS_PLL = 3 << 2,
    MSI_HZ = 4000000, /* the clock after a reset */
    PLL_HZ = 80000000,
    TRIES = 200000,
    LINK_MTU = 1024,
    UID_BYTES = 12
};

typedef struct l476_board {
    qfl_usart link, samples;
    qfl_sample_reader reader;
    uint32_t hz, reset_cause;
} l476_board;
static uint8_t link_rx[4096], link_tx[2 * LINK_MTU], samples_rx[2048];
static l476_board board;
static volatile uint32_t ticks; /* ms */

extern uint8_t __arena_start[], __arena_end[];
void qfl_irq_link(void);
void qfl_irq_samples(void);
void qfl_irq_tick(void);
void qfl_irq_link(void) { qfl_usart_irq(&board.link); }
void qfl_irq_samples(void) { qfl_usart_irq(&board.samples); }
void qfl_irq_tick(void) { ticks = ticks + 1; }

/* 80 MHz from the 16 MHz oscillator, which is exact enough for a USART; 4 MHz where the PLL does not lock. */
static void start_clocks(void)
{
    board.hz = MSI_HZ;
    qfl_reg_set(FLASH_ACR,
                4u | 7u << 8); /* 4 wait states (table of wait states, range 1), prefetch and both caches */
    qfl_reg_change(RCC_CR, 0, CR_HSION);
    if (!qfl_reg_wait(RCC_CR, CR_HSIRDY, TRIES))
        return;
    qfl_reg_set(RCC_PLLCFGR, 2u | 10u << 8 | 1u << 24); /* HSI16 / 1 * 10 / 2 */
    qfl_reg_change(RCC_CR, 0, CR_PLLON);
    if (!qfl_reg_wait(RCC_CR, CR_PLLRDY, TRIES))
        return;
    qfl_reg_change(RCC_CFGR, 3, CFGR_PLL);
    if (!qfl_reg_wait(RCC_CFGR, CFGR_SWS_PLL, TRIES))
        return;
    board.hz = PLL_HZ;
    qfl_reg_change(RCC_CR, CR_MSIRANGE, CR_MSI_48MHZ | CR_MSIRGSEL); /* feeds the random number generator */
}

/*
 * Pin `pin` of a port becomes alternate function 7, which is USART1..3 on all of them (data sheet,
 * "Alternate function").
 */
static void usart_pin(uint32_t port, uint32_t pin)
{
    qfl_reg_change(port + 0x00, 3u << 2 * pin, 2u << 2 * pin);                         /* GPIOx_MODER */
    qfl_reg_change(port + 0x20 + 4 * (pin / 8), 0xFu << 4 * (pin % 8),
                   7u << 4 * (pin % 8)); /* GPIOx_AFRL, AFRH */
}

static void start_peripherals(void)
{
    qfl_reg_change(RCC_AHB2ENR, 0, 1u << 0 | 1u << 1 | 1u << 18);  /* GPIOA, GPIOB, RNG */
    qfl_reg_change(RCC_APB1ENR1, 0, 1u << 17 | 1u << 18);          /* USART2, USART3 */
    qfl_reg_change(RCC_CCIPR, 3u << 26, 3u << 26);                 /* CLK48SEL: MSI */
    qfl_reg_set(RNG, 1u << 2);                                     /* RNG_CR: RNGEN */
    usart_pin(GPIOA, 2);
    usart_pin(GPIOA, 3);
    usart_pin(GPIOB, 10);
    usart_pin(GPIOB, 11);
}

/* Read and cleared: the flags of older resets would stay beside the newest one's. */
static uint32_t take_reset_cause(void)
{
    uint32_t flags = qfl_reg_get(RCC_CSR);
    qfl_reg_set(RCC_CSR, flags | 1u << 23); /* RMVF */
    if ((flags & (3u << 29)) != 0)          /* IWDGRSTF, WWDGRSTF */
        return 3;
    if ((flags & 1u << 28) != 0) /* SFTRSTF */
        return 2;
    if ((flags & 1u << 27) != 0) /* BORRSTF: also set at power-on */
        return 0;
    return (flags & 1u << 26) != 0      ? 1
           : (flags & 0x83000000u) != 0 ? 4
                                        : 0; /* PINRSTF; low power, option bytes, firewall */
}

static void port_poll(void *ctx) { (void)ctx; }
static uint32_t port_ms(void *ctx)
{
    (void)ctx;
    return ticks;
}
static uint32_t port_us(void *ctx)
{
    uint32_t t, left, a_us = ((l476_board *)ctx)->hz / 1000000u;
    do {
        t = ticks;
        left = qfl_reg_get(SYST_CVR);
    } while (t != ticks);
    return t * 1000u + (1000u * a_us - 1 - left) / a_us;
}
static int32_t port_link_up(void *ctx, uint8_t link)
{
    (void)ctx;
    return link == 0;
}
static uint32_t port_link_connections(void *ctx, uint8_t link)
{
    (void)ctx;
    (void)link;
    return 0;
}
static uint32_t port_link_mtu(void *ctx, uint8_t link)
{
    (void)ctx;
    (void)link;
    return LINK_MTU;
}
static int32_t port_link_write(void *ctx, uint8_t link, const uint8_t *p, uint32_t n)
{
    return link == 0 ? (int32_t)qfl_usart_write(&((l476_board *)ctx)->link, p, n) : QFL_E_UNSUPPORTED;
}
static int32_t port_link_read(void *ctx, uint8_t link, uint8_t *p, uint32_t n)
{
    return link == 0 ? (int32_t)qfl_usart_read(&((l476_board *)ctx)->link, p, n) : QFL_E_UNSUPPORTED;
}
static uint32_t port_link_lost(void *ctx, uint8_t link)
{
    (void)link;
    return ((l476_board *)ctx)->link.lost;
}
static int32_t port_flash_info(void *ctx, qfl_flash_info *out)
{
    (void)ctx;
    qfl_stm32_flash_info(out);
    return 0;
}
static int32_t port_flash_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    (void)ctx;
    return qfl_stm32_flash_read(at, p, n);
}
static int32_t port_flash_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    (void)ctx;
    return qfl_stm32_flash_program(at, p, n);
}
static int32_t port_flash_erase(void *ctx, uint32_t at, uint32_t n)
{
    (void)ctx;
    return qfl_stm32_flash_erase(at, n);
}

/*
 * Words of the generator, while it reports neither a seed nor a clock error and does not repeat itself;
 * the rest counts as not random.
 */
static int32_t port_entropy(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t last = 0, random = 0, mix = port_us(ctx);
    for (uint32_t i = 0; i < n; i += 4) {
        uint32_t word = mix = mix * 1664525u + 1013904223u;
        if (random == i && qfl_reg_wait(RNG + 4, 1, 1000) && (qfl_reg_get(RNG + 4) & 6u) == 0) {
            uint32_t drawn = qfl_reg_get(RNG + 8);
            if (drawn != last && drawn != 0) {
                random += n - i < 4 ? n - i : 4;
                last = word = drawn;
            }
        }
        memcpy(p + i, &word, n - i < 4 ? n - i : 4);
    }
    return (int32_t)random;
}

static int32_t port_uid(void *ctx, uint8_t *p, uint32_t n)
{
    (void)ctx;
    uint32_t k = n < UID_BYTES ? n : UID_BYTES;
    for (uint32_t i = 0; i < k; i++)
        p[i] = (uint8_t)(qfl_reg_get(QFL_UID_AT + (i & ~3u)) >> 8 * (i & 3u));
    return (int32_t)k;
}
static uint32_t port_reset_cause(void *ctx) { return ((l476_board *)ctx)->reset_cause; }

/* Every interrupt ends a WFI, SysTick's one each ms; only a byte of the link ends the sleep early. */
static void port_sleep(void *ctx, uint32_t ms)
{
    uint32_t start = ticks;
    while (ticks - start < ms && qfl_ring_used(&((const l476_board *)ctx)->link.rx) == 0)
        __asm volatile("wfi");
}
static void port_reboot(void *ctx)
{
    (void)ctx;
    qfl_reg_set(AIRCR, 0x05FA0004u);
    for (;;)
        ;
}
static uint32_t sample_bytes(void *ctx, uint8_t *p, uint32_t n)
{
    return qfl_usart_read(&((l476_board *)ctx)->samples, p, n);
}
static int32_t port_next_sample(void *ctx, int8_t *x, uint32_t n, uint16_t *label)
{
    return qfl_sample_next(&((l476_board *)ctx)->reader, sample_bytes, ctx, x, n, label);
}
static uint32_t port_sample_lost(void *ctx) { return ((l476_board *)ctx)->reader.lost; }
static uint8_t *port_arena(void *ctx, uint32_t *size)
{
    (void)ctx;
    *size = (uint32_t)(__arena_end - __arena_start) & ~15u;
    return __arena_start;
}

const qfl_port *qfl_board_open(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    start_clocks();
    start_peripherals();
    board.reset_cause = take_reset_cause();
    board.link.rx = (qfl_ring){link_rx, sizeof link_rx, 0, 0};
    board.link.tx = (qfl_ring){link_tx, sizeof link_tx, 0, 0};
    qfl_usart_open(&board.link, USART2, board.hz, QFL_LINK_BAUD);
    board.samples.rx = (qfl_ring){samples_rx, sizeof samples_rx, 0, 0};
    qfl_usart_open(&board.samples, USART3, board.hz, QFL_SAMPLE_BAUD); /* nothing is sent there */
    qfl_reg_set(SYST_RVR, board.hz / 1000u - 1);
    qfl_reg_set(SYST_CVR, 0);
    qfl_reg_set(SYST_CSR, 7);
    qfl_reg_set(NVIC_ISER1, 1u << (QFL_IRQ_LINK - 32) | 1u << (QFL_IRQ_SAMPLES - 32));
    qfl_irq_on();
    static const qfl_port port = {
        &board,
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
