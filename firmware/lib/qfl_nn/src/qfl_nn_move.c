/* Elements that only move: CONCATENATION and PACK, SPLIT and UNPACK, slices and transpositions, RESIZE_NEAREST_NEIGHBOR;
 * and RESIZE_BILINEAR, which mixes four of them. */
#include "qfl_nn_internal.h"

/* Pieces lie one after the other in every one of extra[0] runs of the whole. A row of the table: offset in the arena, bytes. */
void qfl_nn_concat(const kernel_args *a)
{
    const channel_row *piece = op_table(a);
    int8_t *dst = op_dst(a);
    for (uint32_t run = 0; run < (uint32_t)a->op->extra[0]; run++)
        for (uint32_t i = 0; i < a->op->table_count; i++) {
            uint32_t n = (uint32_t)piece[i].multiplier;
            memcpy(dst, a->arena + (uint32_t)piece[i].bias + run * n, n);
            dst += n;
        }
}

void qfl_nn_split(const kernel_args *a)
{
    const channel_row *piece = op_table(a);
    const int8_t *src = op_src(a);
    for (uint32_t run = 0; run < (uint32_t)a->op->extra[0]; run++)
        for (uint32_t i = 0; i < a->op->table_count; i++) {
            uint32_t n = (uint32_t)piece[i].multiplier;
            memcpy(a->arena + (uint32_t)piece[i].bias + run * n, src, n);
            src += n;
        }
}

/* Table: base, five extents, five strides, int32; the last extent is the innermost. */
void qfl_nn_strided(const kernel_args *a)
{
    const int32_t *v = (const int32_t *)(const void *)op_table(a), *extent = v + 1,
                  *stride = v + 1 + STRIDED_DIMS;
    const int8_t *p0 = op_src(a) + v[0];
    int8_t *dst = op_dst(a);
    for (int32_t i = 0; i < extent[0]; i++, p0 += stride[0]) {
        const int8_t *p1 = p0;
        for (int32_t j = 0; j < extent[1]; j++, p1 += stride[1]) {
            const int8_t *p2 = p1;
            for (int32_t k = 0; k < extent[2]; k++, p2 += stride[2]) {
                const int8_t *p3 = p2;
                for (int32_t l = 0; l < extent[3]; l++, p3 += stride[3]) {
                    if (stride[4] == 1) {
                        memcpy(dst, p3, (uint32_t)extent[4]);
                        dst += extent[4];
                        continue;
                    }
                    const int8_t *p4 = p3;
                    for (int32_t m = 0; m < extent[4]; m++, p4 += stride[4])
                        *dst++ = *p4;
                }
            }
        }
    }
}

/* Table: the input row of every output row, then the input column of every output column, u32. */
void qfl_nn_resize(const kernel_args *a)
{
    const op_record *op = a->op;
    const uint32_t *row = (const uint32_t *)(const void *)op_table(a), *column = row + op->out_h;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c;
    for (uint32_t y = 0; y < op->out_h; y++)
        for (uint32_t x = 0; x < op->out_w; x++, dst += c)
            memcpy(dst, src + (row[y] * op->in_w + column[x]) * c, c);
}

static inline int32_t mixed(int32_t a, int32_t b, int32_t fraction)
{
    return a * (1 << FRACTION_BITS) + (b - a) * fraction;
}

/*
 * Table: for every output row, then for every output column, the input row (column) before it, the one after it, and the
 * fraction of the way between them. One rounding at the end, half away from zero (tflite-micro's ResizeBilinearInteger).
 */
void qfl_nn_resize_bilinear(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a), *column = row + op->out_h;
    const int8_t *src = op_src(a);
    int8_t *dst = op_dst(a);
    uint32_t c = op->in_c, line = (uint32_t)op->in_w * c;
    const int32_t half = 1 << (2 * FRACTION_BITS - 1);
    for (uint32_t y = 0; y < op->out_h; y++) {
        const int8_t *above = src + (uint32_t)row[y].bias * line;
        const int8_t *below = src + (uint32_t)row[y].multiplier * line;
        for (uint32_t x = 0; x < op->out_w; x++) {
            uint32_t left = (uint32_t)column[x].bias * c, right = (uint32_t)column[x].multiplier * c;
            for (uint32_t k = 0; k < c; k++) {
                int32_t v = mixed(mixed(above[left + k], above[right + k], column[x].shift),
                                  mixed(below[left + k], below[right + k], column[x].shift), row[y].shift);
                *dst++ =
                    (int8_t)(v > 0 ? (v + half) >> 2 * FRACTION_BITS : -((half - v) >> 2 * FRACTION_BITS));
            }
        }
    }
}
