/*
 * Emulated MPS2 and MPS3 boards (QEMU): CMSDK UART0 is the link, UART1 the sample channel, CMSDK timer 0 the clock, or SysTick where
 * there is none; flash is 1 MiB of external memory, where a memory backend can make it survive the machine. Addresses come from
 * firmware/platforms/qemu/boards (ARM DAI 0386, 0505, 0547 and DUI 0479): QFL_UART0, QFL_UART1, QFL_IRQ_LINK, QFL_IRQ_SAMPLES,
 * QFL_TIMER0, QFL_MEMORY.
 */
#include <string.h>

#include "qfl_options.h"

#include "../common/qfl_board.h"
#include "../common/qfl_ram_flash.h"
#include "../common/qfl_sample_record.h"
#include "../common/qfl_systick.h"

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))

enum {
    UART_DATA = 0,
    UART_STATE = 4,
    UART_CTRL = 8,
    UART_INT = 12,
    UART_BAUDDIV = 16,
    STATE_TX_FULL = 1,
    STATE_RX_FULL = 2,
    STATE_RX_OVERRUN = 8,
    CTRL_TX_RX = 3,
    CTRL_RX_INT = 8,
    FLASH = 1 << 20,
    UID_BYTES = 8,
    TICKS_PER_US = F_CPU / 1000000,
    SPINS = 2000,
    LINK_RING = 4096,
    SAMPLE_RING = 2048
};

#define PSRAM  ((uint32_t)QFL_MEMORY)
#define UID_AT (PSRAM + 0x200000u)

typedef struct uart {
    uintptr_t base;
    uint8_t *ring;
    uint32_t size;
    volatile uint32_t head, tail;
    volatile uint8_t stalled; /* the ring is full and the receive interrupt off: QEMU holds the rest back */
    volatile uint32_t lost;
} uart;

typedef struct qemu_board {
    uart link, samples;
    qfl_sample_reader reader;
    uint32_t ticks;            /* of the clock, as last looked at */
    uint32_t us, ms;           /* since the start, wrapping */
    uint32_t ticks_over, us_over; /* not yet a whole us or ms */
    uint32_t reset_cause;
} qemu_board;

static uint8_t link_ring[LINK_RING], sample_ring[SAMPLE_RING];
static qemu_board board;

extern uint8_t __arena_start[], __arena_end[];
extern uint32_t qfl_fault_resets; /* start-up code: hard faults since power-on */

static void drain(uart *u)
{
    while ((REG(u->base + UART_STATE) & STATE_RX_FULL) != 0) {
        if (u->head - u->tail >= u->size) {
            u->stalled = 1;
            REG(u->base + UART_CTRL) = CTRL_TX_RX;
            return;
        }
        u->ring[u->head % u->size] = (uint8_t)REG(u->base + UART_DATA);
        u->head = u->head + 1;
    }
    if ((REG(u->base + UART_STATE) & STATE_RX_OVERRUN) != 0) {
        REG(u->base + UART_STATE) = STATE_RX_OVERRUN;
        u->lost = u->lost + 1;
    }
}

static void on_receive(uart *u)
{
    REG(u->base + UART_INT) = 2;
    drain(u);
}

void qfl_irq_link(void) { on_receive(&board.link); }
void qfl_irq_samples(void) { on_receive(&board.samples); }

static void open_uart(uart *u, uintptr_t base, uint8_t *ring, uint32_t size)
{
    u->base = base;
    u->ring = ring;
    u->size = size;
    REG(base + UART_BAUDDIV) = 16;
    REG(base + UART_CTRL) = CTRL_TX_RX | CTRL_RX_INT;
}

static uint32_t read_uart(uart *u, uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && u->tail != u->head) {
        p[i++] = u->ring[u->tail % u->size];
        u->tail = u->tail + 1;
    }
    if (u->stalled && u->head - u->tail <= u->size / 2) {
        __asm volatile("cpsid i" ::: "memory");
        u->stalled = 0;
        REG(u->base + UART_CTRL) = CTRL_TX_RX | CTRL_RX_INT;
        drain(u);
        __asm volatile("cpsie i" ::: "memory");
    }
    return i;
}

static qemu_board *self(void *ctx) { return ctx; }

#ifdef QFL_TIMER0
static void start_clock(void)
{
    REG(QFL_TIMER0 + 8) = 0xFFFFFFFFu; /* reload */
    REG(QFL_TIMER0 + 4) = 0xFFFFFFFFu; /* value, counts down */
    REG(QFL_TIMER0 + 0) = 1;
}

static uint32_t clock_now(void) { return ~REG(QFL_TIMER0 + 4); }

/* Ended by a received byte too. */
static void wait(uint32_t clocks)
{
    REG(0xE000E014u) = clocks;
    REG(0xE000E018u) = 0;
    REG(0xE000E010u) = 7;
    __asm volatile("wfi");
    REG(0xE000E010u) = 0;
}
#else
static void start_clock(void) { qfl_systick_start(); }
static uint32_t clock_now(void) { return (uint32_t)qfl_systick_now(); }
static void wait(uint32_t clocks) { qfl_systick_wait(clocks); }
#endif

/* The 32-bit clock wraps in minutes; it is looked at far more often. */
static QFL_COLD qemu_board *now(void *ctx)
{
    qemu_board *b = self(ctx);
    uint32_t t = clock_now(), over = t - b->ticks + b->ticks_over, us = over / TICKS_PER_US;
    b->ticks = t;
    b->ticks_over = over % TICKS_PER_US;
    b->us += us;
    b->us_over += us;
    b->ms += b->us_over / 1000u;
    b->us_over %= 1000u;
    return b;
}

static void port_poll(void *ctx) { (void)now(ctx); }
static uint32_t port_ms(void *ctx) { return now(ctx)->ms; }
static uint32_t port_us(void *ctx) { return now(ctx)->us; }
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
    return 1024;
}

static int32_t port_link_write(void *ctx, uint8_t link, const uint8_t *p, uint32_t n)
{
    uintptr_t base = self(ctx)->link.base;
    uint32_t i = 0;
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    while (i < n && (REG(base + UART_STATE) & STATE_TX_FULL) == 0)
        REG(base + UART_DATA) = p[i++];
    return (int32_t)i;
}

static int32_t port_link_read(void *ctx, uint8_t link, uint8_t *p, uint32_t n)
{
    return link == 0 ? (int32_t)read_uart(&self(ctx)->link, p, n) : QFL_E_UNSUPPORTED;
}

static uint32_t port_link_lost(void *ctx, uint8_t link)
{
    (void)link;
    return self(ctx)->link.lost;
}

static int32_t port_flash_info(void *ctx, qfl_flash_info *out)
{
    (void)ctx;
    qfl_ram_flash_info((uint8_t *)PSRAM, FLASH, out);
    return 0;
}

static int32_t port_flash_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    (void)ctx;
    if (at > FLASH || n > FLASH - at)
        return QFL_E_INVAL;
    memcpy(p, (const uint8_t *)PSRAM + at, n);
    return 0;
}

static int32_t port_flash_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    (void)ctx;
    return qfl_ram_flash_program((uint8_t *)PSRAM, FLASH, at, p, n);
}

static int32_t port_flash_erase(void *ctx, uint32_t at, uint32_t n)
{
    (void)ctx;
    return qfl_ram_flash_erase((uint8_t *)PSRAM, FLASH, at, n);
}

static int32_t port_entropy(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t s =
        now(ctx)->ticks ^ REG(UID_AT); /* jitter of the clock: unpredictable in part, counted as none */
    for (uint32_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        p[i] = (uint8_t)(s >> 24);
    }
    return 0;
}

static int32_t port_uid(void *ctx, uint8_t *p, uint32_t n)
{
    (void)ctx;
    uint32_t k = n < UID_BYTES ? n : UID_BYTES;
    memcpy(p, (const uint8_t *)UID_AT, k);
    return (int32_t)k;
}

static uint32_t port_reset_cause(void *ctx) { return self(ctx)->reset_cause; }

/* At most 500 ms: 2^24 clocks, SysTick's range, are more than that on all these boards. */
static void port_sleep(void *ctx, uint32_t ms)
{
    qemu_board *b = self(ctx);
    if (ms == 0)
        return;
    if (ms > 500)
        ms = 500;
    /* While a frame arrives the next byte is never far; a WFI for each would cost QEMU a hundred times as much. */
    for (uint32_t i = 0; i < SPINS; i++)
        if (b->link.head != b->link.tail)
            return;
    __asm volatile("cpsid i" ::: "memory");
    /* Bytes waiting on a stalled or filled ring are looked at by the next poll; samples alone do not end the sleep. */
    if (b->link.head == b->link.tail)
        wait(ms * TICKS_PER_US * 1000u);
    __asm volatile("cpsie i" ::: "memory");
    (void)now(b);
}

static void port_reboot(void *ctx)
{
    (void)ctx;
    REG(0xE000ED0Cu) = 0x05FA0004u;
}

static uint32_t sample_bytes(void *ctx, uint8_t *p, uint32_t n)
{
    return read_uart(&self(ctx)->samples, p, n);
}
static int32_t port_next_sample(void *ctx, int8_t *x, uint32_t n, uint16_t *label)
{
    return qfl_sample_next(&self(ctx)->reader, sample_bytes, ctx, x, n, label);
}
static uint32_t port_sample_lost(void *ctx) { return self(ctx)->reader.lost; }

static uint8_t *port_arena(void *ctx, uint32_t *size)
{
    (void)ctx;
    *size = (uint32_t)(__arena_end - __arena_start);
    return __arena_start;
}

/* Receive and transmit of a UART stand next to each other; only receiving is switched on there. */
static void enable(uint32_t irq)
{
    for (uint32_t i = irq; i < irq + 2; i++)
        REG(0xE000E100u + 4 * (i / 32)) = 1u << i % 32;
}

const qfl_port *qfl_board_open(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    qemu_board *b = &board;
    start_clock();
    b->reset_cause = qfl_fault_resets != 0 ? 4 : 0;
    open_uart(&b->link, QFL_UART0, link_ring, sizeof link_ring);
    open_uart(&b->samples, QFL_UART1, sample_ring, sizeof sample_ring);
    enable(QFL_IRQ_LINK);
    enable(QFL_IRQ_SAMPLES);
    __asm volatile("cpsie i");
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
