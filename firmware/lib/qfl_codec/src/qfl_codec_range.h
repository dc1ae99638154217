/*
 * Adaptive binary range coder (Martin 1979; LZMA's arithmetic, Pavlov's specification): 12-bit probabilities whose rate of
 * adaptation starts fast and slows down, so that small heads need no tables sent beforehand. One multiplication per binary
 * symbol. Private to qfl_codec.
 *
 * A loop that writes many symbols keeps the interval in two registers (range_now, range_step) and goes to the coder's memory for
 * bytes only; range_code does the same in both directions where there are few.
 */
#ifndef QFL_CODEC_RANGE_H
#define QFL_CODEC_RANGE_H

#include <stddef.h>
#include <stdint.h>

enum { RANGE_TOP = 1 << 24, RATE_LAST = 6, WARM_UP = 9 };

/* Upper half: p, the probability of a 0 in 1/65536; lower half: adaptations until the rate is RATE_LAST, WARM_UP at the start. When
 * p starts between 3000 and 62500 it stays within 63..65472: neither side of a split is ever empty. */
typedef uint32_t range_bit;

/* Adapts b to a 0 or a 1 while its rate still changes: 1, 2, 2, 3, 3, ... 5, 5. */
void range_warm(range_bit *b, uint32_t bit);

/* Adapts b, whose value is `before`. A 1 lowers p by p >> rate, a 0 does the same to 65535 - p, which is p's complement. */
static inline void range_adapt(range_bit *b, range_bit before, uint32_t bit)
{
    uint32_t turn = bit - 1, turned = before ^ turn;
    if ((before & 15) != 0)
        range_warm(b, bit);
    else
        *b = (turned - (turned >> (16 + RATE_LAST) << 16)) ^ turn;
}

/* Writing: the interval's lower end and its width; reading: how far above the lower end the number read lies, and the width. */
typedef struct range_now {
    uint32_t value, range;
} range_now;

typedef struct range_coder {
    range_now now;
    uint8_t *out;
    const uint8_t *in;    /* NULL: writing */
    uint32_t at,
        end;     /* bytes written, and room; or asked for, and there are: behind the end there are zeros */
    uint32_t full;        /* writing: it took more than there was room for */
} range_coder;

/* Sets `count` bits to the probabilities p; there are `known` of them, of which the last one goes on. */
void range_bits_init(range_bit *b, uint32_t count, const uint16_t *p, uint32_t known);

void range_write_init(range_coder *c, uint8_t *out, uint32_t cap);
void range_read_init(range_coder *c, const uint8_t *in, uint32_t n);

/* Writing: adds a carry to the bytes written. */
void range_carry(range_coder *c);
/* Moves bytes out until the range is RANGE_TOP at least. Returns range << 32 | value: two registers. */
uint64_t range_put(range_coder *c, uint32_t value, uint32_t range);
/* The same when reading: takes bytes in. */
void range_take(range_coder *c);

static inline void range_settle(range_coder *c, range_now *now)
{
    uint64_t both = range_put(c, now->value, now->range);
    now->value = (uint32_t)both;
    now->range = (uint32_t)(both >> 32);
}

/* Writes `bit`. `now` instead of c->now. */
static inline __attribute__((always_inline)) void range_step(range_coder *c, range_now *now, range_bit *b,
                                                             uint32_t bit)
{
    range_bit before = *b;
    uint32_t split = (now->range >> 12) * (before >> 20);
    if (bit) {
        now->range -= split;
        if ((now->value += split) < split)
            range_carry(c);
    } else {
        now->range = split;
    }
    range_adapt(b, before, bit);
    if (now->range < RANGE_TOP)
        range_settle(c, now);
}

/* Reads a bit. */
uint32_t range_read(range_coder *c, range_bit *b);
/* Writes `bit` or reads it; returns it. */
uint32_t range_code(range_coder *c, range_bit *b, uint32_t bit);

/* The same for the lowest `count` bits of v, highest first, each as likely 0 as 1. */
uint32_t range_code_raw(range_coder *c, uint32_t v, uint32_t count);

/* Writes as few bytes as tell the interval apart when zeros are read behind the end. */
void range_write_end(range_coder *c);

#endif
