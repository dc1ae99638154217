/*
 * Runs kernel cases on any emulated core. The file "cases" holds records: u32 bytes of the package, number of inputs, bytes of the
 * inputs; the package padded to 16 bytes; the inputs. "results" gets per case: status u32, then for every input the bytes of the last operator's output.
 * Status 0 ran; 1 does not fit this board's RAM; 2 refused by qfl_nn_open; 3 wrote outside its arena; 4 outputs differ when the
 * same input runs again. A package's tensors lie wherever the host planned them, odd addresses too.
 */
#include <string.h>

#include "../boards/common/qfl_host_file.h"
#include "qfl_nn.h"

enum { RAN = 0, TOO_LARGE = 1, REFUSED = 2, OUTSIDE = 3, UNSTEADY = 4, GUARD = 16, GUARD_BYTE = 0xC5 };

extern uint8_t __arena_start[], __arena_end[];

static uint32_t aligned(uint32_t n) { return (n + 15u) & ~15u; }

static int guarded(const uint8_t *p)
{
    for (uint32_t i = 0; i < GUARD; i++)
        if (p[i] != GUARD_BYTE)
            return 0;
    return 1;
}

/* Two runs of every input: after an arena of zeros and after the other one's leavings. */
static uint32_t run(const qfl_nn *nn, uint8_t *arena, const uint8_t *x, uint32_t inputs, uint8_t *outputs)
{
    uint32_t at, n;
    qfl_nn_output(nn, nn->op_count - 1, &at, &n);
    memset(arena - GUARD, GUARD_BYTE, GUARD);
    memset(arena + nn->arena_size, GUARD_BYTE, GUARD);
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < inputs; i++) {
            if (pass == 0)
                memset(arena, 0, nn->arena_size);
            memcpy(arena + nn->input_offset, x + i * nn->input_size, nn->input_size);
            qfl_nn_run(nn, arena, 0, nn->op_count);
            if (pass == 0)
                memcpy(outputs + i * n, arena + at, n);
            else if (memcmp(outputs + i * n, arena + at, n) != 0)
                return UNSTEADY;
        }
    return guarded(arena - GUARD) && guarded(arena + nn->arena_size) ? RAN : OUTSIDE;
}

static uint32_t one_case(int32_t in, uint32_t size, uint32_t inputs, uint8_t **outputs, uint32_t *bytes)
{
    qfl_nn nn;
    uint32_t room = (uint32_t)(__arena_end - __arena_start), at, n;
    uint8_t *package = __arena_start, *x = package + aligned(size);
    *bytes = 0;
    if (aligned(size) > room)
        return TOO_LARGE;
    if (qfl_host_read(in, package, aligned(size)) != aligned(size))
        qfl_host_exit(1);
    if (qfl_nn_open(&nn, package, size) != QFL_OK)
        return REFUSED;
    qfl_nn_output(&nn, nn.op_count - 1, &at, &n);
    uint32_t given = inputs * nn.input_size,
             used = aligned(size) + aligned(given) + aligned(inputs * n) + 2 * GUARD;
    if (used + nn.arena_size > room)
        return TOO_LARGE;
    if (qfl_host_read(in, x, given) != given)
        qfl_host_exit(1);
    *outputs = x + aligned(given);
    *bytes = inputs * n;
    return run(&nn, *outputs + aligned(inputs * n) + GUARD, x, inputs, *outputs);
}

int main(void)
{
    uint32_t head[3], next = 0;
    int32_t in = qfl_host_open("cases", 0), out = qfl_host_open("results", 1);
    if (in < 0 || out < 0)
        qfl_host_exit(1);
    while (qfl_host_read(in, head, sizeof head) ==
           sizeof head) { /* sizes of package, inputs' number and bytes */
        uint8_t *outputs = NULL;
        uint32_t bytes, status;
        next += (uint32_t)sizeof head + aligned(head[0]) + head[2];
        status = one_case(in, head[0], head[1], &outputs, &bytes);
        qfl_host_write(out, &status, 4);
        if (status == RAN)
            qfl_host_write(out, outputs, bytes);
        qfl_host_seek(in, next); /* whatever of the case was not read */
    }
    qfl_host_close(out);
    qfl_host_exit(0);
}
