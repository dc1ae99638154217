/*
 * SOFTMAX: gemmlowp's fixed-point exponential (5 integer bits of scaled difference) and reciprocal (Newton-Raphson),
 * sums with 12 integer bits, output scale 1/256 and zero-point -128. Reference: gemmlowp/fixedpoint/fixedpoint.h.
 */
#include "qfl_nn_internal.h"

/* exp(a) for a in [-1/4, 0), Q0.31. */
static int32_t exp_quarter(int32_t a)
{
    const int32_t exp_m18 = 1895147668, third = 715827883; /* exp(-1/8), 1/3 */
    int32_t x = a + (1 << 28), x2 = high_mul(x, x), x3 = high_mul(x2, x), x4 = high_mul(x2, x2);
    int32_t t = shift_right(high_mul(shift_right(x4, 2) + x3, third) + x2, 1);
    return exp_m18 + high_mul(exp_m18, x + t);
}

/* exp(a) for a <= 0 in Q5.26, result Q0.31. */
static int32_t exp_negative(int32_t a)
{
    static const int32_t factor[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t quarter = 1 << 24;
    int32_t fraction = (a & (quarter - 1)) - quarter, rest = fraction - a;
    int32_t r = exp_quarter((int32_t)((uint32_t)fraction << 5));
    for (int i = 0; i < 7; i++) /* exp(-1/4), exp(-1/2), exp(-1) ... exp(-16) */
        if (rest & (1 << (24 + i)))
            r = high_mul(r, factor[i]);
    return a == 0 ? 0x7FFFFFFF : r;
}

static int32_t saturating_shl(int32_t x, int n)
{
    int64_t y = (int64_t)x * (1 << n);
    return y > 0x7FFFFFFF ? 0x7FFFFFFF : y < -0x7FFFFFFF - 1 ? -0x7FFFFFFF - 1 : (int32_t)y;
}

/* 1 / (1 + x) for x in [0, 1), Q0.31. */
static int32_t one_over_one_plus(int32_t a)
{
    int64_t sum = (int64_t)a + 0x7FFFFFFF;
    int32_t half = (int32_t)((sum + (sum >= 0 ? 1 : -1)) / 2);
    int32_t x = 1515870810 + high_mul(half, -1010580540); /* 48/17 - 32/17 d, Q2.29 */
    for (int i = 0; i < 3; i++) {
        int32_t error = (1 << 29) - high_mul(half, x);
        x += saturating_shl(high_mul(x, error), 2);
    }
    return saturating_shl(x, 1);
}

static void one_row(const op_record *op, const int8_t *x, int8_t *y, uint32_t n)
{
    int32_t max = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > max)
            max = x[i];
    for (uint32_t i = 0; i < n; i++) {
        int32_t d = x[i] - max;
        if (d >= op->extra[2])
            sum +=
                shift_right(exp_negative(high_mul((int32_t)((uint32_t)d << op->extra[1]), op->extra[0])), 12);
    }
    int zeros = __builtin_clz((uint32_t)sum);
    int32_t scale = one_over_one_plus((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
    int bits = 12 - zeros + 31 - 8;
    for (uint32_t i = 0; i < n; i++) {
        int32_t d = x[i] - max, v = -128;
        if (d >= op->extra[2]) {
            int32_t e = exp_negative(high_mul((int32_t)((uint32_t)d << op->extra[1]), op->extra[0]));
            v = clamp(shift_right(high_mul(scale, e), bits) - 128, -128, 127);
        }
        y[i] = (int8_t)v;
    }
}

QFL_COLD void qfl_nn_softmax(const kernel_args *a)
{
    const op_record *op = a->op;
    const int8_t *x = op_src(a);
    int8_t *y = op_dst(a);
    for (uint32_t i = 0; i < op->dst_size; i += op->out_c)
        one_row(op, x + i, y + i, op->out_c);
}
