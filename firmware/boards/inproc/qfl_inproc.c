#include "qfl_inproc.h"

#include <string.h>

#include "../common/qfl_ram_flash.h"

#ifndef QFL_INPROC_US
#define QFL_INPROC_US 50 /* by which the clock moves when it is read: how much work a poll does at once */
#endif
enum { RING = 16384, US_PER_CALL = QFL_INPROC_US };

typedef struct ring {
    uint32_t head, tail;
    uint8_t data[RING];
} ring;

struct qfl_inproc {
    qfl_port port;
    uint32_t ms, us, resets, lost;
    uint32_t flash_n, arena_n, uid_n;
    uint8_t uid[16];
    const int8_t *x;
    const uint16_t *labels;
    uint32_t count, next, size;
    uint8_t *arena, *flash;
    ring to_board, to_host;
};

static uint32_t aligned(size_t n) { return (uint32_t)((n + 15u) & ~(size_t)15u); }

static uint32_t put(ring *r, const uint8_t *p, uint32_t n)
{
    if (r->head == r->tail)
        r->head = r->tail = 0; /* from the front again: a ring takes no more memory than it has ever held */
    uint32_t room = RING - (r->head - r->tail), at = r->head % RING;
    n = n < room ? n : room;
    uint32_t front = n < RING - at ? n : RING - at;
    memcpy(r->data + at, p, front);
    memcpy(r->data, p + front, n - front);
    r->head += n;
    return n;
}

static uint32_t get(ring *r, uint8_t *p, uint32_t n)
{
    uint32_t held = r->head - r->tail, at = r->tail % RING;
    n = n < held ? n : held;
    uint32_t front = n < RING - at ? n : RING - at;
    memcpy(p, r->data + at, front);
    memcpy(p + front, r->data, n - front);
    r->tail += n;
    return n;
}

static qfl_inproc *self(void *ctx) { return ctx; }
static void port_poll(void *ctx) { (void)ctx; }
static uint32_t port_ms(void *ctx) { return self(ctx)->ms; }
/* Time within a slice is counted in calls, so slices end at the same place in every run. */
static uint32_t port_us(void *ctx) { return self(ctx)->us += US_PER_CALL; }
static int32_t port_link_up(void *ctx, uint8_t link)
{
    (void)ctx;
    return link == 0;
}
static uint32_t port_link_connections(void *ctx, uint8_t link)
{
    (void)link;
    return self(ctx)->resets;
}
static uint32_t port_link_mtu(void *ctx, uint8_t link)
{
    (void)ctx;
    (void)link;
    return 1024;
}
static int32_t port_link_write(void *ctx, uint8_t link, const uint8_t *p, uint32_t n)
{
    return link == 0 ? (int32_t)put(&self(ctx)->to_host, p, n) : QFL_E_UNSUPPORTED;
}
static int32_t port_link_read(void *ctx, uint8_t link, uint8_t *p, uint32_t n)
{
    return link == 0 ? (int32_t)get(&self(ctx)->to_board, p, n) : QFL_E_UNSUPPORTED;
}
static uint32_t port_link_lost(void *ctx, uint8_t link)
{
    (void)ctx;
    (void)link;
    return 0;
}
static int32_t port_flash_info(void *ctx, qfl_flash_info *out)
{
    qfl_ram_flash_info(self(ctx)->flash, self(ctx)->flash_n, out);
    return 0;
}
static int32_t port_flash_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    qfl_inproc *b = self(ctx);
    if (at > b->flash_n || n > b->flash_n - at)
        return QFL_E_INVAL;
    memcpy(p, b->flash + at, n);
    return 0;
}
static int32_t port_flash_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    return qfl_ram_flash_program(self(ctx)->flash, self(ctx)->flash_n, at, p, n);
}
static int erased(const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (p[i] != 0xFF)
            return 0;
    return 1;
}
static int32_t port_flash_erase(void *ctx, uint32_t at, uint32_t n)
{
    qfl_inproc *b = self(ctx);
    uint32_t unit = QFL_RAM_FLASH_ERASE;
    if (at % unit != 0 || n % unit != 0 || at > b->flash_n || n > b->flash_n - at)
        return QFL_E_INVAL;
    for (uint32_t end = at + n; at < end; at += unit) /* erased units stay: shared memory would be copied */
        if (!erased(b->flash + at, unit))
            memset(b->flash + at, 0xFF, unit);
    return 0;
}
static int32_t port_entropy(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t s =
        self(ctx)->uid[0] + 256u * self(ctx)->resets; /* repeatable on purpose: nothing here is random */
    for (uint32_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        p[i] = (uint8_t)(s >> 24);
    }
    return 0;
}
static int32_t port_uid(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t k = self(ctx)->uid_n < n ? self(ctx)->uid_n : n;
    memcpy(p, self(ctx)->uid, k);
    return (int32_t)k;
}
static uint32_t port_reset_cause(void *ctx) { return self(ctx)->resets != 0 ? 1 : 0; }
static void port_sleep(void *ctx, uint32_t ms)
{
    (void)ctx;
    (void)ms;
}
static void port_reboot(void *ctx) { (void)ctx; }
static int32_t port_next_sample(void *ctx, int8_t *x, uint32_t n, uint16_t *label)
{
    qfl_inproc *b = self(ctx);
    if (b->next >= b->count)
        return 0;
    if (b->size != n) {
        b->next++;
        b->lost++;
        return 0;
    }
    memcpy(x, b->x + (size_t)b->next * n, n);
    *label = b->labels[b->next++];
    return 1;
}
static uint32_t port_sample_lost(void *ctx) { return self(ctx)->lost; }
static uint8_t *port_arena(void *ctx, uint32_t *size)
{
    *size = self(ctx)->arena_n;
    return self(ctx)->arena;
}

size_t qfl_inproc_size(uint32_t flash_bytes, uint32_t ram_bytes)
{
    return aligned(sizeof(qfl_inproc)) + aligned(ram_bytes) + aligned(flash_bytes);
}

qfl_status qfl_inproc_init(qfl_inproc *b, uint32_t flash_bytes, uint32_t ram_bytes, const uint8_t *uid,
                           uint32_t uid_n)
{
    if (b == NULL || ((uintptr_t)b & 15u) != 0 || flash_bytes % QFL_RAM_FLASH_ERASE != 0 ||
        ram_bytes % 16 != 0 || uid_n > 16)
        return QFL_E_INVAL;
    memset(b, 0, sizeof *b);
    b->arena = (uint8_t *)b + aligned(sizeof *b);
    b->flash = b->arena + aligned(ram_bytes);
    b->arena_n = ram_bytes;
    b->flash_n = flash_bytes;
    memset(b->flash, 0xFF, flash_bytes);
    memcpy(b->uid, uid, uid_n);
    b->uid_n = uid_n;
    qfl_port p = {
        b,
        "inproc",
        ram_bytes,
        flash_bytes,
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
    b->port = p;
    return QFL_OK;
}

void qfl_inproc_use_flash(qfl_inproc *b, uint8_t *flash, uint32_t n)
{
    b->flash = flash;
    b->flash_n = b->port.flash_bytes = n;
}

uint32_t qfl_inproc_spare(const qfl_inproc *b, uint32_t *n)
{
    int idle = b->to_board.head == b->to_board.tail && b->to_host.head == b->to_host.tail;
    uint32_t from = aligned(offsetof(qfl_inproc, to_board) + 2 * sizeof(uint32_t));
    *n = idle ? (uint32_t)sizeof *b - from : 0;
    return from;
}

const qfl_port *qfl_inproc_port(qfl_inproc *b) { return &b->port; }
uint32_t qfl_inproc_host_write(qfl_inproc *b, const uint8_t *p, uint32_t n)
{
    return put(&b->to_board, p, n);
}
uint32_t qfl_inproc_host_read(qfl_inproc *b, uint8_t *p, uint32_t n) { return get(&b->to_host, p, n); }

void qfl_inproc_set_samples(qfl_inproc *b, const int8_t *x, const uint16_t *labels, uint32_t n, uint32_t size)
{
    b->x = x;
    b->labels = labels;
    b->count = n;
    b->size = size;
    b->next = 0;
}

void qfl_inproc_set_ms(qfl_inproc *b, uint32_t ms) { b->ms = ms; }

void qfl_inproc_reset(qfl_inproc *b)
{
    b->to_board.head = b->to_board.tail = b->to_host.head = b->to_host.tail = 0;
    memset(b->arena, 0, b->arena_n);
    b->count = b->next = b->us = 0;
    b->resets++;
}
