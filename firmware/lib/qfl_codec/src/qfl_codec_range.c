/* The range coder: one bit, and bytes. docs/CODEC.md tells what a reader does. */
#include "qfl_codec_range.h"
#include "qfl_options.h"

QFL_COLD void range_bits_init(range_bit *b, uint32_t count, const uint16_t *p, uint32_t known)
{
    for (uint32_t i = 0; i < count; i++)
        b[i] = (uint32_t)p[i < known ? i : known - 1] << 16 | WARM_UP;
}

QFL_APART void range_warm(range_bit *b, uint32_t bit)
{
    uint32_t turn = bit - 1, turned = *b ^ turn, rate = (2 * RATE_LAST - (*b & 15)) >> 1;
    *b = ((turned - (turned >> 16 >> rate << 16)) ^ turn) - 1;
}

QFL_COLD void range_write_init(range_coder *c, uint8_t *out, uint32_t cap)
{
    c->now.value = 0;
    c->now.range = 0xFFFFFFFFu;
    c->out = out;
    c->in = NULL;
    c->at = c->full = 0;
    c->end = cap;
}

QFL_APART void range_carry(range_coder *c)
{
    /* The interval lies below 1, so a carry never goes beyond the first byte, unless bytes are missing because it was full. */
    for (uint32_t i = c->at; i != 0 && !c->full;)
        if (++c->out[--i] != 0)
            return;
}

QFL_APART uint64_t range_put(range_coder *c, uint32_t value, uint32_t range)
{
    for (; range < RANGE_TOP; range <<= 8, value <<= 8) {
        if (c->at < c->end)
            c->out[c->at++] = (uint8_t)(value >> 24);
        else
            c->full = 1;
    }
    return (uint64_t)range << 32 | value;
}

QFL_APART void range_take(range_coder *c)
{
    for (; c->now.range < RANGE_TOP; c->now.range <<= 8) {
        c->now.value = c->now.value << 8 | (c->at < c->end ? c->in[c->at] : 0);
        c->at++;
    }
}

QFL_COLD void range_read_init(range_coder *c, const uint8_t *in, uint32_t n)
{
    range_write_init(c, NULL, n);
    c->in = in;
    for (uint32_t i = 0; i < 4; i++) {
        c->now.range = RANGE_TOP - 1;
        range_take(c);
    }
    c->now.range = 0xFFFFFFFFu;
}

QFL_APART uint32_t range_read(range_coder *c, range_bit *b)
{
    range_bit before = *b;
    uint32_t split = (c->now.range >> 12) * (before >> 20), bit = c->now.value >= split;
    if (bit) {
        c->now.value -= split;
        c->now.range -= split;
    } else {
        c->now.range = split;
    }
    range_adapt(b, before, bit);
    if (c->now.range < RANGE_TOP)
        range_take(c);
    return bit;
}

uint32_t range_code(range_coder *c, range_bit *b, uint32_t bit)
{
    if (c->in != NULL)
        return range_read(c, b);
    range_step(c, &c->now, b, bit);
    return bit;
}

QFL_COLD uint32_t range_code_raw(range_coder *c, uint32_t v, uint32_t count)
{
    uint32_t read = 0;
    while (count-- != 0) {
        uint32_t bit = v >> count & 1, half = c->now.range >> 1;
        c->now.range = half;
        if (c->in != NULL) {
            bit = c->now.value >= half;
            c->now.value -= bit ? half : 0;
            range_take(c);
        } else {
            if (bit && (c->now.value += half) < half)
                range_carry(c);
            range_settle(c, &c->now);
        }
        read = read << 1 | bit;
    }
    return read;
}

QFL_COLD void range_write_end(range_coder *c)
{
    /* The number in [value, value + range) with the most zero bits at its end: its trailing zero bytes need not be sent. */
    uint32_t mask = 0xFFFFFFFFu, value = c->now.value, high = value + (c->now.range - 1),
             carry = high < value;
    while (!carry && (high & ~mask) < value)
        mask >>= 8;
    value = carry ? 0 : high & ~mask; /* 2^32 lies within */
    for (uint32_t i = 0; i < 4 && (carry || value != 0); i++, carry = 0) {
        if (carry)
            range_carry(c);
        value = (uint32_t)range_put(c, value, RANGE_TOP - 1);
    }
    while (c->at != 0 && c->out[c->at - 1] == 0 && !c->full)
        c->at--;
}
