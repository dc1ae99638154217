/*
 * The three inner loops of training. Outputs are taken eight, four, two and one at a time so that sums stay in registers; each
 * output's sum runs over the inputs in ascending order whatever the block, so blocking does not change a bit.
 */
#include "qfl_head_dense.h"

static void forward8(const float *w, const float *x, float *y, uint32_t in, uint32_t stride)
{
    float a0 = y[0], a1 = y[1], a2 = y[2], a3 = y[3], a4 = y[4], a5 = y[5], a6 = y[6], a7 = y[7];
    for (const float *end = x + in; x != end; x++, w += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        a0 += v * w[0];
        a1 += v * w[1];
        a2 += v * w[2];
        a3 += v * w[3];
        a4 += v * w[4];
        a5 += v * w[5];
        a6 += v * w[6];
        a7 += v * w[7];
    }
    y[0] = a0;
    y[1] = a1;
    y[2] = a2;
    y[3] = a3;
    y[4] = a4;
    y[5] = a5;
    y[6] = a6;
    y[7] = a7;
}

static void forward4(const float *w, const float *x, float *y, uint32_t in, uint32_t stride)
{
    float a0 = y[0], a1 = y[1], a2 = y[2], a3 = y[3];
    for (const float *end = x + in; x != end; x++, w += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        a0 += v * w[0];
        a1 += v * w[1];
        a2 += v * w[2];
        a3 += v * w[3];
    }
    y[0] = a0;
    y[1] = a1;
    y[2] = a2;
    y[3] = a3;
}

static void forward2(const float *w, const float *x, float *y, uint32_t in, uint32_t stride)
{
    float a0 = y[0], a1 = y[1];
    QFL_HEAD_UNROLL
    for (const float *end = x + in; x != end; x++, w += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        a0 += v * w[0];
        a1 += v * w[1];
    }
    y[0] = a0;
    y[1] = a1;
}

static void forward1(const float *w, const float *x, float *y, uint32_t in, uint32_t stride)
{
    float a = y[0];
    for (uint32_t f = 0; f < in; f++, w += stride)
        if (x[f] != 0.0f)
            a += x[f] * w[0];
    y[0] = a;
}

void qfl_head_dense_forward(const float *w, const float *b, const float *x, float *y, uint32_t in, uint32_t out, int relu)
{
    uint32_t k = 0;
    for (uint32_t i = 0; i < out; i++)
        y[i] = b[i];
    for (; k + 8 <= out; k += 8)
        forward8(w + k, x, y + k, in, out);
    for (; k + 4 <= out; k += 4)
        forward4(w + k, x, y + k, in, out);
    for (; k + 2 <= out; k += 2)
        forward2(w + k, x, y + k, in, out);
    if (k < out)
        forward1(w + k, x, y + k, in, out);
    if (relu)
        for (uint32_t i = 0; i < out; i++)
            if (!(y[i] > 0.0f))
                y[i] = 0.0f;
}

/* Eight columns of the gradient; their errors stay in registers. Every element is its own sum, so blocks change no bit. */
static void gradient8(float *g, const float *x, const float *d, uint32_t in, uint32_t stride)
{
    float d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3], d4 = d[4], d5 = d[5], d6 = d[6], d7 = d[7];
    for (const float *end = x + in; x != end; x++, g += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        g[0] += v * d0;
        g[1] += v * d1;
        g[2] += v * d2;
        g[3] += v * d3;
        g[4] += v * d4;
        g[5] += v * d5;
        g[6] += v * d6;
        g[7] += v * d7;
    }
}

static void gradient4(float *g, const float *x, const float *d, uint32_t in, uint32_t stride)
{
    float d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
    for (const float *end = x + in; x != end; x++, g += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        g[0] += v * d0;
        g[1] += v * d1;
        g[2] += v * d2;
        g[3] += v * d3;
    }
}

static void gradient2(float *g, const float *x, const float *d, uint32_t in, uint32_t stride)
{
    float d0 = d[0], d1 = d[1];
    QFL_HEAD_UNROLL
    for (const float *end = x + in; x != end; x++, g += stride) {
        float v = *x;
        if (v == 0.0f)
            continue;
        g[0] += v * d0;
        g[1] += v * d1;
    }
}

void qfl_head_dense_gradient(float *grad_w, float *grad_b, const float *x, const float *d, uint32_t in, uint32_t out)
{
    uint32_t k = 0;
    for (; k + 8 <= out; k += 8)
        gradient8(grad_w + k, x, d + k, in, out);
    for (; k + 4 <= out; k += 4)
        gradient4(grad_w + k, x, d + k, in, out);
    for (; k + 2 <= out; k += 2)
        gradient2(grad_w + k, x, d + k, in, out);
    if (k < out)
        for (uint32_t f = 0; f < in; f++)
            if (x[f] != 0.0f)
                grad_w[f * out + k] += x[f] * d[k];
    for (k = 0; k < out; k++)
        grad_b[k] += d[k];
}

void qfl_head_dense_back(const float *w, float *x, const float *d, uint32_t in, uint32_t out)
{
    for (uint32_t f = 0; f < in; f++, w += out) {
        float s = 0.0f;
        if (x[f] > 0.0f)
            for (uint32_t k = 0; k < out; k++)
                s += w[k] * d[k];
        x[f] = s;
    }
}
