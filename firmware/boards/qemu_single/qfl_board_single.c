/*
 * Emulated boards with one UART, which is the link. Samples come from the file "samples" in the emulator's folder: a batch number
 * u32, then records (qfl_sample_record.h). A new batch replaces the file; a board that has read one waits for another number.
 * The file "uid" holds the board's unique id.
 */
#include <string.h>

#include "../common/qfl_board.h"
#include "../common/qfl_host_file.h"
#include "../common/qfl_ring.h"
#include "../common/qfl_sample_record.h"
#include "qfl_single.h"

#ifndef QFL_LINK_RING
#define QFL_LINK_RING 4096 /* bytes */
#endif

enum { SPINS = 2000, UID_BYTES = 8, LOOK_MS = 20, LONGEST_MS = 500 };

typedef struct single_board {
    qfl_ring link;
    volatile uint8_t stalled; /* the ring is full; the emulator holds the rest back */
    qfl_sample_reader reader;
    uint32_t batch, batch_at; /* of the samples file: number, bytes taken */
    uint32_t looked_ms;       /* when it was last found to hold nothing new */
    uint8_t uid[UID_BYTES];
} single_board;

static uint8_t link_ring[QFL_LINK_RING];
static single_board board;

extern uint8_t __arena_start[], __arena_end[];
extern uint32_t qfl_fault_resets;

static void drain(single_board *b)
{
    uint8_t byte;
    for (;;) {
        if (qfl_ring_full(&b->link)) {
            b->stalled = 1;
            qfl_single_receive_on(0);
            return;
        }
        if (!qfl_single_receive(&byte))
            return;
        qfl_ring_put(&b->link, byte);
    }
}

void qfl_irq_link(void) { drain(&board); }

static single_board *self(void *ctx) { return ctx; }
static void port_poll(void *ctx)
{
    (void)ctx;
    (void)qfl_single_us();
}
static uint32_t port_ms(void *ctx)
{
    (void)ctx;
    return (uint32_t)(qfl_single_us() / 1000u);
}
static uint32_t port_us(void *ctx)
{
    (void)ctx;
    return (uint32_t)qfl_single_us();
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
    return 1024;
}
static uint32_t port_link_lost(void *ctx, uint8_t link)
{
    (void)ctx;
    (void)link;
    return 0;
}

static int32_t port_link_write(void *ctx, uint8_t link, const uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    (void)ctx;
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    while (i < n && qfl_single_send(p[i]))
        i++;
    return (int32_t)i;
}

static int32_t port_link_read(void *ctx, uint8_t link, uint8_t *p, uint32_t n)
{
    single_board *b = self(ctx);
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    uint32_t got = qfl_ring_take(&b->link, p, n);
    if (b->stalled && qfl_ring_used(&b->link) <= b->link.size / 2) {
        qfl_single_mask(1);
        b->stalled = 0;
        qfl_single_receive_on(1);
        drain(b);
        qfl_single_mask(0);
    }
    return (int32_t)got;
}

static int32_t port_flash_info(void *ctx, qfl_flash_info *out)
{
    (void)ctx;
    return qfl_single_flash_info(out);
}

static int32_t port_flash_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    qfl_flash_info info;
    (void)ctx;
    if (qfl_single_flash_info(&info) != 0 || at > info.size || n > info.size - at)
        return QFL_E_INVAL;
    memcpy(p, info.map + at, n);
    return 0;
}

static int32_t port_flash_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    (void)ctx;
    return qfl_single_flash_program(at, p, n);
}

static int32_t port_flash_erase(void *ctx, uint32_t at, uint32_t n)
{
    (void)ctx;
    return qfl_single_flash_erase(at, n);
}
static int32_t port_entropy(void *ctx, uint8_t *p, uint32_t n)
{
    (void)ctx;
    return qfl_single_entropy(p, n);
}

static int32_t port_uid(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t k = n < UID_BYTES ? n : UID_BYTES;
    memcpy(p, self(ctx)->uid, k);
    return (int32_t)k;
}

static uint32_t port_reset_cause(void *ctx)
{
    (void)ctx;
    return qfl_fault_resets != 0 ? 4 : 0;
}

static void port_sleep(void *ctx, uint32_t ms)
{
    single_board *b = self(ctx);
    if (ms == 0)
        return;
    /* While a frame arrives the next byte is never far; waiting for each costs the emulator a hundred times as much. */
    for (uint32_t i = 0; i < SPINS; i++)
        if (qfl_ring_used(&b->link) != 0)
            return;
    qfl_single_mask(1);
    if (qfl_ring_used(&b->link) == 0)
        qfl_single_wait(ms < LONGEST_MS ? ms : LONGEST_MS);
    qfl_single_mask(0);
}

static void port_reboot(void *ctx)
{
    (void)ctx;
    qfl_single_reboot();
}

static uint32_t sample_bytes(void *ctx, uint8_t *p, uint32_t n)
{
    single_board *b = ctx;
    uint32_t number = 0, got = 0;
    int32_t file = qfl_host_open("samples", 0);
    if (file < 0)
        return 0;
    if (qfl_host_read(file, &number, 4) == 4) {
        if (number != b->batch) {
            b->batch = number;
            b->batch_at = 0;
        }
        qfl_host_seek(file, 4 + b->batch_at);
        got = qfl_host_read(file, p, n);
        b->batch_at += got;
    }
    qfl_host_close(file);
    return got;
}

/* The file is looked at often while it gives samples, and seldom while it has none. */
static int32_t port_next_sample(void *ctx, int8_t *x, uint32_t n, uint16_t *label)
{
    single_board *b = self(ctx);
    uint32_t now = port_ms(ctx);
    if (b->looked_ms != 0 && now - b->looked_ms < LOOK_MS)
        return 0;
    int32_t got = qfl_sample_next(&b->reader, sample_bytes, ctx, x, n, label);
    b->looked_ms = got == 1 ? 0 : now | 1u;
    return got;
}

static uint32_t port_sample_lost(void *ctx) { return self(ctx)->reader.lost; }

static uint8_t *port_arena(void *ctx, uint32_t *size)
{
    (void)ctx;
    *size = (uint32_t)(__arena_end - __arena_start);
    return __arena_start;
}

const qfl_port *qfl_board_open(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    single_board *b = &board;
    b->link.bytes = link_ring;
    b->link.size = sizeof link_ring;
    int32_t file = qfl_host_open("uid", 0);
    if (file >= 0) {
        (void)qfl_host_read(file, b->uid, sizeof b->uid);
        qfl_host_close(file);
    }
    qfl_single_open();
    qfl_single_mask(0);
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
