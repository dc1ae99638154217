/* The range coder: one bit, and bytes. docs/CODEC.md tells what a reader does. */
#include "qfl_codec_range.h"

void range_bits_init(range_bit *b, uint32_t count, const uint16_t *p, uint32_t known)
{
    for (uint32_t i = 0; i < count; i++) {
        b[i].p = p[i < known ? i : known - 1];
        b[i].rate = RATE_FIRST;
    }
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
    for (; c->range < RANGE_TOP; c->range <<= 8) {
        uint32_t at = c->at, in = 0;
        if (c->in != NULL) {
            c->at++;
            if (at < c->end)
                in = c->in[at];
        } else if (at < c->end) {
            c->out[at] = (uint8_t)(c->value >> 24);
            c->at++;
        } else {
            c->full = 1;
        }
        c->value = c->value << 8 | in;
    }
}

void range_read_init(range_coder *c, const uint8_t *in, uint32_t n)
{
    range_write_init(c, NULL, n);
    c->in = in;
    for (uint32_t i = 0; i < 4; i++) {
        c->range = RANGE_TOP - 1;
        range_settle(c, 0);
    }
    c->range = 0xFFFFFFFFu;
}

void range_write(range_coder *c, range_bit *b, uint32_t bit)
{
    uint32_t p = b->p, rate = b->rate, range = c->range, split = (range >> 12) * (p >> 4), carry = 0;
    if (rate != RATE_LAST)
        b->rate = (uint16_t)(rate + 1);
    if (bit) {
        uint32_t value = c->value + split;
        carry = value < split;
        c->value = value;
        split = range - split;
        b->p = (uint16_t)(p - (p >> (rate >> 1)));
    } else {
        b->p = (uint16_t)(p + ((65535u - p) >> (rate >> 1)));
    }
    c->range = split;
    if (carry || split < RANGE_TOP)
        range_settle(c, carry);
}

uint32_t range_read(range_coder *c, range_bit *b)
{
    uint32_t p = b->p, rate = b->rate, split = (c->range >> 12) * (p >> 4), bit = c->value >= split;
    if (rate != RATE_LAST)
        b->rate = (uint16_t)(rate + 1);
    if (bit) {
        c->value -= split;
        c->range -= split;
        b->p = (uint16_t)(p - (p >> (rate >> 1)));
    } else {
        c->range = split;
        b->p = (uint16_t)(p + ((65535u - p) >> (rate >> 1)));
    }
    range_settle(c, 0);
    return bit;
}

uint32_t range_code_raw(range_coder *c, uint32_t v, uint32_t count)
{
    uint32_t read = 0;
    while (count-- != 0) {
        uint32_t bit = v >> count & 1, carry = 0;
        c->range >>= 1;
        if (c->in != NULL)
            bit = c->value >= c->range;
        if (bit && c->in != NULL)
            c->value -= c->range;
        else if (bit)
            carry = (c->value += c->range) < c->range;
        range_settle(c, carry);
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
