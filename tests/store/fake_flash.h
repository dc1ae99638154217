/*
 * Flash that is stricter than any part: a unit is programmed once between erases, at its own alignment, and power may fail in
 * the middle of any operation, leaving any part of a write's bits or a half-erased unit. A torn unit has to be erased before it is
 * used again, whatever it looks like.
 */
#ifndef FAKE_FLASH_H
#define FAKE_FLASH_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_port.h"

enum { FLASH_MAX = 1 << 20 };
/* How the operation that power fails in ends. */
enum { TEAR_NOTHING, TEAR_ALL, TEAR_PREFIX, TEAR_BITS, TEAR_GARBAGE, TEARS };

typedef struct fake_flash {
    qfl_flash_info info;
    uint8_t *mem, *used; /* [size]; used: this byte's unit has been programmed since its last erase */
    uint32_t ops, cut_at; /* operations so far; the one power fails in, UINT32_MAX: none */
    int tear;
    uint64_t rng;
    jmp_buf dead;
    uint32_t erases[4096];
} fake_flash;

static inline uint32_t ff_random(fake_flash *f)
{
    f->rng = f->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(f->rng >> 33);
}

static inline void ff_fail(const char *what)
{
    fprintf(stderr, "flash misused: %s\n", what);
    abort();
}

static inline int32_t ff_info(void *ctx, qfl_flash_info *out)
{
    *out = ((fake_flash *)ctx)->info;
    return 0;
}

static inline int32_t ff_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    fake_flash *f = ctx;
    if (at > f->info.size || n > f->info.size - at)
        ff_fail("read beyond the region");
    memcpy(p, f->mem + at, n);
    return 0;
}

static inline int32_t ff_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    fake_flash *f = ctx;
    uint32_t unit = f->info.program_unit;
    if (n == 0 || at % unit != 0 || n % unit != 0 || at > f->info.size || n > f->info.size - at)
        ff_fail("write not in whole units");
    for (uint32_t i = 0; i < n; i++)
        if (f->used[at + i])
            ff_fail("a unit written twice, or after a torn erase");
    int cut = f->ops++ == f->cut_at;
    uint32_t whole = !cut || f->tear == TEAR_ALL ? n : f->tear == TEAR_PREFIX ? ff_random(f) % n : 0;
    memset(f->used + at, 1, n);
    memcpy(f->mem + at, p, whole);
    if (cut && f->tear >= TEAR_BITS)
        for (uint32_t i = 0; i < n; i++) /* some of the bits that were to be cleared are */
            f->mem[at + i] &= (uint8_t)(p[i] | ff_random(f) | (f->tear == TEAR_BITS ? 0 : ff_random(f)));
    if (cut)
        longjmp(f->dead, 1);
    return 0;
}

static inline int32_t ff_erase(void *ctx, uint32_t at, uint32_t n)
{
    fake_flash *f = ctx;
    if (n != f->info.erase_unit || at % n != 0 || at > f->info.size - n)
        ff_fail("erase not of one unit");
    f->erases[at / n]++;
    if (f->ops++ != f->cut_at) {
        memset(f->mem + at, f->info.erased, n);
        memset(f->used + at, 0, n);
        return 0;
    }
    uint32_t part = ff_random(f) % n;
    memset(f->used + at, 1, n);
    if (f->tear == TEAR_ALL) /* looks erased, and is not to be relied on */
        memset(f->mem + at, f->info.erased, n);
    else if (f->tear == TEAR_PREFIX)
        memset(f->mem + at, f->info.erased, part);
    else if (f->tear == TEAR_BITS)
        for (uint32_t i = 0; i < n; i++)
            f->mem[at + i] |= (uint8_t)ff_random(f);
    else if (f->tear == TEAR_GARBAGE)
        for (uint32_t i = 0; i < n; i++)
            f->mem[at + i] = (uint8_t)ff_random(f);
    longjmp(f->dead, 1);
}

static inline void ff_make(fake_flash *f, qfl_port *port, const qfl_flash_info *info)
{
    memset(f, 0, sizeof *f);
    f->info = *info;
    f->mem = aligned_alloc(16, info->size);
    f->used = calloc(1, info->size);
    f->info.map = f->mem;
    f->cut_at = UINT32_MAX;
    memset(f->mem, info->erased, info->size);
    memset(port, 0, sizeof *port);
    port->ctx = f;
    port->flash_info = ff_info;
    port->flash_read = ff_read;
    port->flash_program = ff_program;
    port->flash_erase = ff_erase;
}

#endif
