/* The range coder: one bit, and bytes. docs/CODEC.md tells what a reader does. */
#include "qfl_codec_range.h"

void range_bits_init(range_bit *b, uint32_t count, const uint16_t *p, uint32_t known)
{
    for (uint32_t i = 0; i < count; i++)
        b[i] = (uint32_t)p[i < known ? i : known - 1] << 16 | RATE_FIRST;
}

void range_write_init(range_coder *c, uint8_t *out, uint32_t cap)
{
    c->value = 0;
    c->range = 0xFFFFFFFFu;
    c->out = out;
    c->in = NULL;
    c->at = c->full = 0;
    c->end = cap;
}

void range_settle(range_coder *c, uint32_t carry)
{
    /* The interval lies below 1, so a carry never goes beyond the first byte, unless bytes are missing because it was full. */
    for (uint32_t i = c->at; carry != 0 && i != 0 && !c->full;)
        carry = ++c->out[--i] == 0;
    uint32_t value = c->value, range = c->range;
    for (; range < RANGE_TOP; range <<= 8, value <<= 8) {
        uint32_t at = c->at;
        if (at < c->end) {
            c->out[at] = (uint8_t)(value >> 24);
            c->at = at + 1;
        } else {
            c->full = 1;
        }
    }
    c->value = value;
    c->range = range;
}

/* Takes bytes in until the range is large enough again. */
static void take(range_coder *c)
{
    for (; c->range < RANGE_TOP; c->range <<= 8) {
        c->value = c->value << 8 | (c->at < c->end ? c->in[c->at] : 0);
        c->at++;
    }
}

void range_read_init(range_coder *c, const uint8_t *in, uint32_t n)
{
    range_write_init(c, NULL, n);
    c->in = in;
    for (uint32_t i = 0; i < 4; i++) {
        c->range = RANGE_TOP - 1;
        take(c);
    }
    c->range = 0xFFFFFFFFu;
}

void range_write(range_coder *c, range_bit *b, uint32_t bit)
{
    if (bit)
        range_write_one(c, b);
    else
        range_write_zero(c, b);
}

uint32_t range_read(range_coder *c, range_bit *b)
{
    uint32_t split = range_split(c->range, *b), bit = c->value >= split;
    *b = range_adapted(*b, bit);
    if (bit) {
        c->value -= split;
        c->range -= split;
    } else {
        c->range = split;
    }
    take(c);
    return bit;
}

uint32_t range_code_raw(range_coder *c, uint32_t v, uint32_t count)
{
    uint32_t read = 0;
    while (count-- != 0) {
        uint32_t bit = v >> count & 1;
        c->range >>= 1;
        if (c->in != NULL) {
            bit = c->value >= c->range;
            c->value -= bit ? c->range : 0;
            take(c);
        } else {
            uint32_t value = c->value;
            c->value = value + (bit ? c->range : 0);
            range_settle(c, c->value < value);
        }
        read = read << 1 | bit;
    }
    return read;
}

void range_write_end(range_coder *c)
{
    /* The number in [value, value + range) with the most zero bits at its end: its trailing zero bytes need not be sent. */
    uint32_t mask = 0xFFFFFFFFu, high = c->value + (c->range - 1), carry = high < c->value;
    while (!carry && (high & ~mask) < c->value)
        mask >>= 8;
    c->value = carry ? 0 : high & ~mask; /* 2^32 lies within */
    for (uint32_t i = 0; i < 4 && (carry || c->value != 0); i++, carry = 0) {
        c->range = RANGE_TOP - 1;
        range_settle(c, carry);
    }
    while (c->at != 0 && c->out[c->at - 1] == 0 && !c->full)
        c->at--;
}
