/*
 * Bytes of a DZ delta: its form, then the symbols through an adaptive binary range coder.
 *
 * In the delta of a dense layer, kernel [in][out], column k carries the error of class k and row f the activity of feature f:
 * whether a symbol is zero is told by its neighbours to the left and above, its sign (features after a ReLU are not
 * negative) by the last sign above.
 */
#include "qfl_codec_internal.h"
#include "qfl_codec_range.h"

enum { UNARY = 14, GOLOMB_BITS = 24, SIGN_ROWS = 6 };

/* Adaptive state of one delta. */
typedef struct model {
    range_bit zero[2][9];     /* by kind of tensor, nonzeros among the two to the left * 3 + among the two above */
    range_bit sign[3];        /* no sign above, plus, minus */
    range_bit more[2][UNARY]; /* another unit of magnitude; by whether the neighbourhood is busy */
    range_bit golomb[GOLOMB_BITS];
} model;

static void model_init(model *m)
{
    static const uint16_t zero[9] = {63000, 56000, 50000, 56000, 46000, 40000, 50000, 40000, 32000};
    for (uint32_t i = 0; i < 9; i++) {
        range_bit_init(&m->zero[0][i], zero[i]);
        range_bit_init(&m->zero[1][i], zero[i]);
    }
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

/* Context of the sign of the symbol at s, `rows` rows down its column. */
static uint32_t sign_context(const int32_t *s, uint32_t row, uint32_t rows)
{
    for (uint32_t d = 1; d <= SIGN_ROWS && d <= rows; d++) {
        s -= row;
        if (*s != 0)
            return *s > 0 ? 1 : 2;
    }
    return 0;
}

static void encode_nonzero(range_encoder *e, model *m, int32_t symbol, uint32_t sign, uint32_t busy)
{
    uint32_t rest = (uint32_t)(symbol < 0 ? -symbol : symbol) - 1, i = 0, bits = 0;
    range_bit *more = m->more[busy];
    range_encode(e, &m->sign[sign], symbol < 0);
    for (; i < UNARY && rest != 0; i++, rest--)
        range_encode(e, &more[i], 1);
    if (i < UNARY) {
        range_encode(e, &more[i], 0);
        return;
    }
    /* Exp-Golomb for what is left. */
    while (rest + 1 >= 2u << bits)
        bits++;
    for (uint32_t k = 0; k < bits; k++)
        range_encode(e, &m->golomb[k], 1);
    range_encode(e, &m->golomb[bits], 0);
    for (uint32_t k = bits; k-- > 0;)
        range_encode_raw(e, (int)((rest + 1) >> k & 1u));
}

/* The symbol's magnitude, or 0 when it is larger than any encoder writes. */
static uint32_t decode_magnitude(range_decoder *d, model *m, uint32_t busy)
{
    range_bit *more = m->more[busy];
    uint32_t i = 0, bits = 0, v = 1;
    while (i < UNARY && range_decode(d, &more[i]))
        i++;
    if (i < UNARY)
        return i + 1;
    while (range_decode(d, &m->golomb[bits]))
        if (++bits == GOLOMB_BITS)
            return 0;
    for (uint32_t k = 0; k < bits; k++)
        v = v << 1 | (uint32_t)range_decode_raw(d);
    return UNARY + v;
}

/* Elements per row of tensor t: a kernel is followed by its bias, one value per column. */
static uint32_t row_of(const qfl_codec_layout *layout, uint32_t t)
{
    uint32_t next = t % 2 == 0 && t + 1 < layout->tensors ? layout->size[t + 1] : 0;
    return next != 0 && layout->size[t] % next == 0 ? next : layout->size[t];
}

static inline uint32_t above_of(const int32_t *s, uint32_t row, uint32_t rows)
{
    return rows >= 2 ? (uint32_t)(s[-(int32_t)row] != 0) + (uint32_t)(s[-2 * (int32_t)row] != 0)
                     : rows != 0 ? (uint32_t)(s[-(int32_t)row] != 0) : 0;
}

static void write_tensor(range_encoder *e, model *m, range_bit *zero, const int32_t *s, uint32_t size, uint32_t row)
{
    for (uint32_t rows = 0; rows < size / row; rows++) {
        uint32_t left = 0; /* two bits: the two symbols before, not zero */
        for (uint32_t c = 0; c < row; c++, s++) {
            uint32_t near = (left & 1) + (left >> 1), above = above_of(s, row, rows);
            range_bit *flag = &zero[3 * near + above];
            left = left << 1 & 3;
            if (*s == 0) {
                range_encode(e, flag, 0);
                continue;
            }
            left |= 1;
            range_encode(e, flag, 1);
            encode_nonzero(e, m, *s, sign_context(s, row, rows), near + above > 1);
        }
    }
}

static int read_tensor(range_decoder *d, model *m, range_bit *zero, int32_t *s, uint32_t size, uint32_t row)
{
    for (uint32_t rows = 0; rows < size / row; rows++) {
        uint32_t left = 0;
        for (uint32_t c = 0; c < row; c++, s++) {
            uint32_t near = (left & 1) + (left >> 1), above = above_of(s, row, rows);
            int nonzero = range_decode(d, &zero[3 * near + above]);
            left = (left << 1 | (uint32_t)nonzero) & 3;
            *s = 0;
            if (!nonzero)
                continue;
            int negative = range_decode(d, &m->sign[sign_context(s, row, rows)]);
            uint32_t size_of = decode_magnitude(d, m, near + above > 1);
            if (size_of == 0)
                return 0;
            *s = negative ? -(int32_t)size_of : (int32_t)size_of;
        }
    }
    return 1;
}

qfl_status qfl_codec_dz_write(const qfl_codec_layout *layout, const int32_t *symbols, const qfl_codec_dz_form *form,
                              uint8_t *out, uint32_t cap, uint32_t *size)
{
    range_encoder e;
    model m;
    uint32_t values = qfl_codec_values(layout), head = form->agreed ? 1 : 2, i = 0;
    *size = 0;
    if (values == 0 || form->code == 0 || form->offset < -8 || form->offset > 7)
        return QFL_E_INVAL;
    if (cap < head)
        return QFL_E_NOMEM;
    out[0] = form->agreed ? (uint8_t)(QFL_CODEC_DZ_AGREED | (form->offset + 8) << 4) : QFL_CODEC_DZ;
    while (i < values && symbols[i] == 0)
        i++;
    if (i == values) { /* nothing to say */
        *size = 1;
        return QFL_OK;
    }
    if (!form->agreed)
        out[1] = form->code;
    model_init(&m);
    range_encode_init(&e, out + head, cap - head);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        write_tensor(&e, &m, m.zero[t % 2], symbols, layout->size[t], row_of(layout, t));
        symbols += layout->size[t];
    }
    range_encode_end(&e);
    if (e.full)
        return QFL_E_NOMEM;
    *size = head + e.n;
    return QFL_OK;
}

qfl_status qfl_codec_dz_read(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, uint32_t agreed,
                             int32_t *symbols, qfl_codec_dz_form *form)
{
    range_decoder d;
    model m;
    uint32_t values = qfl_codec_values(layout), i = 0;
    const int32_t *first = symbols;
    if (values == 0 || agreed >= QFL_CODEC_DZ_CODES)
        return QFL_E_INVAL;
    if (n < 1)
        return QFL_E_FORMAT;
    form->agreed = (in[0] & 0x0F) == QFL_CODEC_DZ_AGREED;
    uint32_t head = form->agreed ? 1 : 2;
    form->code = (uint8_t)agreed;
    form->offset = form->agreed ? (int8_t)((in[0] >> 4) - 8) : 0;
    if (form->agreed ? agreed == 0 : in[0] != QFL_CODEC_DZ)
        return QFL_E_FORMAT;
    if (n == 1) {
        for (; i < values; i++)
            symbols[i] = 0;
        return QFL_OK;
    }
    if (!form->agreed)
        form->code = in[1];
    if (form->code == 0 || (n > head && in[n - 1] == 0))
        return QFL_E_FORMAT; /* an encoder drops zeros at the end */
    model_init(&m);
    range_decode_init(&d, in + head, n - head);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        if (!read_tensor(&d, &m, m.zero[t % 2], symbols, layout->size[t], row_of(layout, t)))
            return QFL_E_FORMAT;
        symbols += layout->size[t];
    }
    while (i < values && first[i] == 0)
        i++;
    /* Zeros alone are said in one byte, and there are no bytes that nothing asked for. */
    return i < values && d.at >= d.n ? QFL_OK : QFL_E_FORMAT;
}

struct qfl_codec_dz_stream {
    range_encoder e;
    model m;
    uint8_t *out;
    uint32_t left;
    int any;
};

uint32_t qfl_codec_dz_stream_size(void) { return (uint32_t)sizeof(qfl_codec_dz_stream); }

void qfl_codec_dz_stream_begin(qfl_codec_dz_stream *s, uint32_t code, uint8_t *out, uint32_t cap)
{
    s->out = out;
    s->left = 0;
    s->any = 0;
    model_init(&s->m);
    range_encode_init(&s->e, out + 2, cap < 2 ? 0 : cap - 2);
    s->e.full = cap < 2;
    if (cap < 2)
        return;
    out[0] = QFL_CODEC_DZ;
    out[1] = (uint8_t)code;
}

void qfl_codec_dz_stream_put(qfl_codec_dz_stream *s, int32_t symbol)
{
    uint32_t near = (s->left & 1) + (s->left >> 1);
    range_encode(&s->e, &s->m.zero[0][3 * near], symbol != 0);
    s->left = (s->left << 1 | (uint32_t)(symbol != 0)) & 3;
    if (symbol == 0)
        return;
    s->any = 1;
    encode_nonzero(&s->e, &s->m, symbol, 0, near > 1);
}

qfl_status qfl_codec_dz_stream_end(qfl_codec_dz_stream *s, uint32_t *size)
{
    *size = 0;
    if (!s->e.full && s->any)
        range_encode_end(&s->e);
    if (s->e.full)
        return QFL_E_NOMEM;
    *size = s->any ? 2 + s->e.n : 1; /* nothing to say */
    return QFL_OK;
}
