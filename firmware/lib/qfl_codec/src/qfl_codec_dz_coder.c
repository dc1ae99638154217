/*
 * Bytes of a DZ delta: its form, then the symbols through an adaptive binary range coder.
 *
 * In the delta of a dense layer, kernel [in][out], column k carries the error of class k and row f the activity of feature f:
 * whether anything in a block of a row is not zero is told by the blocks to the left and above, whether a symbol is zero by its
 * neighbours there, its sign (features after a ReLU are not negative) by the last sign above. One traversal writes and reads.
 */
#include <string.h>

#include "qfl_codec_internal.h"
#include "qfl_codec_range.h"

enum { UNARY = 2, GOLOMB_BITS = 24, BLOCK = 16, COLUMNS = 256 };

/* What is known of the column above, per column: bits 0 and 1, the nearest and the next symbol are not zero; 2 and 3: the sign of
 * the last one that is not, 0: there is none, 1 plus, 2 minus. */
enum { NEAR_TWO = 3, SIGNS = 12, SIGN_AT = 2 };

/* Adaptive state of one delta. */
typedef struct model {
    range_bit block[8];       /* not empty; by the block to the left (1), the ones above (2 the nearest, 4 the next) not being empty */
    range_bit zero[2][16];    /* by kind of tensor; by the two to the left (4 the nearest, 8) and the two above (1, 2) not being zero */
    range_bit sign[3];        /* none above, plus, minus */
    range_bit more[2][UNARY]; /* another unit of magnitude; by whether more than one of the four is not zero */
    range_bit golomb[GOLOMB_BITS];
} model;

static void model_init(model *m)
{
    static const uint16_t block[8] = {57000, 41000, 45000, 29000, 49000, 33000, 29000, 13000};
    static const uint16_t zero[16] = {57000, 49000, 49000, 40000, 55000, 48000, 48000, 42000,
                                      55000, 48000, 48000, 42000, 50000, 41000, 41000, 34000};
    static const uint16_t sign[3] = {44000, 52000, 28000}, half[1] = {32768};
    static const uint16_t more[2][UNARY] = {{60000, 54000}, {56000, 48000}};
    range_bits_init(m->block, 8, block, 8);
    range_bits_init(m->zero[0], 16, zero, 16);
    range_bits_init(m->zero[1], 16, zero, 16);
    range_bits_init(m->sign, 3, sign, 3);
    range_bits_init(m->more[0], UNARY, more[0], UNARY);
    range_bits_init(m->more[1], UNARY, more[1], UNARY);
    range_bits_init(m->golomb, GOLOMB_BITS, half, 1);
}

/* Writes or reads a symbol that is not zero, and returns it; 0: its magnitude is larger than any writer's. */
static __attribute__((noinline)) int32_t code_nonzero(range_coder *c, model *m, int32_t symbol, uint32_t sign, uint32_t busy)
{
    uint32_t rest = (uint32_t)(symbol < 0 ? -symbol : symbol) - 1, i = 0, bits = 0;
    uint32_t negative = range_code(c, &m->sign[sign], symbol < 0);
    while (i < UNARY && range_code(c, &m->more[busy][i], rest > i))
        i++;
    if (i == UNARY) { /* what is left in Exp-Golomb */
        uint32_t v = rest - (UNARY - 1);
        while (range_code(c, &m->golomb[bits], v >> bits > 1))
            if (++bits == GOLOMB_BITS)
                return 0;
        i += (1u << bits | range_code_raw(c, v, bits)) - 1;
    }
    return negative ? -(int32_t)(i + 1) : (int32_t)(i + 1);
}

/* Elements per row of tensor t: a kernel is followed by its bias, one value per column. */
static uint32_t row_of(const qfl_codec_layout *layout, uint32_t t)
{
    uint32_t next = t % 2 == 0 && t + 1 < layout->tensors ? layout->size[t + 1] : 0;
    return next != 0 && layout->size[t] % next == 0 ? next : layout->size[t];
}

static uint32_t any(const int32_t *s, uint32_t n)
{
    while (n != 0 && *s == 0)
        s++, n--;
    return n != 0;
}

/* Writes or reads n symbols of a row; flagged: not all are zero. column: what is above them. left: bits 2 and 3, the two symbols
 * before them are not zero. 0: malformed. */
static int code_block(range_coder *c, model *m, range_bit *zero, int32_t *s, uint32_t n, uint8_t *column, uint32_t flagged,
                      uint32_t *left)
{
    static const uint8_t busy[16] = {0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1};
    uint32_t near = *left, reading = c->in != NULL;
    const int32_t *implied = flagged ? s + n - 1 : NULL; /* not zero, if all before it are */
    for (int32_t *end = s + n; s != end; s++, column++) {
        uint32_t above = *column, cell = near | (above & NEAR_TWO), nonzero = 1;
        near = near << 1 & 8;
        above = (above & SIGNS) + ((above & 1) << 1);
        if (s != implied) {
            if (reading) {
                nonzero = range_read(c, &zero[cell]);
            } else if (*s == 0) {
                range_write_zero(c, &zero[cell]);
                nonzero = 0;
            } else {
                range_write_one(c, &zero[cell]);
            }
        }
        if (nonzero) {
            int32_t symbol = *s;
            if (!reading && (symbol == 1 || symbol == -1)) { /* most of them: the same in fewer instructions */
                range_write(c, &m->sign[above >> SIGN_AT], symbol < 0);
                range_write_zero(c, m->more[busy[cell]]);
            } else {
                symbol = code_nonzero(c, m, symbol, above >> SIGN_AT, busy[cell]);
                if (symbol == 0)
                    return 0;
                if (reading)
                    *s = symbol;
            }
            above = (above & 2) | 1 | (symbol > 0 ? 1u : 2u) << SIGN_AT;
            near |= 4;
            implied = NULL;
        }
        *column = (uint8_t)above;
    }
    *left = near;
    return 1;
}

/* Writes or reads one tensor; for reading s holds zeros. Rows come in blocks, where there are several each after a flag. */
static int code_tensor(range_coder *c, model *m, range_bit *zero, int32_t *s, uint32_t size, uint32_t row)
{
    uint8_t column[COLUMNS], above[COLUMNS / BLOCK]; /* above: per block, 2, the one above is not empty, 4, the next one is not */
    memset(column, 0, sizeof column);
    memset(above, 2, sizeof above);
    for (uint32_t end = size; end != 0; end -= row) {
        uint32_t left = 0, flag = 0;
        for (uint32_t at = 0; at < row; at += BLOCK) {
            uint32_t n = row - at < BLOCK ? row - at : BLOCK, k = at % COLUMNS, b = k / BLOCK;
            if (size != row) {
                flag = range_code(c, &m->block[above[b] + flag], any(s, n));
                above[b] = (uint8_t)((above[b] << 1 & 4) | flag << 1);
            } else {
                memset(&column[k], 0, BLOCK); /* one row has nothing above it */
            }
            if (flag || size == row) {
                if (!code_block(c, m, zero, s, n, &column[k], flag, &left))
                    return 0;
            } else {
                left = 0;
                for (uint32_t i = 0; i < n; i++)
                    column[k + i] = (uint8_t)((column[k + i] << 1 & 2) | (column[k + i] & SIGNS));
            }
            s += n;
        }
    }
    return 1;
}

static int code_all(range_coder *c, const qfl_codec_layout *layout, int32_t *symbols)
{
    model m;
    model_init(&m);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        if (!code_tensor(c, &m, m.zero[t % 2], symbols, layout->size[t], row_of(layout, t)))
            return 0;
        symbols += layout->size[t];
    }
    return 1;
}

qfl_status qfl_codec_dz_write(const qfl_codec_layout *layout, const int32_t *symbols, const qfl_codec_dz_form *form,
                              uint8_t *out, uint32_t cap, uint32_t *size)
{
    range_coder c;
    uint32_t values = qfl_codec_values(layout), head = form->agreed ? 1 : 2;
    *size = 0;
    if (values == 0 || form->code == 0 || form->offset < -8 || form->offset > 7)
        return QFL_E_INVAL;
    if (cap < head)
        return QFL_E_NOMEM;
    out[0] = form->agreed ? (uint8_t)(QFL_CODEC_DZ_AGREED | (form->offset + 8) << 4) : QFL_CODEC_DZ;
    if (!any(symbols, values)) { /* nothing to say */
        *size = 1;
        return QFL_OK;
    }
    if (!form->agreed)
        out[1] = form->code;
    range_write_init(&c, out + head, cap - head);
    (void)code_all(&c, layout, (int32_t *)(uintptr_t)symbols); /* writing changes nothing there */
    range_write_end(&c);
    if (c.full)
        return QFL_E_NOMEM;
    *size = head + c.at;
    return QFL_OK;
}

qfl_status qfl_codec_dz_read(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, uint32_t agreed,
                             int32_t *symbols, qfl_codec_dz_form *form)
{
    range_coder c;
    uint32_t values = qfl_codec_values(layout);
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
    memset(symbols, 0, values * sizeof *symbols);
    if (n == 1)
        return QFL_OK;
    if (!form->agreed)
        form->code = in[1];
    if (form->code == 0 || (n > head && in[n - 1] == 0))
        return QFL_E_FORMAT; /* an encoder drops zeros at the end */
    range_read_init(&c, in + head, n - head);
    /* Zeros alone are said in one byte, and there are no bytes that nothing asked for. */
    return code_all(&c, layout, symbols) && any(symbols, values) && c.at >= c.end ? QFL_OK : QFL_E_FORMAT;
}

struct qfl_codec_dz_stream {
    range_coder c;
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
    range_write_init(&s->c, out + 2, cap < 2 ? 0 : cap - 2);
    s->c.full = cap < 2;
    if (cap < 2)
        return;
    out[0] = QFL_CODEC_DZ;
    out[1] = (uint8_t)code;
}

void qfl_codec_dz_stream_put(qfl_codec_dz_stream *s, int32_t symbol)
{
    uint8_t column = 0;
    s->any |= symbol != 0;
    (void)code_block(&s->c, &s->m, s->m.zero[0], &symbol, 1, &column, 0, &s->left);
}

qfl_status qfl_codec_dz_stream_end(qfl_codec_dz_stream *s, uint32_t *size)
{
    *size = 0;
    if (!s->c.full && s->any)
        range_write_end(&s->c);
    if (s->c.full)
        return QFL_E_NOMEM;
    *size = s->any ? 2 + s->c.at : 1; /* nothing to say */
    return QFL_OK;
}
