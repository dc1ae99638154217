/*
 * DZ: dead-zone uniform quantiser, symbols by an adaptive range coder. symbol = sign(x) * floor(|x| / step + 1/2),
 * value = symbol * step. The step is one of a grid of four per octave, m * 2^e with m in 4..7, so that every value is exact
 * in float32 and sums of values of different rounds are too.
 *
 * In the delta of a dense layer, kernel [in][out], column k carries the error of class k and row f the activity of feature f:
 * whether a symbol is zero is told by its neighbours to the left and above, its sign (features after a ReLU are not
 * negative) by the last sign above.
 */
#include <string.h>

#include "qfl_codec_internal.h"
#include "qfl_codec_range.h"

enum { HEADER = 2, STEP_BIAS = 40, STEPS = 256, UNARY = 14, GOLOMB_BITS = 24, SIGN_ROWS = 6 };

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
    return code;
}

int32_t qfl_codec_dz_symbol(float x, float step)
{
    float t = (x < 0.0f ? -x : x) / step + 0.5f;
    int32_t s = t < 16777216.0f ? (int32_t)t : 16777216;
    return x < 0.0f ? -s : s;
}

/* Adaptive state of one delta. */
typedef struct model {
    range_bit zero[2][3][3]; /* by kind of tensor, nonzeros among the two to the left, among the two above */
    range_bit sign[3];       /* no sign above, plus, minus */
    range_bit more[2][UNARY];/* another unit of magnitude; by whether the neighbourhood is busy */
    range_bit golomb[GOLOMB_BITS], raw;
} model;

static void model_init(model *m)
{
    static const uint16_t start[3][3] = {{63000, 56000, 50000}, {56000, 46000, 40000}, {50000, 40000, 32000}};
    for (uint32_t t = 0; t < 2; t++)
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t j = 0; j < 3; j++)
                range_bit_init(&m->zero[t][i][j], start[i][j]);
    range_bit_init(&m->sign[0], 32768);
    range_bit_init(&m->sign[1], 45000);
    range_bit_init(&m->sign[2], 20000);
    for (uint32_t i = 0; i < UNARY; i++) {
        range_bit_init(&m->more[0][i], i == 0 ? 56000 : 44000);
        range_bit_init(&m->more[1][i], i == 0 ? 50000 : 40000);
    }
    for (uint32_t i = 0; i < GOLOMB_BITS; i++)
        range_bit_init(&m->golomb[i], 32768);
}

/* Where element i of a tensor of rows of `row` elements stands. */
typedef struct place {
    uint32_t tensor, left, above;
    int sign;
} place;

/* nz(j) and sg(j): whether element j (before i) is not zero, and whether it is negative. */
typedef struct seen {
    const float *x;
    float step; /* 0: x holds decoded values; else values to be quantised by it */
} seen;

static int32_t look(const seen *s, uint32_t j)
{
    if (s->step != 0.0f)
        return qfl_codec_dz_symbol(s->x[j], s->step);
    return s->x[j] > 0.0f ? 1 : s->x[j] < 0.0f ? -1 : 0;
}

static place find_place(const seen *s, uint32_t i, uint32_t row, uint32_t tensor)
{
    place p = {tensor, 0, 0, 0};
    uint32_t column = i % row;
    for (uint32_t d = 1; d <= 2 && d <= column; d++)
        p.left += look(s, i - d) != 0;
    for (uint32_t d = 1, j = i; d <= SIGN_ROWS && j >= row; d++) {
        j -= row;
        int32_t v = look(s, j);
        if (d <= 2)
            p.above += v != 0;
        if (v != 0 && p.sign == 0)
            p.sign = v > 0 ? 1 : 2;
        if (d >= 2 && p.sign != 0)
            break;
    }
    return p;
}

static void encode_symbol(range_encoder *e, model *m, const place *p, int32_t symbol)
{
    range_encode(e, &m->zero[p->tensor][p->left][p->above], symbol != 0);
    if (symbol == 0)
        return;
    range_encode(e, &m->sign[p->sign], symbol < 0);
    uint32_t rest = (uint32_t)(symbol < 0 ? -symbol : symbol) - 1, i = 0;
    range_bit *more = m->more[p->left + p->above > 1];
    for (; i < UNARY && rest != 0; i++, rest--)
        range_encode(e, &more[i], 1);
    if (i < UNARY) {
        range_encode(e, &more[i], 0);
        return;
    }
    /* Exp-Golomb for what is left. */
    uint32_t bits = 0;
    while (rest + 1 >= 2u << bits)
        bits++;
    for (uint32_t k = 0; k < bits; k++)
        range_encode(e, &m->golomb[k], 1);
    range_encode(e, &m->golomb[bits], 0);
    for (uint32_t k = bits; k-- > 0;) {
        range_bit_init(&m->raw, 32768);
        range_encode(e, &m->raw, (int)((rest + 1) >> k & 1u));
    }
}

/* Returns the magnitude's excess over 1, or -1 when it is larger than any encoder writes. */
static int32_t decode_magnitude(range_decoder *d, model *m, const place *p)
{
    range_bit *more = m->more[p->left + p->above > 1];
    uint32_t i = 0, bits = 0, v = 1;
    while (i < UNARY && range_decode(d, &more[i]))
        i++;
    if (i < UNARY)
        return (int32_t)i;
    while (range_decode(d, &m->golomb[bits]))
        if (++bits == GOLOMB_BITS)
            return -1;
    for (uint32_t k = 0; k < bits; k++) {
        range_bit_init(&m->raw, 32768);
        v = v << 1 | (uint32_t)range_decode(d, &m->raw);
    }
    return (int32_t)(UNARY + v - 1);
}

/* Elements per row of tensor t: a kernel is followed by its bias, one value per column. */
static uint32_t row_of(const qfl_codec_layout *layout, uint32_t t)
{
    uint32_t next = t % 2 == 0 && t + 1 < layout->tensors ? layout->size[t + 1] : 0;
    return next != 0 && layout->size[t] % next == 0 ? next : layout->size[t];
}

qfl_status qfl_codec_dz_encode(const qfl_codec_layout *layout, const float *x, uint32_t code, uint8_t *out, uint32_t cap,
                               uint32_t *size)
{
    range_encoder e;
    model m;
    uint32_t values = qfl_codec_values(layout), any = 0;
    *size = 0;
    if (values == 0 || code >= STEPS)
        return QFL_E_INVAL;
    if (!qfl_codec_finite(x, values))
        return QFL_E_NONFINITE;
    if (cap < HEADER)
        return QFL_E_NOMEM;
    float step = qfl_codec_dz_value(code);
    for (uint32_t i = 0; i < values && !any; i++)
        any = qfl_codec_dz_symbol(x[i], step) != 0;
    out[0] = QFL_CODEC_DZ;
    if (!any) { /* nothing to say */
        *size = 1;
        return QFL_OK;
    }
    out[1] = (uint8_t)code;
    model_init(&m);
    range_encode_init(&e, out + HEADER, cap - HEADER);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        uint32_t row = row_of(layout, t);
        seen s = {x, step};
        for (uint32_t i = 0; i < layout->size[t]; i++) {
            place p = find_place(&s, i, row, t % 2);
            encode_symbol(&e, &m, &p, qfl_codec_dz_symbol(x[i], step));
        }
        x += layout->size[t];
    }
    range_encode_end(&e);
    if (e.full)
        return QFL_E_NOMEM;
    *size = HEADER + e.n;
    return QFL_OK;
}

qfl_status qfl_codec_dz_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x)
{
    range_decoder d;
    model m;
    uint32_t values = qfl_codec_values(layout);
    if (in[0] != QFL_CODEC_DZ)
        return QFL_E_FORMAT;
    if (n == 1) {
        for (uint32_t i = 0; i < values; i++)
            x[i] = 0.0f;
        return QFL_OK;
    }
    float step = qfl_codec_dz_value(in[1]);
    if (n > HEADER && in[n - 1] == 0)
        return QFL_E_FORMAT; /* an encoder drops zeros at the end */
    model_init(&m);
    range_decode_init(&d, in + HEADER, n - HEADER);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        uint32_t row = row_of(layout, t);
        seen s = {x, 0.0f};
        for (uint32_t i = 0; i < layout->size[t]; i++) {
            place p = find_place(&s, i, row, t % 2);
            x[i] = 0.0f;
            if (!range_decode(&d, &m.zero[p.tensor][p.left][p.above]))
                continue;
            int negative = range_decode(&d, &m.sign[p.sign]);
            int32_t more = decode_magnitude(&d, &m, &p);
            if (more < 0)
                return QFL_E_FORMAT;
            x[i] = (float)(more + 1) * step;
            if (negative)
                x[i] = -x[i];
        }
        x += layout->size[t];
    }
    return d.at >= d.n ? QFL_OK : QFL_E_FORMAT; /* bytes that nothing asked for */
}
