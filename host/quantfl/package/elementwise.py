"""Records of operators with one output element per input element, or per pair of them."""

from __future__ import annotations

import numpy as np

from quantfl.package import fixedpoint
from quantfl.package.fixedpoint import quantize_multiplier
from quantfl.package.flatfile import Op, Tensor
from quantfl.package.operators import BaseOperators, Record, activation

IN_FILE, NEGATE_FIRST, NEGATE_SECOND = 1, 2, 4  # flags of ADD and MUL records


class ElementwiseOperators(BaseOperators):
    """ADD, SUB, MUL, PRELU; LOGISTIC, TANH, HARD_SWISH, LEAKY_RELU as tables."""

    def operands(self, op: Op, r: Record) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Both operands and the output, the second operand being the constant one; whether they were
        exchanged."""
        first, second, y = self.tensor(op, 0), self.tensor(op, 1), self.dst(op)
        exchanged = first.data is not None
        if exchanged:
            first, second = second, first
        if first.data is not None:
            raise self.unsupported(op, "both of its inputs are constant")
        for t in (first, second):
            self.activation_tensor(op, t)
        r.x = first.index
        if second.data is not None:
            r.weights, r.weights_size, r.dims[15] = second.offset, second.size, IN_FILE
            r.src2_zero = second.zero_point
        else:
            r.x2 = second.index
        r.extra[0], r.extra[1] = self.spread(op, second, y), self.spread(op, first, y)
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))
        return first, second, y, exchanged

    def spread(self, op: Op, t: Tensor, y: Tensor) -> int:
        """How often each element of an operand is repeated before the next, which all come round again and
        again."""
        shape = (1,) * (len(y.shape) - len(t.shape)) + t.shape
        if len(shape) == len(y.shape):
            own = [i for i, (a, b) in enumerate(zip(shape, y.shape, strict=True)) if a != 1]
            if not own:
                return 1
            inner = own[-1] + 1
            if shape[own[0] : inner] == y.shape[own[0] : inner]:
                return int(np.prod(y.shape[inner:], dtype=np.int64))
        raise self.unsupported(
            op,
            f"shape {t.shape} cannot be broadcast to {y.shape} in one stretch",
            "give both inputs one shape",
        )

    def op_add(self, op: Op, r: Record) -> None:
        x, x2, y, _ = self.operands(op, r)
        twice = 2 * max(x.scale, x2.scale)
        self.sum_table(op, r, [x.scale / twice, x2.scale / twice, twice / ((1 << 20) * y.scale)])

    def op_sub(self, op: Op, r: Record) -> None:
        x, x2, y, exchanged = self.operands(op, r)
        r.dims[15] |= NEGATE_FIRST if exchanged else NEGATE_SECOND
        # Unlike ADD, tflite-micro computes these in single precision.
        s, s2, out = np.float32(x.scale), np.float32(x2.scale), np.float32(y.scale)
        twice = np.float32(2) * max(s, s2)
        self.sum_table(
            op, r, [float(s / twice), float(s2 / twice), float(twice / (np.float32(1 << 20) * out))]
        )

    def sum_table(self, op: Op, r: Record, reals: list[float]) -> None:
        q = [quantize_multiplier(v) for v in reals]
        if q[2][1] > 0:
            raise self.unsupported(
                op, "its output scale is too small for its inputs", "calibrate with more data"
            )
        r.table, r.table_count = self.table(np.array([[0, m, s] for m, s in q])), 3

    def op_mul(self, op: Op, r: Record) -> None:
        x, x2, y, _ = self.operands(op, r)
        r.extra[3], r.extra[2] = quantize_multiplier(x.scale * x2.scale / y.scale)

    def op_prelu(self, op: Op, r: Record) -> None:
        x, slope, y = self.src(op), self.tensor(op, 1, constant=True), self.dst(op)
        self.activation_tensor(op, slope)
        if x.shape != y.shape or self.spread(op, slope, y) != 1:
            raise self.unsupported(
                op, f"slopes {slope.shape} for an input {x.shape}", "share the slopes over height and width"
            )
        r.weights, r.weights_size, r.src2_zero = slope.offset, slope.size, slope.zero_point
        q = [quantize_multiplier(x.scale / y.scale), quantize_multiplier(x.scale * slope.scale / y.scale)]
        r.table, r.table_count = self.table(np.array([[0, m, s] for m, s in q])), 2

    def lut(self, r: Record, table: bytes) -> None:
        r.weights, r.weights_size, r.own_weights = len(self.tables), len(table), True
        self.tables += table

    def fixed_output(self, op: Op, y: Tensor, scale: float, zero: int) -> None:
        if abs(y.scale - scale) > 1e-9 or y.zero_point != zero:
            why = f"its output must have scale {scale:g} and zero-point {zero}"
            raise self.unsupported(op, why, "quantise with TFLite's converter")

    def op_logistic(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.fixed_output(op, y, 1 / 256, -128)
        self.lut(r, fixedpoint.logistic_table(x.scale, x.zero_point))

    def op_tanh(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.fixed_output(op, y, 1 / 128, 0)
        self.lut(r, fixedpoint.tanh_table(x.scale, x.zero_point))

    def op_leaky_relu(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.lut(
            r, fixedpoint.leaky_relu_table(x.scale, x.zero_point, op.options.Alpha(), y.scale, y.zero_point)
        )

    def op_hard_swish(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        table = fixedpoint.hard_swish_table(x.scale, x.zero_point, y.scale, y.zero_point)
        if table is None:
            raise self.unsupported(
                op, "its output scale is far smaller than its input scale", "calibrate with more data"
            )
        self.lut(r, table)
