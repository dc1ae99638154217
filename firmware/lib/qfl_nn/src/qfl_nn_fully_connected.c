/*
 * FULLY_CONNECTED: one input row against all rows of weights, four at a time. DSP: the input is spread to halfwords once,
 * then 23 instructions make 16 products.
 */
#include "qfl_nn_dsp.h"
#include "qfl_nn_mve.h"

#if QFL_NN_MVE

void qfl_nn_fully_connected(const kernel_args *a)
{
    qfl_nn_mve_patches(a, op_src(a), 1, a->op->in_c, op_dst(a));
}

#else

#if QFL_NN_DSP

typedef int32_t
    prepared; /* two words per four inputs, even and odd elements; the last ones padded with zeros */

static const prepared *prepare(const kernel_args *a)
{
    const int8_t *p = op_src(a);
    uint32_t n = a->op->in_c;
    int32_t *out = (int32_t *)(void *)(a->arena + a->op->scratch), *start = out;
    for (const int8_t *stop = p + (n & ~3u); p != stop; p += 4, out += 2)
        spread4(load4(p), out);
    if ((n & 3u) != 0)
        spread_tail(p, n & 3u, out);
    return start;
}

/* Dot products of x with four rows of k weights, added to acc. */
static inline void four_rows(const prepared *x, const int8_t *w, uint32_t k, int32_t acc[4])
{
    const int8_t *w1 = w + k, *w2 = w1 + k, *w3 = w2 + k, *stop = w + (k & ~3u);
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3], e, o, u, v;
    if (w != stop)
        __asm volatile(
            "1:\n\t"
            "ldrd %[e], %[o], [%[x]], #8\n\t"
            "ldr %[v], [%[w0]], #4\n\t"
            "sxtb16 %[u], %[v]\n\t"
            "sxtb16 %[v], %[v], ror #8\n\t"
            "smlad %[a], %[u], %[e], %[a]\n\t"
            "smlad %[a], %[v], %[o], %[a]\n\t"
            "ldr %[v], [%[w1]], #4\n\t"
            "cmp %[w0], %[stop]\n\t"
            "sxtb16 %[u], %[v]\n\t"
            "sxtb16 %[v], %[v], ror #8\n\t"
            "smlad %[b], %[u], %[e], %[b]\n\t"
            "smlad %[b], %[v], %[o], %[b]\n\t"
            "ldr %[v], [%[w2]], #4\n\t"
            "sxtb16 %[u], %[v]\n\t"
            "sxtb16 %[v], %[v], ror #8\n\t"
            "smlad %[c], %[u], %[e], %[c]\n\t"
            "smlad %[c], %[v], %[o], %[c]\n\t"
            "ldr %[v], [%[w3]], #4\n\t"
            "sxtb16 %[u], %[v]\n\t"
            "sxtb16 %[v], %[v], ror #8\n\t"
            "smlad %[d], %[u], %[e], %[d]\n\t"
            "smlad %[d], %[v], %[o], %[d]\n\t"
            "bne 1b"
            : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [x] "+r"(x), [w0] "+r"(w), [w1] "+r"(w1),
              [w2] "+r"(w2), [w3] "+r"(w3), [e] "=&r"(e), [o] "=&r"(o), [u] "=&r"(u), [v] "=&r"(v)
            : [stop] "r"(stop)
            : "cc", "memory");
    if ((k & 3u) != 0) {
        const int8_t *const rows[4] = {w, w1, w2, w3};
        int32_t sums[4] = {a, b, c, d}, t[2];
        for (uint32_t i = 0; i < 4; i++) {
            spread_tail(rows[i], k & 3u, t);
            acc[i] = __smlad(x[1], t[1], __smlad(x[0], t[0], sums[i]));
        }
        return;
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

#else

typedef int8_t prepared;

static const prepared *prepare(const kernel_args *a) { return op_src(a); }

static inline void four_rows(const prepared *x, const int8_t *w, uint32_t k, int32_t acc[4])
{
    const int8_t *w1 = w + k, *w2 = w1 + k, *w3 = w2 + k;
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
    for (; k != 0; k--) {
        int32_t p = *x++;
        a += p * *w++;
        b += p * *w1++;
        c += p * *w2++;
        d += p * *w3++;
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

#endif

void qfl_nn_fully_connected(const kernel_args *a)
{
    const op_record *op = a->op;
    const channel_row *row = op_table(a);
    const prepared *x = prepare(a);
    const int8_t *w = op_weights(a);
    int8_t *y = op_dst(a);
    finisher f = finisher_of(op);
    uint32_t o = 0, k = op->in_c, outputs = op->out_c;
    for (; o + 4 <= outputs; o += 4, row += 4, w += 4 * k) {
        int32_t acc[4] = {row[0].bias, row[1].bias, row[2].bias, row[3].bias};
        four_rows(x, w, k, acc);
        y[o] = finish(acc[0], row, f);
        y[o + 1] = finish(acc[1], row + 1, f);
        y[o + 2] = finish(acc[2], row + 2, f);
        y[o + 3] = finish(acc[3], row + 3, f);
    }
    for (; o < outputs; o++, row++, w += k)
        y[o] = finish(qfl_nn_dot(op_src(a), w, k, row->bias), row, f);
}

#endif
