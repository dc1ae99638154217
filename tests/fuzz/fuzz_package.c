/*
 * Packages. First byte: 255: the rest is the file; else the rest are patches of a whole package: position u16 (counted in the
 * part that quantfl added when the first byte is even), value u8. What opens is run to its end.
 */
#include "fuzz.h"

#include "qfl_nn.h"

enum { BASES = 2, ARENA_MAX = 1 << 18 };

static void try_file(const uint8_t *p, uint32_t n)
{
    qfl_nn nn;
    uint8_t *file = copy_of(p, n);
    if (qfl_nn_open(&nn, file, n) == QFL_OK && nn.arena_size <= ARENA_MAX) {
        uint8_t *arena = aligned_alloc(16, (nn.arena_size + 31) / 16 * 16);
        memset(arena, 7, nn.arena_size);
        EXPECT(qfl_nn_run(&nn, arena, 0, nn.op_count) == QFL_OK);
        uint32_t at, size;
        EXPECT(qfl_nn_output(&nn, nn.op_count - 1, &at, &size) == QFL_OK && at + size <= nn.arena_size);
        volatile float sum = 0.0f;
        for (uint32_t i = 0; i < nn.head_param_count; i++)
            sum = sum + nn.head_params[i];
        free(arena);
    }
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *base[BASES], *work;
    static uint32_t length[BASES];
    if (work == NULL) {
        base[0] = base_file("tiny.qfl.tflite", &length[0]);
        base[1] = base_file("mixed.qfl.tflite", &length[1]);
        work = malloc(1 << 16);
        EXPECT(length[0] < 1 << 16 && length[1] < 1 << 16);
        for (int i = 0; i < BASES;
             i++) { /* or what is patched would be refused for its version, and nothing be tested */
            qfl_nn nn;
            EXPECT(qfl_nn_open(&nn, base[i], length[i]) == QFL_OK);
        }
    }
    input in = {data, size};
    uint8_t how = u8(&in);
    if (how == 255) {
        try_file(in.p, (uint32_t)in.n);
        return 0;
    }
    uint32_t which = (how >> 1) % BASES, n = length[which];
    memcpy(work, base[which], n);
    uint32_t ours =
        n / 2; /* what was added stands in front of the user's file and is less than half of these packages */
    if (how & 64)
        n = u16(&in) % (n + 1);
    for (int i = 0; in.n >= 3 && i < 64; i++) {
        uint32_t at = u16(&in) % (how & 1 ? length[which] : ours);
        work[at] = u8(&in);
    }
    try_file(work, n);
    return 0;
}
