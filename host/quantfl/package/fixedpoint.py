"""Functions of one int8 variable as tables of 256 bytes, in gemmlowp's fixed-point arithmetic, as
tflite-micro computes them.

Sources: gemmlowp/fixedpoint/fixedpoint.h; tensorflow/lite/kernels/internal/reference: integer_ops/logistic.h,
integer_ops/tanh.h, hard_swish.h, leaky_relu.h. Integers are Python's; names are gemmlowp's without camel
case.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

INT32_MAX = (1 << 31) - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
    """real = q / 2^31 * 2^shift with q in [2^30, 2^31), half away from zero (TFLite QuantizeMultiplier)."""
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    q = math.floor(fraction * (1 << 31) + 0.5)
    if q == 1 << 31:
        q, shift = q // 2, shift + 1
    return (0, 0) if shift < -31 else (q, shift)


def high_mul(a: int, b: int, bits: int = 32) -> int:
    """SaturatingRoundingDoublingHighMul of two integers of `bits` bits."""
    top = (1 << (bits - 1)) - 1
    return min(top, (a * b + (1 << (bits - 2))) >> (bits - 1))


def divide_by_pot(x: int, exponent: int) -> int:
    """RoundingDivideByPOT: half away from zero."""
    if exponent == 0:
        return x
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def saturating_shl(x: int, n: int, bits: int = 32) -> int:
    top = (1 << (bits - 1)) - 1
    return max(-top - 1, min(top, x << n))


def requantise(x: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier, with two roundings."""
    left = _wrap(x << max(shift, 0))
    return divide_by_pot(high_mul(left, multiplier), max(-shift, 0))


def _wrap(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def _exp_quarter(a: int) -> int:
    """exp(a) for a in [-1/4, 0), Q0.31."""
    x = a + (1 << 28)
    x2 = high_mul(x, x)
    x3, x4 = high_mul(x2, x), high_mul(x2, x2)
    t = divide_by_pot(high_mul(divide_by_pot(x4, 2) + x3, 715827883) + x2, 1)
    return 1895147668 + high_mul(1895147668, x + t)


def exp_negative(a: int, integer_bits: int) -> int:
    """exp(a) for a <= 0 with `integer_bits` integer bits, result Q0.31."""
    if a == 0:
        return INT32_MAX
    fractional = 31 - integer_bits
    quarter = 1 << (fractional - 2)
    part = (a & (quarter - 1)) - quarter
    result, rest = _exp_quarter(saturating_shl(part, integer_bits)), part - a
    for exponent, factor in enumerate(
        (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242), -2
    ):
        if integer_bits > exponent and rest >> (fractional + exponent) & 1:
            result = high_mul(result, factor)
    return result


def _half_sum(a: int, b: int) -> int:
    s = a + b
    return (s + 1) // 2 if s >= 0 else -((1 - s) // 2)


def _newton(a: int) -> int:
    """2 / (1 + a) for a in [0, 1) Q0.31, in Q2.29: three steps of Newton and Raphson's method."""
    half = _half_sum(a, INT32_MAX)
    x = 1515870810 + high_mul(half, -1010580540)
    for _ in range(3):
        x += saturating_shl(high_mul(x, (1 << 29) - high_mul(half, x)), 2)
    return x


def logistic(a: int, integer_bits: int = 4) -> int:
    """1 / (1 + exp(-a)), Q0.31."""
    if a == 0:
        return 1 << 30
    positive = saturating_shl(_newton(exp_negative(-abs(a), integer_bits)), 1)
    return positive if a > 0 else INT32_MAX - positive


def tanh(a: int, integer_bits: int = 4) -> int:
    """tanh(a), Q0.31."""
    if a == 0:
        return 0
    t = saturating_shl(_newton(exp_negative(-abs(a), integer_bits + 1)) - (1 << 29), 2)
    return -t if a < 0 else t


def table(function: Callable[[int], int]) -> bytes:
    """int8 outputs of `function` for the inputs -128..127, clamped."""
    return np.array([max(-128, min(127, function(q))) for q in range(-128, 128)], np.int8).tobytes()


def _sigmoid_like(scale: float, zero: int, function: Callable[[int], int], bits: int, offset: int) -> bytes:
    multiplier, left = quantize_multiplier(scale * (1 << 27))
    radius = math.floor(15.0 * (1 << 27) / 2.0**left)

    def one(q: int) -> int:
        x = q - zero
        if x <= -radius:
            return -128
        if x >= radius:
            return 127
        return divide_by_pot(function(requantise(x, multiplier, left)), 31 - bits) + offset

    return table(one)


def logistic_table(scale: float, zero: int) -> bytes:
    """Output scale 1/256, zero-point -128."""
    return _sigmoid_like(scale, zero, logistic, 8, -128)


def tanh_table(scale: float, zero: int) -> bytes:
    """Output scale 1/128, zero-point 0."""
    return _sigmoid_like(scale, zero, tanh, 7, 0)


def leaky_relu_table(scale: float, zero: int, alpha: float, out_scale: float, out_zero: int) -> bytes:
    x, y = np.float32(scale), np.float32(out_scale)
    identity = quantize_multiplier(float(x / y))
    slope = quantize_multiplier(float(np.float32(x * np.float32(alpha)) / y))
    return table(lambda q: out_zero + requantise(q - zero, *(identity if q >= zero else slope)))


def hard_swish_table(scale: float, zero: int, out_scale: float, out_zero: int) -> bytes | None:
    """None where tflite-micro refuses the scales."""
    hires = np.float32(1 / 128.0) * np.float32(scale)
    out32, out_exponent = quantize_multiplier(float(np.float32(hires / np.float32(out_scale))))
    relu32, relu_exponent = quantize_multiplier(float(np.float32(hires / np.float32(3.0 / 32768.0))))
    if out_exponent > 0:
        return None
    out16, relu16 = (32767 if m >= INT32_MAX - (1 << 15) else (m + (1 << 15)) >> 16 for m in (out32, relu32))

    def one(q: int) -> int:
        x = (q - zero) * 128
        preshift, reluish = high_mul(x, out16, 16), x
        if relu_exponent > 0:
            reluish = saturating_shl(reluish, relu_exponent - 1, 16)
        reluish = high_mul(reluish, relu16, 16)
        if relu_exponent > 0:
            reluish = saturating_shl(reluish, 1, 16)
        elif relu_exponent < 0:
            reluish = divide_by_pot(reluish, -relu_exponent)
        reluish = (reluish + (1 << 15)) >> 1
        product = reluish * preshift
        product = abs(product) // (1 << 15) * (1 if product >= 0 else -1)  # C's division
        return divide_by_pot(product, -out_exponent) + out_zero

    return table(one)
