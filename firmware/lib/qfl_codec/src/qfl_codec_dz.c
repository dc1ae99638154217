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

int32_t qfl_codec_dz_symbol(float x, float step)
{
    float t = (x < 0.0f ? -x : x) / step + 0.5f;
    int32_t s = t < (float)LARGEST ? (int32_t)t : LARGEST;
    return x < 0.0f ? -s : s;
}

int32_t *qfl_codec_dz_quantise(float *x, uint32_t n, uint32_t code, int8_t *residual)
{
    float step = qfl_codec_dz_value(code);
    for (uint32_t i = 0; i < n; i++) {
        float v = x[i], away = (v < 0.0f ? -v : v) / step;
        if (away + 0.5f < 1.0f) { /* most values: the same as below, in fewer steps */
            uint32_t zero = 0;
            if (residual != NULL) {
                int32_t q = (int32_t)(away * (float)QFL_CODEC_RESIDUAL + 0.5f);
                residual[i] = (int8_t)(v < 0.0f ? -q : q);
            }
            memcpy(&x[i], &zero, 4);
            continue;
        }
        int32_t s = qfl_codec_dz_symbol(v, step);
        if (residual != NULL) {
            float r = (v - (float)s * step) / step * (float)QFL_CODEC_RESIDUAL;
            int32_t q = r >= 127.0f ? 127 : r <= -127.0f ? -127 : (int32_t)(r < 0.0f ? r - 0.5f : r + 0.5f);
            residual[i] = (int8_t)q;
        }
        memcpy(&x[i], &s, 4);
    }
    return (int32_t *)(void *)x;
}
