/*
 * Bytes of a DZ delta: its form, then the symbols through an adaptive binary range coder.
 *
 * In the delta of a dense layer, kernel [in][out], column k carries the error of class k and row f the activity of feature f:
 * whether anything in a block of a row is not zero is told by the blocks to the left and above, whether a symbol is zero by its
 * neighbours there, its sign (features after a ReLU are not negative) by the last sign above. Writing a block, which boards do most,
 * has a loop of its own, and so reading: the compiler keeps the interval in registers there.
 */
#include <string.h>

#include "qfl_codec_internal.h"
#include "qfl_codec_range.h"

enum { UNARY = 2, GOLOMB_BITS = 24, BLOCK = 16, COLUMNS = 256 };

/* What is known of the column above, per column: bits 0 and 1, the nearest and the next symbol are not zero; 2 and 3: the sign of
 * the last one that is not, 0: there is none, 1 plus, 2 minus; 4: the kind of tensor, the same for all. Of the row to the left:
 * bits 30 and 31, the nearest and the next symbol. */
enum { NEAR_TWO = 3, NEXT = 2, SIGN_AT = 2, KIND_AT = 4, CELL = NEAR_TWO | 1 << KIND_AT, LEFT_AT = 28 };

#define BUSY 0xFEE8FEE8u /* the cells with more than one of the four symbols not zero */

/* Adaptive state of one delta. */
typedef struct model {
    range_bit zero
        [2 *
         16]; /* by kind of tensor (16); by the two to the left (4 the nearest, 8) and the two above (1, 2) not being zero */
    range_bit block
        [8]; /* not empty; by the block to the left (1), the ones above (2 the nearest, 4 the next) not being empty */
    range_bit sign[3]; /* none above, plus, minus */
    range_bit more[2]
                  [UNARY]; /* another unit of magnitude; by whether more than one of the four is not zero */
    range_bit golomb[GOLOMB_BITS];
} model;

static QFL_COLD void model_init(model *m)
{
    static const uint16_t block[8] = {57000, 41000, 45000, 29000, 49000, 33000, 29000, 13000};
    static const uint16_t zero[16] = {57000, 49000, 49000, 40000, 55000, 48000, 48000, 42000,
                                      55000, 48000, 48000, 42000, 50000, 41000, 41000, 34000};
    static const uint16_t sign[3] = {44000, 52000, 28000}, half[1] = {32768};
    static const uint16_t more[2][UNARY] = {{60000, 54000}, {56000, 48000}};
    range_bits_init(m->block, 8, block, 8);
    range_bits_init(m->zero, 16, zero, 16);
    range_bits_init(m->zero + 16, 16, zero, 16);
    range_bits_init(m->sign, 3, sign, 3);
    range_bits_init(m->more[0], UNARY, more[0], UNARY);
    range_bits_init(m->more[1], UNARY, more[1], UNARY);
    range_bits_init(m->golomb, GOLOMB_BITS, half, 1);
}

/* All that the coding of one delta needs. */
typedef struct coder {
    model m;
    range_coder c;
    uint32_t left; /* what is known of the row to the left of the next symbol */
} coder;

/* Writes or reads a magnitude less 1; UINT32_MAX: malformed. */
static QFL_HOT QFL_APART uint32_t code_magnitude(coder *k, range_bit *more, uint32_t rest)
{
    uint32_t i = 0, bits = 0;
    while (range_code(&k->c, more + i, rest > i))
        if (++i == UNARY) { /* what is left in Exp-Golomb */
            uint32_t v = rest - (UNARY - 1);
            while (range_code(&k->c, &k->m.golomb[bits], v >> bits > 1))
                if (++bits == GOLOMB_BITS)
                    return UINT32_MAX;
            return i - 1 + (1u << bits | range_code_raw(&k->c, v, bits));
        }
    return i;
}

/* What is known of a column after a symbol that is zero, or not, from what was known before. */
static inline uint8_t above_zero(uint32_t above)
{
    return (uint8_t)((above & ~(uint32_t)NEXT) + (above & 1));
}

static inline uint8_t above_nonzero(uint32_t above, uint32_t negative)
{
    return (uint8_t)((above & 1u << KIND_AT) + ((above & 1) << 1) + 1 + (1u << SIGN_AT) +
                     (negative << SIGN_AT));
}

/* Writes n symbols of a row, 1 at least; flagged: not all are zero. column: what is above them. */
static QFL_HOT QFL_APART void write_block(coder *k, const int32_t *s, uint32_t n, uint8_t *column,
                                          uint32_t flagged)
{
    range_now now = k->c.now;
    uint32_t left =
        k->left | flagged; /* the bits below LEFT_AT: not zero until a symbol was, where one has to be */
    const int32_t *end = s + n;
    do {
        uint32_t above = *column, cell = (above & CELL) | left >> LEFT_AT;
        if (*s++ == 0) {
            *column = above_zero(above);
            left <<= 1;
            range_step(&k->c, &now, &k->m.zero[cell], 0);
        } else { /* the symbol, s[-1], and the column are read again where they are needed: registers are few */
            if (s != end || left << 2 == 0)
                range_step(&k->c, &now, &k->m.zero[cell], 1);
            left = (left << 1 & 8u << LEFT_AT) | 4u << LEFT_AT;
            above = *column;
            uint32_t negative = (uint32_t)s[-1] >> 31;
            *column = above_nonzero(above, negative);
            range_step(&k->c, &now, &k->m.sign[above >> SIGN_AT & 3], negative);
            range_bit *more = k->m.more[BUSY >> cell & 1];
            uint32_t symbol = (uint32_t)s[-1];
            if (((symbol + 1) & ~2u) == 0) { /* 1 or -1 */
                range_step(&k->c, &now, more, 0);
            } else {
                k->c.now = now;
                (void)code_magnitude(k, more, (symbol >> 31 ? 0 - symbol : symbol) - 1);
                now = k->c.now;
            }
        }
        column++;
    } while (s != end);
    k->c.now = now;
    k->left = left;
}

/* The same the other way. 0: malformed. */
static QFL_HOT QFL_APART int read_block(coder *k, int32_t *s, uint32_t n, uint8_t *column, uint32_t flagged)
{
    const int32_t *implied = flagged ? s + n - 1 : NULL;
    for (; n != 0; n--, s++, column++) {
        uint32_t above = *column, cell = (above & CELL) | k->left >> LEFT_AT;
        k->left <<= 1;
        *s = 0;
        *column = above_zero(above);
        if (s == implied || range_read(&k->c, &k->m.zero[cell])) {
            uint32_t negative = range_read(&k->c, &k->m.sign[above >> SIGN_AT & 3]);
            uint32_t magnitude = code_magnitude(k, k->m.more[BUSY >> cell & 1], 0) + 1;
            if (magnitude == 0)
                return 0;
            *s = negative ? -(int32_t)magnitude : (int32_t)magnitude;
            *column = above_nonzero(above, negative);
            k->left |= 4u << LEFT_AT;
            implied = NULL;
        }
    }
    return 1;
}

/* A block without anything: its columns move on. */
static void pass(uint8_t *column, uint32_t n)
{
    uint32_t four;
    for (; n >= 4; n -= 4, column += 4) {
        memcpy(&four, column, 4);
        four = (four & ~0x02020202u) + (four & 0x01010101u);
        memcpy(column, &four, 4);
    }
    for (; n != 0; n--, column++)
        *column = above_zero(*column);
}

/* Elements per row of tensor t: a kernel is followed by its bias, one value per column. */
static QFL_COLD uint32_t row_of(const qfl_codec_layout *layout, uint32_t t)
{
    uint32_t next = t % 2 == 0 && t + 1 < layout->tensors ? layout->size[t + 1] : 0;
    return next != 0 && layout->size[t] % next == 0 ? next : layout->size[t];
}

static QFL_HOT uint32_t any(const int32_t *s, uint32_t n)
{
    while (n != 0 && *s == 0)
        s++, n--;
    return n != 0;
}

/* Writes or reads one tensor. Rows come in blocks, where there are several each after a flag. 0: malformed. */
static QFL_HOT int code_tensor(coder *k, uint32_t kind, int32_t *s, uint32_t size, uint32_t row)
{
    uint8_t column[COLUMNS],
        above[COLUMNS / BLOCK]; /* above: per block, 2, the one above is not empty, 4, the next one is not */
    uint32_t reading = k->c.in != NULL;
    memset(column, (int)(kind << KIND_AT), row < COLUMNS ? row : COLUMNS);
    memset(above, 2, sizeof above);
    for (uint32_t end = size; end != 0; end -= row) {
        uint32_t flag = 0;
        k->left = 0;
        for (uint32_t at = 0; at < row; at += BLOCK) {
            uint32_t n = row - at < BLOCK ? row - at : BLOCK, i = at % COLUMNS, b = i / BLOCK;
            if (size != row) {
                flag = range_code(&k->c, &k->m.block[above[b] + flag], reading ? 0 : any(s, n));
                above[b] = (uint8_t)((above[b] << 1 & 4) | flag << 1);
            } else {
                memset(&column[i], (int)(kind << KIND_AT), n); /* one row has nothing above it */
            }
            if (!flag && size != row) {
                k->left = 0;
                pass(&column[i], n);
                if (reading)
                    for (uint32_t j = 0; j < n; j++)
                        s[j] = 0;
            } else if (!reading) {
                write_block(k, s, n, &column[i], flag);
            } else if (!read_block(k, s, n, &column[i], flag)) {
                return 0;
            }
            s += n;
        }
    }
    return 1;
}

static QFL_COLD int code_all(coder *k, const qfl_codec_layout *layout, int32_t *symbols)
{
    model_init(&k->m);
    for (uint32_t t = 0; t < layout->tensors; t++) {
        if (!code_tensor(k, t % 2, symbols, layout->size[t], row_of(layout, t)))
            return 0;
        symbols += layout->size[t];
    }
    return 1;
}

QFL_COLD qfl_status qfl_codec_dz_write(const qfl_codec_layout *layout, const int32_t *symbols,
                                       const qfl_codec_dz_form *form, uint8_t *out, uint32_t cap,
                                       uint32_t *size)
{
    coder k;
    uint32_t values = qfl_codec_values(layout), head = form->agreed ? 1 : 2;
    *size = 0;
    if (values == 0 || form->code == 0 || form->offset < QFL_CODEC_DZ_FINER ||
        form->offset > QFL_CODEC_DZ_COARSER)
        return QFL_E_INVAL;
    if (cap < head)
        return QFL_E_NOMEM;
    out[0] = form->agreed ? (uint8_t)(QFL_CODEC_DZ_AGREED | (form->offset - QFL_CODEC_DZ_FINER) << 4)
                          : QFL_CODEC_DZ;
    if (!any(symbols, values)) { /* nothing to say */
        *size = 1;
        return QFL_OK;
    }
    if (!form->agreed)
        out[1] = form->code;
    range_write_init(&k.c, out + head, cap - head);
    (void)code_all(&k, layout, (int32_t *)(uintptr_t)symbols); /* writing changes nothing there */
    range_write_end(&k.c);
    if (k.c.full)
        return QFL_E_NOMEM;
    *size = head + k.c.at;
    return QFL_OK;
}

QFL_COLD qfl_status qfl_codec_dz_read(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n,
                                      uint32_t agreed, int32_t *symbols, qfl_codec_dz_form *form)
{
    coder k;
    uint32_t values = qfl_codec_values(layout);
    if (values == 0 || agreed >= QFL_CODEC_DZ_CODES)
        return QFL_E_INVAL;
    if (n < 1)
        return QFL_E_FORMAT;
    form->agreed = (in[0] & 0x0F) == QFL_CODEC_DZ_AGREED;
    uint32_t head = form->agreed ? 1 : 2;
    form->code = (uint8_t)agreed;
    form->offset = form->agreed ? (int8_t)((in[0] >> 4) + QFL_CODEC_DZ_FINER) : 0;
    if (form->agreed ? agreed == 0 : in[0] != QFL_CODEC_DZ)
        return QFL_E_FORMAT;
    if (n == 1) {
        memset(symbols, 0, values * sizeof *symbols);
        return QFL_OK;
    }
    if (!form->agreed)
        form->code = in[1];
    if (form->code == 0 || (n > head && in[n - 1] == 0))
        return QFL_E_FORMAT; /* an encoder drops zeros at the end */
    range_read_init(&k.c, in + head, n - head);
    /* Zeros alone are said in one byte, and there are no bytes that nothing asked for. */
    return code_all(&k, layout, symbols) && any(symbols, values) && k.c.at >= k.c.end ? QFL_OK : QFL_E_FORMAT;
}

struct qfl_codec_dz_stream {
    coder k;
    int any;
};

uint32_t qfl_codec_dz_stream_size(void) { return (uint32_t)sizeof(qfl_codec_dz_stream); }

QFL_COLD void qfl_codec_dz_stream_begin(qfl_codec_dz_stream *s, uint32_t code, uint8_t *out, uint32_t cap)
{
    s->k.left = 0;
    s->any = 0;
    model_init(&s->k.m);
    range_write_init(&s->k.c, out + 2, cap < 2 ? 0 : cap - 2);
    s->k.c.full = cap < 2;
    if (cap < 2)
        return;
    out[0] = QFL_CODEC_DZ;
    out[1] = (uint8_t)code;
}

void qfl_codec_dz_stream_put(qfl_codec_dz_stream *s, int32_t symbol)
{
    uint8_t column = 0;
    s->any |= symbol != 0;
    write_block(&s->k, &symbol, 1, &column, 0);
}

QFL_COLD qfl_status qfl_codec_dz_stream_end(qfl_codec_dz_stream *s, uint32_t *size)
{
    *size = 0;
    if (!s->k.c.full && s->any)
        range_write_end(&s->k.c);
    if (s->k.c.full)
        return QFL_E_NOMEM;
    *size = s->any ? 2 + s->k.c.at : 1; /* nothing to say */
    return QFL_OK;
}
