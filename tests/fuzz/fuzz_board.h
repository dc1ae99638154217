/*
 * For targets that start whole boards, linked with --wrap (tests/fuzz/run.py): what a board does at each start whatever the input is
 * done once, or in little time.
 */
#ifndef QFL_FUZZ_BOARD_H
#define QFL_FUZZ_BOARD_H

#include <stdint.h>
#include <string.h>

#include "qfl_sha256.h"

/* The kernels are tested at the first start only. */
uint32_t __real_qfl_nn_selftest(void *mem, uint32_t *first);
uint32_t __wrap_qfl_nn_selftest(void *mem, uint32_t *first);
uint32_t __wrap_qfl_nn_selftest(void *mem, uint32_t *first)
{
    static int tested;
    *first = 0;
    return tested++ ? 0 : __real_qfl_nn_selftest(mem, first);
}

/*
 * In place of SHA-256, which takes most of a start's time: 64 bits mixed of eight bytes at a time, wherever the parts end. All bytes
 * are read; who changes one changes the digest. state: the sum, and the word that is not full, in two halves each.
 */
typedef struct quick {
    uint64_t sum, word;
} quick;

static inline uint64_t quick_mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

void __wrap_qfl_sha256_begin(qfl_sha256 *s);
void __wrap_qfl_sha256_add(qfl_sha256 *s, const uint8_t *p, uint32_t n);
void __wrap_qfl_sha256_end(qfl_sha256 *s, uint8_t *digest);

void __wrap_qfl_sha256_begin(qfl_sha256 *s) { memset(s, 0, sizeof *s); }

void __wrap_qfl_sha256_add(qfl_sha256 *s, const uint8_t *p, uint32_t n)
{
    quick q;
    memcpy(&q, s->state, sizeof q);
    for (uint32_t i = 0; i < n;) {
        if ((s->bytes & 7) == 0 && n - i >= 8) {
            memcpy(&q.word, p + i, 8);
            i += 8;
            s->bytes += 8;
        } else {
            q.word |= (uint64_t)p[i++] << (8 * (s->bytes++ & 7));
        }
        if ((s->bytes & 7) == 0) {
            q.sum = quick_mix(q.sum ^ q.word);
            q.word = 0;
        }
    }
    memcpy(s->state, &q, sizeof q);
}

void __wrap_qfl_sha256_end(qfl_sha256 *s, uint8_t *digest)
{
    quick q;
    memcpy(&q, s->state, sizeof q);
    q.sum = quick_mix(quick_mix(q.sum ^ q.word) ^ s->bytes);
    for (uint32_t i = 0; i < QFL_SHA256_BYTES; i += 8) {
        q.sum = quick_mix(q.sum + i + 1);
        memcpy(digest + i, &q.sum, 8);
    }
}

#endif
