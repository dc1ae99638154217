"""Records of operators that only move elements, and of TRANSPOSE_CONV."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tflite

from quantfl.package.flatfile import Op, Tensor
from quantfl.package.operators import BaseOperators, Record, activation

DIMS = 5  # of a strided copy
FRACTION_BITS = 10  # of RESIZE_BILINEAR's positions


class MovementOperators(BaseOperators):
    """CONCATENATION, PACK, SPLIT, UNPACK, slices, TRANSPOSE, RESIZE_NEAREST_NEIGHBOR, RESIZE_BILINEAR,
    TRANSPOSE_CONV."""

    def join(self, op: Op, r: Record, whole: Tensor, parts: tuple[int, ...], axis: int) -> None:
        """Table of the places and sizes of `parts`, which alternate along `axis` of `whole`; places come with
        the plan."""
        axis %= max(1, len(whole.shape))
        outer = int(np.prod(whole.shape[:axis], dtype=np.int64))
        rows = []
        for t in parts:
            part = self.activation_tensor(op, self.m.tensors[t])
            if part.data is not None:
                raise self.unsupported(op, f"constant input {part.name} is not supported")
            self.same_quantisation(op, part, whole)
            rows.append([0, part.size // outer, 0])
        if sum(row[1] for row in rows) * outer != whole.size:
            raise self.unsupported(op, "its shapes do not fit one another")
        r.table, r.table_count, r.pieces = self.table(np.array(rows)), len(rows), tuple(parts)
        r.extra[0] = outer

    def op_concatenation(self, op: Op, r: Record) -> None:
        if op.options.FusedActivationFunction() != tflite.ActivationFunctionType.NONE:
            raise self.unsupported(op, "fused activation is not supported")
        self.join(op, r, self.dst(op), op.inputs, op.options.Axis())

    def op_pack(self, op: Op, r: Record) -> None:
        self.join(op, r, self.dst(op), op.inputs, op.options.Axis())

    def op_unpack(self, op: Op, r: Record) -> None:
        self.join(op, r, self.src(op), op.outputs, op.options.Axis())

    def op_split(self, op: Op, r: Record) -> None:
        x, axis = self.src(op, 1), self.tensor(op, 0, constant=True)
        r.x = x.index
        self.join(op, r, x, op.outputs, int(axis.content.reshape(-1)[0]))

    def op_split_v(self, op: Op, r: Record) -> None:
        self.join(
            op, r, self.src(op), op.outputs, int(self.tensor(op, 2, constant=True).content.reshape(-1)[0])
        )

    def strided(self, op: Op, r: Record, base: int, extents: list[int], strides: list[int]) -> None:
        """A copy of extents along strides (in elements) from `base`; the last dimension is the innermost."""
        pairs = [(e, s) for e, s in zip(extents, strides, strict=True) if e != 1]
        merged: list[tuple[int, int]] = []
        for e, s in pairs:  # dimensions that lie one after the other are one
            if merged and merged[-1][1] == e * s:
                merged[-1] = (merged[-1][0] * e, s)
            else:
                merged.append((e, s))
        if len(merged) > DIMS:
            raise self.unsupported(op, f"it moves {len(merged)} dimensions; {DIMS} are possible")
        merged = [(1, 0)] * (DIMS - len(merged)) + merged
        numbers = [base, *(e for e, _ in merged), *(s for _, s in merged), 0]
        r.table, r.table_count = self.table(np.array(numbers).reshape(-1, 3)), 4

    @staticmethod
    def natural(shape: tuple[int, ...]) -> list[int]:
        return [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]

    def op_transpose(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.same_quantisation(op, x, y)
        order = [int(v) for v in self.tensor(op, 1, constant=True).content.reshape(-1)]
        if sorted(order) != list(range(len(x.shape))):
            raise self.unsupported(op, f"{order} is no order of the dimensions of {x.shape}")
        steps = self.natural(x.shape)
        self.strided(op, r, 0, [x.shape[i] for i in order], [steps[i] for i in order])

    def op_slice(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.same_quantisation(op, x, y)
        begin = [int(v) for v in self.tensor(op, 1, constant=True).content.reshape(-1)]
        self.section(op, r, x, y, begin, [1] * len(begin), list(y.shape))

    def section(
        self, op: Op, r: Record, x: Tensor, y: Tensor, begin: list[int], by: list[int], extents: list[int]
    ) -> None:
        steps = self.natural(x.shape)
        if len(begin) != len(x.shape) or math.prod(extents) != y.size:
            raise self.unsupported(op, f"it cuts {y.shape} out of {x.shape} in a way that is not supported")
        self.strided(
            op,
            r,
            sum(b * s for b, s in zip(begin, steps, strict=True)),
            extents,
            [b * s for b, s in zip(by, steps, strict=True)],
        )

    def op_strided_slice(self, op: Op, r: Record) -> None:
        x, y, o = self.src(op), self.dst(op), op.options
        self.same_quantisation(op, x, y)
        begin, end, by = (
            [int(v) for v in self.tensor(op, i, constant=True).content.reshape(-1)] for i in (1, 2, 3)
        )
        if (
            o.EllipsisMask()
            or o.NewAxisMask()
            or not len(begin) == len(end) == len(by) <= len(x.shape)
            or 0 in by
        ):
            raise self.unsupported(
                op, "an ellipsis or a new axis is not supported", "name every dimension of the slice"
            )
        first: list[int] = []
        extents: list[int] = []
        steps: list[int] = []
        for i, n in enumerate(x.shape):
            if i >= len(begin):
                first, extents, steps = [*first, 0], [*extents, n], [*steps, 1]
                continue
            indices = range(n)[self.bound(begin, o.BeginMask(), i) : self.bound(end, o.EndMask(), i) : by[i]]
            if o.ShrinkAxisMask() >> i & 1:
                at = begin[i] % n
                indices = range(at, at + 1)
            if not indices:
                raise self.unsupported(op, "it cuts nothing out")
            first, extents, steps = [*first, indices[0]], [*extents, len(indices)], [*steps, by[i]]
        self.section(op, r, x, y, first, steps, extents)

    @staticmethod
    def bound(values: list[int], mask: int, i: int) -> int | None:
        return None if mask >> i & 1 else values[i]

    def op_resize_nearest_neighbor(self, op: Op, r: Record) -> None:
        x, y, o = self.src(op), self.dst(op), op.options
        self.same_quantisation(op, x, y)
        h, w, c = self.image(op, x)
        out = self.image(op, y)
        rows = [self.nearest(i, n, m, o) for n, m in ((h, out[0]), (w, out[1])) for i in range(m)]
        r.dims[:6] = [h, w, c, *out]
        r.table_count = -(-len(rows) // 3)
        r.table = self.table(np.array(rows + [0] * (3 * r.table_count - len(rows))).reshape(-1, 3))

    @staticmethod
    def nearest(i: int, inputs: int, outputs: int, options: Any) -> int:
        """Input position of output position i, in single precision as tflite-micro has it
        (GetNearestNeighbor)."""
        corners, half = options.AlignCorners(), options.HalfPixelCenters()
        less = 1 if corners and outputs > 1 else 0
        scale = np.float32(inputs - less) / np.float32(outputs - less)
        at = (np.float32(i) + np.float32(0.5 if half else 0.0)) * scale
        found = math.floor(at + 0.5) if corners else math.floor(at)
        return max(0, min(found, inputs - 1))

    def op_resize_bilinear(self, op: Op, r: Record) -> None:
        x, y, o = self.src(op), self.dst(op), op.options
        self.same_quantisation(op, x, y)
        h, w, c = self.image(op, x)
        out = self.image(op, y)
        rows = [self.between(i, n, m, o) for n, m in ((h, out[0]), (w, out[1])) for i in range(m)]
        if any(low > high for low, high, _ in rows):
            raise self.unsupported(op, f"tflite-micro reads beyond its input of {h} x {w}")
        r.dims[:6] = [h, w, c, *out]
        r.table_count, r.table = len(rows), self.table(np.array(rows))

    @staticmethod
    def between(i: int, inputs: int, outputs: int, options: Any) -> tuple[int, int, int]:
        """Input positions before and after output position i, and the fraction of the way between them in
        units of 1/1024, in integers as tflite-micro has it (ComputeInterpolationValuesInteger)."""
        one = 1 << FRACTION_BITS
        less = 1 if options.AlignCorners() and outputs > 1 else 0
        scale = (one * (inputs - less) + (outputs - less) // 2) // (outputs - less)
        at = i * scale + (scale // 2 - one // 2 if options.HalfPixelCenters() else 0)
        low = max(0, at // one)
        high = min(max(0, -(-at // one)), inputs - 1)
        return low, high, 0 if low == high else at - low * one

    def op_transpose_conv(self, op: Op, r: Record) -> None:
        w, x, y, o = self.tensor(op, 1, constant=True), self.src(op, 2), self.dst(op), op.options
        in_h, in_w, in_c = self.image(op, x)
        out_h, out_w, out_c = self.image(op, y)
        if len(w.shape) != 4 or w.shape[0] != out_c or w.shape[3] != in_c:
            raise self.unsupported(op, f"weights {w.shape} do not fit {in_c} and {out_c} channels")
        k, stride, pads = w.shape[1:3], (o.StrideH(), o.StrideW()), []
        for inputs, n, kernel, s in zip((in_h, in_w), (out_h, out_w), k, stride, strict=True):
            same = o.Padding() == tflite.Padding.SAME
            expected = -(-n // s) if same else (n - kernel) // s + 1
            if s < 1 or expected != inputs:
                raise self.unsupported(
                    op, f"its output has {n} rows or columns, which do not come of {inputs}"
                )
            pads.append(max((expected - 1) * s + kernel - n, 0) // 2 if same else 0)
        bias = self.bias(op, 3, out_c)
        q = self.requant(op, x, w, y, out_c)
        self.weights(r, w, self.plain_table(op, bias, q, 255 * 128 * (w.size // out_c)), out_c)
        r.low, r.high = activation(o.FusedActivationFunction(), y, self.m.label(op))
        r.dims[:14] = [in_h, in_w, in_c, out_h, out_w, out_c, *k, *stride, *pads, 1, 1]
        r.x = x.index
