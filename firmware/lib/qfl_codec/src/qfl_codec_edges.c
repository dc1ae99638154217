/* Where the buckets of BQ begin and end. */
#include <string.h>

#include "qfl_bytes.h"
#include "qfl_codec_internal.h"

/* Order of floats as unsigned numbers; -0 and +0 are told apart, which quantiles do not mind. */
static uint32_t order_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u >> 31 ? ~u : u | 0x80000000u;
}

static float float_of(uint32_t order)
{
    uint32_t u = order >> 31 ? order & 0x7FFFFFFFu : ~order;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* The value of rank `rank` (0: the smallest) among n, by bisection: 32 passes and no memory. */
static float ranked(const float *x, uint32_t n, uint32_t rank)
{
    uint32_t lo = 0, hi = 0xFFFFFFFFu;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2, below = 0;
        for (uint32_t i = 0; i < n; i++)
            below += order_of(x[i]) <= mid;
        if (below > rank)
            hi = mid;
        else
            lo = mid + 1;
    }
    return float_of(lo);
}

void qfl_codec_quantile_edges(const float *x, uint32_t n, uint32_t levels, uint8_t *edges)
{
    for (uint32_t i = 0; i <= levels; i++) {
        uint32_t rank = (uint32_t)((uint64_t)i * n / levels);
        float e = ranked(x, n, rank < n ? rank : n - 1);
        qfl_put_float(edges + 4 * i, e);
    }
}
