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

void qfl_codec_dz_feed_back(float *x, uint32_t n, const int8_t *residual, float step, float keep)
{
    float unit = step * keep / (float)QFL_CODEC_RESIDUAL;
    for (uint32_t i = 0; i < n; i++)
        x[i] += (float)residual[i] * unit;
}

void qfl_codec_dz_centre(float *x, uint32_t n, uint32_t columns)
{
    for (const float *end = x + n; x != end;) {
        float sum = 0.0f;
        for (uint32_t k = 0; k < columns; k++)
            sum += x[k];
        sum /= (float)columns;
        for (uint32_t k = 0; k < columns; k++)
            *x++ -= sum;
    }
}

int32_t qfl_codec_dz_symbol(float x, float step)
{
    float t = (x < 0.0f ? -x : x) / step + 0.5f;
    int32_t s = t < (float)LARGEST ? (int32_t)t : LARGEST;
    return x < 0.0f ? -s : s;
}

int32_t *qfl_codec_dz_quantise(float *x, uint32_t n, uint32_t code, int8_t *residual)
{
    const uint32_t sign = 0x80000000u, a_half = 0x3F000000u;
    float step = qfl_codec_dz_value(code), most = step * (float)(LARGEST - 1);
    uint32_t limit, bits;
    memcpy(&limit, &most, 4);
    for (uint32_t i = 0; i < n; i++) {
        float v = x[i], t = v / step, half;
        int32_t s;
        memcpy(&bits, &v, 4);
        if ((bits & ~sign) < limit) { /* magnitudes compare as integers do */
            uint32_t signed_half = (bits & sign) | a_half;
            memcpy(&half, &signed_half, 4);
            s = (int32_t)(t + half);
            if (residual != NULL)
                residual[i] = (int8_t)((int32_t)((t - (float)s) * (float)QFL_CODEC_RESIDUAL + 127.5f) - 127);
        } else {
            s = bits & sign ? -LARGEST : LARGEST;
            if (residual != NULL)
                residual[i] = bits & sign ? -127 : 127;
        }
        memcpy(&x[i], &s, 4);
    }
    return (int32_t *)(void *)x;
}
