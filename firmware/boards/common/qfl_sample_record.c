#include "qfl_sample_record.h"

#include "qfl_bytes.h"

enum { MAGIC0 = 0xA5, MAGIC1 = 0x5A, HEAD = 8 };

static int32_t read_head(qfl_sample_reader *r, qfl_sample_source read, void *ctx, uint32_t n)
{
    while (r->head_n < HEAD) {
        uint8_t c;
        if (read(ctx, &c, 1) != 1)
            return 0;
        if ((r->head_n == 0 && c != MAGIC0) || (r->head_n == 1 && c != MAGIC1)) {
            r->head_n = c == MAGIC0 ? 1 : 0;
            continue;
        }
        r->head[r->head_n++] = c;
    }
    r->label = qfl_get16(r->head + 2);
    r->left = qfl_get32(r->head + 4);
    r->skipping = r->left != n;
    if (r->skipping) {
        r->lost++;
        if (r->left > (1u << 24)) { /* no sample is so long: a damaged head; look for the next one */
            r->head_n = 0;
            r->left = 0;
            return -1;
        }
    }
    return 1;
}

int32_t qfl_sample_next(qfl_sample_reader *r, qfl_sample_source read, void *ctx, int8_t *x, uint32_t n,
                        uint16_t *label)
{
    uint8_t waste[64];
    for (;;) {
        if (r->head_n < HEAD) {
            int32_t got = read_head(r, read, ctx, n);
            if (got == 0)
                return 0;
            if (got < 0)
                continue;
        }
        while (r->left != 0) {
            uint32_t want = r->skipping && r->left > sizeof waste ? sizeof waste : r->left;
            uint32_t got = read(ctx, r->skipping ? waste : (uint8_t *)x + (n - r->left), want);
            if (got == 0)
                return 0;
            r->left -= got;
        }
        r->head_n = 0;
        if (!r->skipping) {
            *label = r->label;
            return 1;
        }
    }
}
