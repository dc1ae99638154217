/*
 * Adaptive binary range coder (the carry-less-decoder form of LZMA's, Martin 1979; Pavlov, LZMA specification): 12-bit
 * probabilities whose rate of adaptation starts fast and slows down, so that small heads need no tables sent beforehand.
 * One multiplication per binary symbol; private to qfl_codec.
 */
#ifndef QFL_CODEC_RANGE_H
#define QFL_CODEC_RANGE_H

#include <stdint.h>

enum { RANGE_BITS = 12, RANGE_TOP = 1 << 24, RATE_MAX = 6 };

/* Probability of a 0, in 16 bits, and how often it has been adapted. */
typedef struct range_bit {
    uint16_t p;
    uint8_t n;
} range_bit;

static inline void range_bit_init(range_bit *b, uint32_t p)
{
    b->p = (uint16_t)p;
    b->n = 0;
}

static inline uint32_t range_split(const range_bit *b, uint32_t range)
{
    uint32_t p = b->p >> (16 - RANGE_BITS);
    p = p < 16 ? 16 : p > 4080 ? 4080 : p;
    return (range >> RANGE_BITS) * p;
}

static inline void range_adapt(range_bit *b, int bit)
{
    int rate = 1 + (b->n + 1) / 2; /* 1/2, 1/4, 1/4, 1/8 ... 1/64: the mean of what was seen, then a moving one */
    if (rate > RATE_MAX)
        rate = RATE_MAX;
    else
        b->n++;
    if (bit)
        b->p = (uint16_t)(b->p - (b->p >> rate));
    else
        b->p = (uint16_t)(b->p + ((65535 - b->p) >> rate));
}

typedef struct range_encoder {
    uint64_t low;
    uint32_t range, pending;
    uint8_t cache, started;
    uint8_t *out;
    uint32_t n, cap;
    int full;
} range_encoder;

static inline void range_put(range_encoder *e, uint8_t v)
{
    if (e->n == e->cap) {
        e->full = 1;
        return;
    }
    e->out[e->n++] = v;
}

static inline void range_shift(range_encoder *e)
{
    if ((uint32_t)e->low < 0xFF000000u || (e->low >> 32) != 0) {
        uint8_t carry = (uint8_t)(e->low >> 32);
        if (e->started)
            range_put(e, (uint8_t)(e->cache + carry));
        for (; e->pending != 0; e->pending--)
            range_put(e, (uint8_t)(0xFF + carry));
        e->started = 1;
        e->cache = (uint8_t)(e->low >> 24);
    } else {
        e->pending++;
    }
    e->low = (uint32_t)e->low << 8;
}

static inline void range_encode_init(range_encoder *e, uint8_t *out, uint32_t cap)
{
    e->low = 0;
    e->range = 0xFFFFFFFFu;
    e->pending = 0;
    e->cache = e->started = 0;
    e->out = out;
    e->n = 0;
    e->cap = cap;
    e->full = 0;
}

static inline void range_encode(range_encoder *e, range_bit *b, int bit)
{
    uint32_t split = range_split(b, e->range);
    if (bit) {
        e->low += split;
        e->range -= split;
    } else {
        e->range = split;
    }
    range_adapt(b, bit);
    while (e->range < RANGE_TOP) {
        e->range <<= 8;
        range_shift(e);
    }
}

static inline void range_encode_raw(range_encoder *e, int bit)
{
    e->range >>= 1;
    if (bit)
        e->low += e->range;
    while (e->range < RANGE_TOP) {
        e->range <<= 8;
        range_shift(e);
    }
}

/* Writes as few bytes as tell the interval apart when the decoder reads zeros after the end. */
static inline void range_encode_end(range_encoder *e)
{
    /* The number in [low, low + range) with the most zero bits at its end: its trailing zero bytes need not be sent. */
    uint64_t high = e->low + e->range - 1;
    for (int bits = 32; bits >= 0; bits -= 8) {
        uint64_t mask = ((uint64_t)1 << bits) - 1, v = high & ~mask;
        if (v >= e->low) {
            e->low = v;
            break;
        }
    }
    for (int i = 0; i < 5; i++)
        range_shift(e);
    while (e->n != 0 && e->out[e->n - 1] == 0 && !e->full)
        e->n--;
}

typedef struct range_decoder {
    uint32_t range, code;
    const uint8_t *in;
    uint32_t n, at;
} range_decoder;

/* Behind the end there are zeros. */
static inline uint8_t range_next(range_decoder *d)
{
    uint8_t v = 0;
    if (d->at < d->n)
        v = d->in[d->at];
    d->at++;
    return v;
}

static inline void range_decode_init(range_decoder *d, const uint8_t *in, uint32_t n)
{
    d->range = 0xFFFFFFFFu;
    d->code = 0;
    d->in = in;
    d->n = n;
    d->at = 0;
    for (int i = 0; i < 4; i++)
        d->code = d->code << 8 | range_next(d);
}

static inline int range_decode(range_decoder *d, range_bit *b)
{
    uint32_t split = range_split(b, d->range);
    int bit = d->code >= split;
    if (bit) {
        d->code -= split;
        d->range -= split;
    } else {
        d->range = split;
    }
    range_adapt(b, bit);
    while (d->range < RANGE_TOP) {
        d->range <<= 8;
        d->code = d->code << 8 | range_next(d);
    }
    return bit;
}

static inline int range_decode_raw(range_decoder *d)
{
    d->range >>= 1;
    int bit = d->code >= d->range;
    if (bit)
        d->code -= d->range;
    while (d->range < RANGE_TOP) {
        d->range <<= 8;
        d->code = d->code << 8 | range_next(d);
    }
    return bit;
}

#endif
