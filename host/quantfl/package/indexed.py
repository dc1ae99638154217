"""Records of operators that copy elements by an index known beforehand, and of clamps against a constant.

They run on the kernels of RESIZE_NEAREST_NEIGHBOR, STRIDED_SLICE, PAD, MEAN and tables, so a board needs no
code of their own.
"""

from __future__ import annotations

import numpy as np

from quantfl.package.fixedpoint import quantize_multiplier
from quantfl.package.flatfile import Op, Tensor
from quantfl.package.movement import MovementOperators
from quantfl.package.operators import CODES, Record


class IndexedOperators(MovementOperators):
    """GATHER, MIRROR_PAD, DEPTH_TO_SPACE, SPACE_TO_DEPTH, SUM, MAXIMUM and MINIMUM with a constant."""

    def picked(
        self, op: Op, r: Record, inputs: tuple[int, int, int], rows: list[int], columns: list[int]
    ) -> None:
        """A copy of [height, width, channels] whose rows and columns come from the given ones."""
        h, w, c = inputs
        if max(h, w, c, len(rows), len(columns)) > 65535:
            raise self.unsupported(op, "its input or output is too large")
        r.dims[:6] = [h, w, c, len(rows), len(columns), c]
        index = rows + columns
        r.table_count = -(-len(index) // 3)
        r.table = self.table(np.array(index + [0] * (3 * r.table_count - len(index))).reshape(-1, 3))

    def op_gather(self, op: Op, r: Record) -> None:
        x, y, index = self.src(op), self.dst(op), self.tensor(op, 1, constant=True)
        self.same_quantisation(op, x, y)
        axis, n = op.options.Axis() % len(x.shape), len(x.shape)
        values = [int(v) for v in index.content.reshape(-1)]
        if op.options.BatchDims() or not values or not all(0 <= v < x.shape[axis] for v in values):
            raise self.unsupported(op, f"indices {values[:8]} on axis {axis} of {x.shape}")
        outer, inner = (int(np.prod(s)) for s in (x.shape[:axis], x.shape[axis + 1 : n]))
        if y.size != outer * len(values) * inner:
            raise self.unsupported(op, "its output shape does not fit its indices")
        self.picked(op, r, (outer, x.shape[axis], inner), list(range(outer)), values)

    def op_mirror_pad(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.same_quantisation(op, x, y)
        pads = self.tensor(op, 1, constant=True).content.reshape(-1, 2)
        if len(x.shape) != 4 or len(pads) != 4 or pads[[0, 3]].any() or pads.min() < 0:
            raise self.unsupported(op, "only height and width can be padded")
        less = 1 - op.options.Mode()  # REFLECT leaves the border out, SYMMETRIC repeats it
        index = []
        for n, (before, after) in zip(x.shape[1:3], pads[1:3].tolist(), strict=True):
            if max(before, after) > n - less:
                raise self.unsupported(op, f"it pads {max(before, after)} of {n} rows or columns")
            low = [before - i - 1 + less for i in range(before)]
            index.append([*low, *range(n), *(n - 1 - less - i for i in range(after))])
        if y.shape != (1, len(index[0]), len(index[1]), x.shape[3]):
            raise self.unsupported(op, "its output shape does not fit its padding")
        self.picked(op, r, (x.shape[1], x.shape[2], x.shape[3]), *index)

    def op_depth_to_space(self, op: Op, r: Record) -> None:
        x, y, b = self.src(op), self.dst(op), op.options.BlockSize()
        self.same_quantisation(op, x, y)
        h, w, c = self.image(op, x)
        if b < 1 or self.image(op, y) != (h * b, w * b, c // (b * b)) or c % (b * b):
            raise self.unsupported(op, f"blocks of {b} do not make {y.shape} of {x.shape}")
        k = c // (b * b)
        self.strided(op, r, 0, [h, b, w, b, k], [w * c, b * k, c, k, 1])

    def op_space_to_depth(self, op: Op, r: Record) -> None:
        x, y, b = self.src(op), self.dst(op), op.options.BlockSize()
        self.same_quantisation(op, x, y)
        h, w, c = self.image(op, x)
        if b < 1 or h % b or w % b or self.image(op, y) != (h // b, w // b, c * b * b):
            raise self.unsupported(op, f"blocks of {b} do not make {y.shape} of {x.shape}")
        self.strided(op, r, 0, [h // b, w // b, b, b, c], [b * w * c, b * c, w * c, c, 1])

    def op_sum(self, op: Op, r: Record) -> None:
        x, y, axes = self.src(op), self.dst(op), self.tensor(op, 1, constant=True)
        groups, h, w, c = self.reduced(op, x, y, axes)
        q, shift = quantize_multiplier(float(np.float32(x.scale) / np.float32(y.scale)))
        r.dims[:6] = [groups * h, w, c, groups, 1, c]
        r.extra[:3] = [q, shift, h * w]
        r.scratch_size = 4 * c

    def clamped(self, op: Op, r: Record, largest: bool) -> None:
        """MAXIMUM or MINIMUM of a tensor and one constant, as a table."""
        first, second, y = self.tensor(op, 0), self.tensor(op, 1), self.dst(op)
        x, c = (second, first) if first.data is not None else (first, second)
        self.activation_tensor(op, x)
        if c.data is None or c.size != 1 or x.data is not None or c.dtype != np.int8:
            raise self.unsupported(op, "of two tensors; with one constant number it is supported")
        for t in (c, y):
            self.same_quantisation(op, x, t)
        limit = int(c.content.reshape(-1)[0])
        values = [max(v, limit) if largest else min(v, limit) for v in range(-128, 128)]
        r.x = x.index
        r.weights, r.weights_size, r.own_weights = len(self.tables), 256, True
        self.tables += np.array(values, np.int8).tobytes()

    def op_maximum(self, op: Op, r: Record) -> None:
        self.clamped(op, r, True)

    def op_minimum(self, op: Op, r: Record) -> None:
        self.clamped(op, r, False)

    def padded_axis(self, op: Op, r: Record, x: Tensor, y: Tensor, pads: np.ndarray) -> bool:
        """PAD of one axis, whichever: [before it, axis, after it] is an image whose width is padded."""
        axes = np.flatnonzero(pads.any(1))
        if len(axes) != 1 or pads.min() < 0 or len(pads) != len(x.shape):
            return False
        axis = int(axes[0])
        outer, inner = (int(np.prod(s)) for s in (x.shape[:axis], x.shape[axis + 1 :]))
        n, m = x.shape[axis], y.shape[axis]
        if m != n + pads[axis].sum() or max(outer, m, inner) > 65535:
            return False
        r.dims[:6] = [outer, n, inner, outer, m, inner]
        r.dims[10:12] = [0, int(pads[axis][0])]
        r.code = CODES["PAD"]
        return True
