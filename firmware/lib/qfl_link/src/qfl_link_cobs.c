/* Consistent Overhead Byte Stuffing: no zero inside a frame, at most one byte more per 254. */
#include "qfl_link.h"

uint32_t qfl_link_cobs_encode(const uint8_t *in, uint32_t n, uint8_t *out)
{
    uint32_t code_at = 0, w = 1;
    uint8_t code = 1;
    for (uint32_t i = 0; i < n; i++) {
        if (in[i] != 0) {
            out[w++] = in[i];
            code++;
        }
        /* A full group of 254 needs a new code byte only when bytes follow. */
        if (in[i] == 0 || (code == 0xFF && i + 1 < n)) {
            out[code_at] = code;
            code_at = w++;
            code = 1;
        }
    }
    out[code_at] = code;
    return w;
}

int32_t qfl_link_cobs_decode(uint8_t *buf, uint32_t n)
{
    uint32_t r = 0, w = 0;
    if (n == 0)
        return -1;
    while (r < n) {
        uint8_t code = buf[r++];
        if (code == 0 || (uint32_t)(code - 1) > n - r)
            return -1;
        for (uint8_t i = 1; i < code; i++) {
            if (buf[r] == 0)
                return -1;
            buf[w++] = buf[r++];
        }
        if (code != 0xFF && r < n)
            buf[w++] = 0;
    }
    return (int32_t)w;
}
