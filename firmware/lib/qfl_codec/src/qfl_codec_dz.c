/*
 * DZ: dead-zone uniform quantiser. symbol = sign(x) * floor(|x| / step + 1/2), value = symbol * step. The step is one of a
 * grid of four per octave, m * 2^e with m in 4..7, so that every value is exact in float32 and sums of values of different
 * rounds are too. The symbols' bytes: qfl_codec_dz_coder.c.
 */
#include <string.h>

#include "qfl_codec_internal.h"

enum { STEP_BIAS = 40, LARGEST = 1 << 24 };

float qfl_codec_dz_value(uint32_t code)
{
    uint32_t bits = (code / 4 + 127u - STEP_BIAS) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return (float)(4 + code % 4) * power;
}

uint32_t qfl_codec_dz_step(const float *x, uint32_t n, uint32_t sixteenths)
{
    float sum = 0.0f, k = (float)sixteenths / 16.0f;
    uint32_t code = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    float square = k * k * (sum / (float)n);
    /* The largest step whose square is not above k^2 * mean(x^2): no square root, and the same choice everywhere. */
    for (uint32_t bit = 128; bit != 0; bit /= 2) {
        float s = qfl_codec_dz_value(code + bit);
        if (s * s <= square)
            code += bit;
    }
    return code != 0 ? code : 1;
}

int32_t qfl_codec_dz_symbol(float x, float step)
{
    float t = (x < 0.0f ? -x : x) / step + 0.5f;
    int32_t s = t < (float)LARGEST ? (int32_t)t : LARGEST;
    return x < 0.0f ? -s : s;
}

/* The symbol of x - less; what it loses goes to *residual, unless that is NULL. limit: of magnitudes, as an integer. */
static inline int32_t quantise(float x, float less, float step, uint32_t limit, int8_t *residual)
{
    const uint32_t sign = 0x80000000u, a_half = 0x3F000000u;
    const float whole = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to an integer, which its lowest bits are */
    float v = x - less, t = v / step, half, lost;
    uint32_t bits, signed_half;
    memcpy(&bits, &v, 4);
    if ((bits & ~sign) >= limit) { /* magnitudes compare as integers do */
        if (residual != NULL)
            *residual = bits & sign ? -127 : 127;
        return bits & sign ? -LARGEST : LARGEST;
    }
    signed_half = (bits & sign) | a_half;
    memcpy(&half, &signed_half, 4);
    int32_t s = (int32_t)(t + half);
    lost = (t - (float)s) * (float)QFL_CODEC_RESIDUAL + whole;
    memcpy(&bits, &lost, 4);
    if (residual != NULL)
        *residual = (int8_t)(uint8_t)bits;
    return s;
}

static uint32_t limit_of(float step)
{
    float most = step * (float)LARGEST;
    uint32_t limit;
    memcpy(&limit, &most, 4);
    return limit;
}

int32_t *qfl_codec_dz_quantise(float *x, uint32_t n, uint32_t code, int8_t *residual)
{
    float step = qfl_codec_dz_value(code);
    uint32_t limit = limit_of(step);
    for (uint32_t i = 0; i < n; i++) {
        int32_t s = quantise(x[i], 0.0f, step, limit, residual != NULL ? &residual[i] : NULL);
        memcpy(&x[i], &s, 4);
    }
    return (int32_t *)(void *)x;
}

void qfl_codec_dz_with_feedback(float *x, uint32_t n, uint32_t columns, int8_t *residual, float kept, uint32_t code)
{
    float step = qfl_codec_dz_value(code), unit = kept / (float)QFL_CODEC_RESIDUAL;
    uint32_t limit = limit_of(step), row = columns != 0 ? columns : n;
    for (float *end = x + n; x != end; x += row, residual += row) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < row; i++) {
            float v = x[i] + (float)residual[i] * unit;
            x[i] = v;
            sum += v;
        }
        sum = columns != 0 ? sum / (float)columns : 0.0f;
        for (uint32_t i = 0; i < row; i++) {
            int32_t s = quantise(x[i], sum, step, limit, &residual[i]);
            memcpy(&x[i], &s, 4);
        }
    }
}
