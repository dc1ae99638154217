/*
 * Adaptive binary range coder (Martin 1979; LZMA's arithmetic, Pavlov's specification): 12-bit probabilities whose rate of
 * adaptation starts fast and slows down, so that small heads need no tables sent beforehand. One multiplication per binary
 * symbol. One function for both directions: what is written and what is read cannot differ. Private to qfl_codec.
 */
#ifndef QFL_CODEC_RANGE_H
#define QFL_CODEC_RANGE_H

#include <stddef.h>
#include <stdint.h>

enum { RANGE_TOP = 1 << 24, RATE_FIRST = 3, RATE_LAST = 13 /* twice the rate of adaptation, rounded down */ };

/* Upper half: p, the probability of a 0 in 1/65536; lower half: twice the rate of its next adaptation. When p starts between 3000
 * and 62500 it stays within 63..65472: neither side of a split is ever empty. */
typedef uint32_t range_bit;

static inline uint32_t range_split(uint32_t range, range_bit b)
{
    return (range >> 12) * (b >> 20);
}

/* b after a 0, or after a 1. */
static inline range_bit range_adapted(range_bit b, uint32_t bit)
{
    uint32_t rate = b >> 1 & 7;
    if (bit)
        b -= b >> 16 >> rate << 16;
    else
        b += ~b >> 16 >> rate << 16;
    return (b & 15) != RATE_LAST ? b + 1 : b;
}

typedef struct range_coder {
    uint32_t value, range; /* writing: the interval's lower end; reading: how far above it the number read lies */
    uint8_t *out;
    const uint8_t *in;    /* NULL: writing */
    uint32_t at, end;     /* bytes written, and room; or asked for, and there are: behind the end there are zeros */
    uint32_t full;        /* writing: it took more than there was room for */
} range_coder;

/* Sets `count` bits to the probabilities p; there are `known` of them, of which the last one goes on. */
void range_bits_init(range_bit *b, uint32_t count, const uint16_t *p, uint32_t known);

void range_write_init(range_coder *c, uint8_t *out, uint32_t cap);
void range_read_init(range_coder *c, const uint8_t *in, uint32_t n);

void range_write(range_coder *c, range_bit *b, uint32_t bit);
uint32_t range_read(range_coder *c, range_bit *b);
/* Writing: adds a carry to the bytes written, and moves bytes out until the range is large enough again. */
void range_settle(range_coder *c, uint32_t carry);

/* Writes `bit` or reads it; returns it. */
static inline uint32_t range_code(range_coder *c, range_bit *b, uint32_t bit)
{
    if (c->in != NULL)
        return range_read(c, b);
    range_write(c, b, bit);
    return bit;
}

/* What range_write does with a 0 and with a 1, for the places that see most of them. */
static inline void range_write_zero(range_coder *c, range_bit *b)
{
    range_bit before = *b;
    uint32_t range = range_split(c->range, before);
    *b = range_adapted(before, 0);
    c->range = range;
    if (range < RANGE_TOP)
        range_settle(c, 0);
}

static inline void range_write_one(range_coder *c, range_bit *b)
{
    range_bit before = *b;
    uint32_t split = range_split(c->range, before), range = c->range - split, value = c->value + split;
    *b = range_adapted(before, 1);
    c->value = value;
    c->range = range;
    if (value < split || range < RANGE_TOP)
        range_settle(c, value < split);
}

/* The same for the lowest `count` bits of v, highest first, each as likely 0 as 1. */
uint32_t range_code_raw(range_coder *c, uint32_t v, uint32_t count);

/* Writes as few bytes as tell the interval apart when zeros are read behind the end. */
void range_write_end(range_coder *c);

#endif
