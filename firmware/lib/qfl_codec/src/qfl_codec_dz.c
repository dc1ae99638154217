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

/*
 * Replaces *x by the symbol of *x - less, of magnitude `most` at most; what it loses goes to *residual. limit: a magnitude between most
 * and most + 1/2 steps, as an integer, twice.
 */
static inline void quantise(float *x, float less, float step, int32_t most, uint32_t limit, int8_t *residual)
{
    const uint32_t sign = 0x80000000u, a_half = 0x3F000000u;
    const float whole =
        12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to an integer, which its lowest bits are */
    float v = *x - less, t = v / step, half, lost;
    uint32_t bits, signed_half;
    int32_t s, kept;
    memcpy(&bits, &v, 4);
    if (bits << 1 >= limit) { /* magnitudes compare as integers do */
        s = bits & sign ? -most : most;
        lost = (t - (float)s) * (float)QFL_CODEC_RESIDUAL;
        lost = lost > 127.0f ? 127.0f : lost < -127.0f ? -127.0f : lost;
    } else {
        signed_half = (bits & sign) | a_half;
        memcpy(&half, &signed_half, 4);
        s = (int32_t)(t + half);
        lost = (t - (float)s) * (float)QFL_CODEC_RESIDUAL;
    }
    lost += whole;
    memcpy(&kept, &lost, 4);
#ifdef __GNUC__
    __asm__(
        ""
        : "+r"(
            kept)); /* GCC would fetch its lowest byte through memory, an instruction more on a Cortex-M4 */
#endif
    memcpy(x, &s, 4);
    *residual = (int8_t)(uint8_t)kept;
}

/* The same for the n floats from x on. residual: NULL: one byte takes what nobody wants, and magnitudes go up to LARGEST. */
static QFL_APART void quantise_row(float *x, uint32_t n, float less, float step, int8_t *residual)
{
    int8_t dropped, *to = residual != NULL ? residual : &dropped;
    int32_t most = residual != NULL ? QFL_CODEC_FED : LARGEST;
    float edge = step * ((float)most + 0.25f);
    uint32_t limit;
    memcpy(&limit, &edge, 4);
    for (float *end = x + n; x != end; x++, to += residual != NULL)
        quantise(x, less, step, most, limit << 1, to);
}

int32_t *qfl_codec_dz_quantise(float *x, uint32_t n, uint32_t code, int8_t *residual)
{
    quantise_row(x, n, 0.0f, qfl_codec_dz_value(code), residual);
    return (int32_t *)(void *)x;
}

void qfl_codec_dz_with_feedback(float *x, uint32_t n, uint32_t columns, int8_t *residual, float unit,
                                uint32_t code)
{
    float step = qfl_codec_dz_value(code), part = unit / (float)QFL_CODEC_RESIDUAL;
    uint32_t row = columns != 0 ? columns : n;
    for (float *end = x + n; x != end; x += row, residual += row) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < row; i++) {
            float v = x[i] + (float)residual[i] * part;
            x[i] = v;
            sum += v;
        }
        quantise_row(x, row, columns != 0 ? sum / (float)columns : 0.0f, step, residual);
    }
}
