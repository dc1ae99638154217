/*
 * exp and log in single precision without libm: range reduction by ln 2 in two parts (Cody and Waite) and the
 * polynomials of Cephes expf and logf (Moshier). Every operation is a plain IEEE addition or multiplication in written
 * order, so all processors give the same bits.
 */
#include <string.h>

#include "qfl_head.h"
#include "qfl_head_layers.h"

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float exp_of(float x) /* of x <= 0 */
{
    if (!(x > -87.3f)) /* NaN too */
        return 0.0f;
    float t = x * 1.44269504f - 0.5f; /* x <= 0: truncation of t rounds x / ln 2 to nearest */
    int32_t n = (int32_t)t;
    float fn = (float)n;
    float r = x - fn * 0.693359375f;
    r = r - fn * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    return p * from_bits((uint32_t)(n + 127) << 23);
}

float qfl_head_exp(float x) { return exp_of(x > 0.0f ? 0.0f : x); }

float qfl_head_exp_sum(float *z, uint32_t n, float max)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        float x = z[i] - max;
        z[i] = x == 0.0f ? 1.0f : exp_of(x); /* the same, sooner, for the largest */
        sum += z[i];
    }
    return sum;
}

float qfl_head_log(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    int32_t e = (int32_t)(u >> 23 & 0xFFu) - 126;
    float m = from_bits((u & 0x7FFFFFu) | 0x3F000000u); /* [0.5, 1) */
    if (m < 0.707106781f) {
        e -= 1;
        m = m + m - 1.0f;
    } else {
        m = m - 1.0f;
    }
    float z = m * m, fe = (float)e;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z;
    p = p + fe * -2.12194440e-4f;
    p = p - 0.5f * z;
    return (m + p) + fe * 0.693359375f;
}
