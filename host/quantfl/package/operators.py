"""One record per operator: what a kernel needs, computed from the model.

Rounding follows tflite-micro (gemmlowp: two roundings), so results are equal byte for byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import tflite

from quantfl.core import ffi
from quantfl.errors import UnsupportedError
from quantfl.package.fixedpoint import quantize_multiplier
from quantfl.package.flatfile import ModelFile, Op, Tensor

#: Bytes of a qfl_nn_record.
RECORD_SIZE: int = ffi.sizeof("qfl_nn_record")
WIDE = 64  # subtracted from the shift of a channel whose accumulator may reach 2^30

CODES = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 3,
    "AVERAGE_POOL_2D": 4,
    "MAX_POOL_2D": 5,
    "MEAN": 6,
    "ADD": 7,
    "PAD": 8,
    "RESHAPE": 9,
    "SQUEEZE": 9,
    "EXPAND_DIMS": 9,
    "SOFTMAX": 10,
    "LOG_SOFTMAX": 9,
    "ARG_MAX": 9,
    "RELU": 11,
    "RELU6": 11,
    "QUANTIZE": 11,
    "DEQUANTIZE": 9,
    "CONCATENATION": 12,
    "PACK": 12,
    "SPLIT": 13,
    "SPLIT_V": 13,
    "UNPACK": 13,
    "STRIDED_SLICE": 14,
    "SLICE": 14,
    "TRANSPOSE": 14,
    "RESIZE_NEAREST_NEIGHBOR": 15,
    "RESIZE_BILINEAR": 20,
    "LOGISTIC": 16,
    "TANH": 16,
    "HARD_SWISH": 16,
    "LEAKY_RELU": 16,
    "MUL": 17,
    "SUB": 7,
    "PRELU": 18,
    "TRANSPOSE_CONV": 19,
    "REDUCE_MAX": 5,
    "PADV2": 8,
    "GATHER": 15,
    "MIRROR_PAD": 15,
    "DEPTH_TO_SPACE": 14,
    "SPACE_TO_DEPTH": 14,
    "SUM": 6,
    "MAXIMUM": 16,
    "MINIMUM": 16,
}
#: Of operators of uint8 models whose arithmetic has no int8 twin (qfl_nn_offset.c), and what they are there.
OFFSET = 21
OFFSET_CONV, OFFSET_DEPTHWISE, OFFSET_AVERAGE = 0, 1, 2
#: What messages call the code of an operator.
NAMES = {code: name for name, code in reversed(CODES.items())} | {OFFSET: "kernels of uint8 models"}
#: What may follow a DEQUANTIZE at a model's end.
FLOAT_ENDS = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX")
_REMEDY = "replace the layer; docs/PACKAGE.md lists what boards run"


#: Fields of a qfl_nn_record: those that a Record names as it does, and those of its list `dims`.
_NUMBERS = (
    *("code", "src", "src2", "dst", "src_size", "src2_size", "dst_size", "src_zero", "src2_zero", "dst_zero"),
    *("low", "high", "weights", "weights_size", "table", "table_count", "scratch", "scratch_size"),
)
_DIMS = [
    "in_h",
    "in_w",
    "in_c",
    "out_h",
    "out_w",
    "out_c",
    "k_h",
    "k_w",
    "stride_h",
    "stride_w",
    "pad_t",
    "pad_l",
    "dil_h",
    "dil_w",
    "multiplier",
    "flags",
]


@dataclass
class Record:
    code: int = 0
    src: int = 0
    src2: int = 0
    dst: int = 0
    src_size: int = 0
    src2_size: int = 0
    dst_size: int = 0
    src_zero: int = 0
    src2_zero: int = 0
    dst_zero: int = 0
    low: int = -128
    high: int = 127
    weights: int = 0
    weights_size: int = 0
    table: int = 0
    table_count: int = 0
    y_zero: int | None = None  # where it is not the output's own zero-point
    scratch: int = 0
    scratch_size: int = 0
    # in_h in_w in_c out_h out_w out_c k_h k_w stride_h stride_w pad_t pad_l dil_h dil_w multiplier flags
    dims: list[int] = field(default_factory=lambda: [0] * 16)
    extra: list[int] = field(default_factory=lambda: [0] * 4)
    # For the planner: tensors behind src (-1: the operator's first input) and src2 (None: there is none), and
    # the tensors whose places fill the table of a CONCATENATION or SPLIT.
    x: int = -1
    x2: int | None = None
    pieces: tuple[int, ...] = ()
    nothing: bool = False  # whatever the output's shape, the input is what a board gives
    own_weights: bool = False  # they lie in the program's tables, not in the user's file

    def pack(self) -> bytes:
        """The bytes of the record in a package. OverflowError for a number that does not fit its field."""
        fields = {name: getattr(self, name) for name in _NUMBERS}
        fields |= dict(zip(_DIMS, self.dims, strict=True)) | {"extra": self.extra}
        return bytes(ffi.buffer(ffi.new("qfl_nn_record *", fields)))


def activation(kind: int, out: Tensor, what: str) -> tuple[int, int]:
    """Clamp of a fused activation in the output's quantisation."""
    zero, scale = out.zero_point, out.scale
    if kind == tflite.ActivationFunctionType.NONE:
        return -128, 127
    if kind == tflite.ActivationFunctionType.RELU:
        return max(-128, zero), 127
    if kind == tflite.ActivationFunctionType.RELU6:
        return max(-128, zero), min(127, math.floor(6.0 / scale + 0.5) + zero)
    if kind == tflite.ActivationFunctionType.RELU_N1_TO_1:
        one = math.floor(1.0 / scale + 0.5)
        return max(-128, zero - one), min(127, zero + one)
    raise UnsupportedError(f"{what}: fused activation {kind} is not supported; use ReLU, ReLU6 or none")


class BaseOperators:
    """What the methods that make records share, and those of convolutions, pools and the like; tables grow as
    they are made."""

    def __init__(self, model: ModelFile):
        self.m = model
        self.tables = bytearray()

    def unsupported(self, op: Op, why: str, remedy: str = _REMEDY) -> UnsupportedError:
        return UnsupportedError(f"{self.m.label(op)}: {why}; {remedy}")

    def tensor(self, op: Op, i: int, *, constant: bool = False) -> Tensor:
        if i >= len(op.inputs) or op.inputs[i] < 0:
            raise self.unsupported(op, f"input {i} is missing")
        t = self.m.tensors[op.inputs[i]]
        if constant and t.data is None:
            raise self.unsupported(op, f"input {t.name} is not constant", "weights must be part of the model")
        return t

    def activation_tensor(self, op: Op, t: Tensor) -> Tensor:
        if t.dtype != np.int8:
            raise self.unsupported(
                op,
                f"tensor {t.name} is {t.dtype.name if t.dtype.kind != 'V' else 'of an unknown type'}, not "
                "int8",
                "quantise the whole model to int8, inputs and outputs too",
            )
        if len(t.scales) != 1 or not -128 <= t.zero_point <= 127:
            raise self.unsupported(op, f"tensor {t.name} has no single scale and zero-point")
        if t.size == 0 or t.size >= 1 << 24:
            raise self.unsupported(op, f"tensor {t.name} has shape {t.shape}", "give it another shape")
        return t

    def src(self, op: Op, i: int = 0) -> Tensor:
        t = self.tensor(op, i)
        if t.data is not None:
            raise self.unsupported(op, f"constant input {t.name} is not supported")
        return self.activation_tensor(op, t)

    def dst(self, op: Op) -> Tensor:
        if len(op.outputs) != 1:
            raise self.unsupported(op, f"it has {len(op.outputs)} outputs")
        return self.activation_tensor(op, self.m.tensors[op.outputs[0]])

    def table(self, rows: np.ndarray) -> int:
        """Append int32 rows [n, 3] (bias, multiplier, shift); returns the offset within the tables."""
        at = len(self.tables)
        self.tables += np.ascontiguousarray(rows, "<i4").tobytes()
        return at

    def image(self, op: Op, t: Tensor) -> tuple[int, int, int]:
        if len(t.shape) != 4:
            raise self.unsupported(
                op, f"tensor {t.name} has shape {t.shape}, not [1, height, width, channels]"
            )
        if t.shape[0] != 1:
            raise self.unsupported(
                op, f"tensor {t.name} has shape {t.shape}", "export the model with a batch size of 1"
            )
        if max(t.shape) > 65535:
            raise self.unsupported(op, f"tensor {t.name} is too large: {t.shape}")
        _, height, width, channels = t.shape
        return height, width, channels

    def requant(self, op: Op, x: Tensor, w: Tensor, y: Tensor, channels: int) -> list[tuple[int, int]]:
        unsigned = x.index in self.m.unsigned
        offset = unsigned and len(w.scales) == 1 and -128 <= w.zero_point <= 127
        if w.dtype != np.int8 or len(w.scales) not in (1, channels) or (w.zero_points.any() and not offset):
            raise self.unsupported(
                op,
                f"weights {w.name} are not symmetric int8",
                "quantise with int8 weights (TFLite's default)",
            )
        scales = np.repeat(w.scales, channels) if len(w.scales) == 1 else w.scales
        if unsigned:  # kernels of uint8 multiply the first two in single precision
            return [quantize_multiplier(float(np.float32(x.scale) * s) / y.scale) for s in scales]
        # TFLite computes in double: input_scale * filter_scale / output_scale, from float32 scales.
        return [quantize_multiplier(x.scale * float(s) / y.scale) for s in scales]

    def bias(self, op: Op, i: int, channels: int) -> np.ndarray:
        if i >= len(op.inputs) or op.inputs[i] < 0:
            return np.zeros(channels, np.int64)
        b = self.tensor(op, i, constant=True)
        if b.dtype != np.int32 or b.size != channels:
            raise self.unsupported(op, f"bias {b.name} is not int32 with {channels} values")
        return b.content.reshape(-1).astype(np.int64)

    def conv_table(
        self,
        op: Op,
        w: np.ndarray,
        x: Tensor,
        bias: np.ndarray,
        q: list[tuple[int, int]],
        offset: int = 0,
    ) -> int:
        """w [channels, k]: rows (bias - zero * sum of weights, multiplier, shift). Wide channels are marked
        (WIDE). offset: zero-point of the weights."""
        w64 = w.astype(np.int64) - offset
        folded = bias - x.zero_point * w64.sum(1)
        most = 128 * 128 * w64.shape[1] * (2 if offset else 1)
        # A sum that is multiplied by 0 cannot matter, whatever its bias is.
        beyond = np.abs(folded) + most >= 1 << 31
        folded = np.where(beyond & np.array([m == 0 for m, _ in q]), 0, folded)
        if (np.abs(folded) + most).max(initial=0) >= 1 << 31 or w64.shape[1] >= 65536 // (2 if offset else 1):
            raise self.unsupported(op, "its accumulators may overflow 32 bits", "retrain with smaller biases")
        wide = np.abs(folded) + 128 * np.abs(w64).sum(1) >= 1 << 30
        shifts = np.array([s for _, s in q]) - WIDE * wide
        return self.table(np.stack([folded, [m for m, _ in q], shifts], 1))

    # -- operators
    # -----------------------------------------------------------------------------------------------

    def window(
        self, op: Op, r: Record, x: Tensor, y: Tensor, k: tuple[int, int], dilation: tuple[int, int]
    ) -> None:
        o = op.options
        in_h, in_w, in_c = self.image(op, x)
        out_h, out_w, out_c = self.image(op, y)
        stride = o.StrideH(), o.StrideW()
        if min(*stride, *dilation, *k) < 1 or max(*stride, *dilation, *k) > 65535:
            raise self.unsupported(op, "strides, dilation and window must be at least 1")
        pads = []
        for n, out, kernel, s, d in zip((in_h, in_w), (out_h, out_w), k, stride, dilation, strict=True):
            effective = (kernel - 1) * d + 1
            if o.Padding() == tflite.Padding.SAME:
                expected, total = -(-n // s), max(((-(-n // s)) - 1) * s + effective - n, 0)
            else:
                expected, total = -(-(n - effective + 1) // s), 0
            if expected != out:
                raise self.unsupported(op, f"its output has {out} rows or columns where {expected} are due")
            pads.append(total // 2)
        r.dims = [in_h, in_w, in_c, out_h, out_w, out_c, *k, *stride, *pads, *dilation, 0, 0]

    def op_conv_2d(self, op: Op, r: Record) -> None:
        x, w, y = self.src(op), self.tensor(op, 1, constant=True), self.dst(op)
        channels = w.shape[0]
        self.window(
            op,
            r,
            x,
            y,
            (w.shape[1], w.shape[2]),
            (op.options.DilationHFactor(), op.options.DilationWFactor()),
        )
        if w.shape[3] != r.dims[2] or channels != r.dims[5]:
            raise self.unsupported(op, f"grouped convolution (weights {w.shape} on {r.dims[2]} channels)")
        table = self.conv_table(
            op,
            w.content.reshape(channels, -1),
            x,
            self.bias(op, 2, channels),
            self.requant(op, x, w, y, channels),
            w.zero_point,
        )
        self.weights(r, w, table, channels)
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))
        patch = int(np.prod(w.shape[1:]))
        if w.zero_point:
            self.offset(r, OFFSET_CONV, w.zero_point, patch)
            return
        pointwise = w.shape[1:3] == (1, 1) and r.dims[8:12] == [1, 1, 0, 0]
        padded = -(-patch // 4) * 4
        r.scratch_size = 8 * padded + (0 if pointwise else padded)

    def op_depthwise_conv_2d(self, op: Op, r: Record) -> None:
        x, w, y = self.src(op), self.tensor(op, 1, constant=True), self.dst(op)
        channels = w.shape[3]
        self.window(
            op,
            r,
            x,
            y,
            (w.shape[1], w.shape[2]),
            (op.options.DilationHFactor(), op.options.DilationWFactor()),
        )
        multiplier = channels // max(1, r.dims[2])
        if multiplier * r.dims[2] != channels or channels != r.dims[5] or w.shape[0] != 1:
            raise self.unsupported(op, f"weights {w.shape} do not fit {r.dims[2]} channels")
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))
        r.dims[14] = multiplier
        taps, bias = w.content.reshape(-1, channels).T, self.bias(op, 2, channels)
        q = self.requant(op, x, w, y, channels)
        if w.zero_point:
            self.weights(r, w, self.plain_table(op, bias, q, 255 * 255 * len(taps.T)), channels)
            self.offset(r, OFFSET_DEPTHWISE, w.zero_point)
            return
        self.weights(r, w, self.conv_table(op, taps, x, bias, q), channels)
        # A table of pointers, 8 bytes each so that the same package runs on 64-bit hosts, and a row of
        # zero-points.
        r.scratch_size = 8 * w.shape[1] * w.shape[2] + r.dims[2]

    def op_fully_connected(self, op: Op, r: Record) -> None:
        x, w, y = self.src(op), self.tensor(op, 1, constant=True), self.dst(op)
        rows = len(w.shape) == 2 and w.shape[1] > 0 and x.size % w.shape[1] == 0
        if rows and (x.size > w.shape[1] or w.zero_point):
            return self.dense_over_rows(op, r, x, w, y)
        if len(w.shape) != 2 or x.size != w.shape[1] or y.size != w.shape[0] or max(w.shape) > 65535:
            raise self.unsupported(op, f"weights {w.shape} do not fit {x.size} inputs and {y.size} outputs")
        table = self.conv_table(
            op, w.content, x, self.bias(op, 2, w.shape[0]), self.requant(op, x, w, y, w.shape[0])
        )
        self.weights(r, w, table, w.shape[0])
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))
        r.dims[2], r.dims[5] = w.shape[1], w.shape[0]
        r.scratch_size = 2 * (-(-w.shape[1] // 4) * 4)
        return None

    def dense_over_rows(self, op: Op, r: Record, x: Tensor, w: Tensor, y: Tensor) -> None:
        """A dense layer on every row of its input (Keras' Dense on a sequence): a 1x1 convolution, with the
        same rounding."""
        rows, channels = x.size // w.shape[1], w.shape[0]
        if y.size != rows * channels or max(rows, *w.shape) > 65535:
            raise self.unsupported(op, f"weights {w.shape} do not fit {x.shape} and {y.shape}")
        q = self.requant(op, x, w, y, channels)
        table = self.conv_table(op, w.content, x, self.bias(op, 2, channels), q, w.zero_point)
        self.weights(r, w, table, channels)
        r.code = CODES["CONV_2D"]
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))
        r.dims[:14] = [1, rows, w.shape[1], 1, rows, channels, 1, 1, 1, 1, 0, 0, 1, 1]
        r.scratch_size = 8 * (-(-w.shape[1] // 4) * 4)
        if w.zero_point:
            self.offset(r, OFFSET_CONV, w.zero_point, w.shape[1])

    def offset(self, r: Record, kind: int, zero: int = 0, scratch: int = 0) -> None:
        """The record of an operator of a uint8 model that has no int8 twin."""
        r.code, r.dims[15], r.extra[0], r.scratch_size = OFFSET, kind, zero, scratch

    def plain_table(self, op: Op, bias: np.ndarray, q: list[tuple[int, int]], most: int) -> int:
        """Rows (bias, multiplier, shift) of a kernel that subtracts zero-points itself; most: of its
        products' sum."""
        largest = np.abs(bias) + most
        if largest.max(initial=0) >= 1 << 31:
            raise self.unsupported(op, "its accumulators may overflow 32 bits", "retrain with smaller biases")
        shifts = np.array([s for _, s in q]) - WIDE * (largest >= 1 << 30)
        return self.table(np.stack([bias, [m for m, _ in q], shifts], 1))

    def weights(self, r: Record, w: Tensor, table: int, channels: int) -> None:
        r.weights, r.weights_size, r.table, r.table_count = w.offset, w.size, table, channels

    def op_average_pool_2d(self, op: Op, r: Record) -> None:
        self.pool(op, r)

    def op_max_pool_2d(self, op: Op, r: Record) -> None:
        self.pool(op, r)

    def pool(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.same_quantisation(op, x, y)
        self.window(op, r, x, y, (op.options.FilterHeight(), op.options.FilterWidth()), (1, 1))
        if r.dims[2] != r.dims[5]:
            raise self.unsupported(op, "input and output differ in channels")
        if x.index in self.m.unsigned and op.name == "AVERAGE_POOL_2D":
            self.offset(r, OFFSET_AVERAGE)
        r.low, r.high = activation(op.options.FusedActivationFunction(), y, self.m.label(op))

    def same_quantisation(self, op: Op, x: Tensor, y: Tensor) -> None:
        if x.scale != y.scale or x.zero_point != y.zero_point:
            raise self.unsupported(
                op, "input and output are quantised differently", "quantise with TFLite's converter"
            )

    def reduced(self, op: Op, x: Tensor, y: Tensor, axes: Tensor) -> tuple[int, int, int, int]:
        """Groups, height, width, channels: groups x (height * width) x channels lie in memory, one result per
        group and channel.

        Height and width of an image or the time axis of a 1-D network are one group; other axes are taken
        when they lie side by side.
        """
        dims = {int(a) % len(x.shape) for a in axes.content.reshape(-1)}
        real = [i for i, n in enumerate(x.shape) if n != 1]  # axes of one element change nothing
        gone = [i for i in real if i in dims]
        if gone and [i for i in real if gone[0] <= i <= gone[-1]] != gone:
            raise self.unsupported(op, f"reduction over axes {sorted(dims)}, which do not lie side by side")
        first, last = (gone[0], gone[-1]) if gone else (min(dims), min(dims))
        sizes = [
            int(np.prod(part)) for part in (x.shape[:first], x.shape[first : last + 1], x.shape[last + 1 :])
        ]
        groups, count, c = sizes
        if max(sizes) > 65535 or y.size != groups * c:
            raise self.unsupported(op, f"tensor {x.name} is too large or of a wrong shape: {x.shape}")
        h = x.shape[1] if len(x.shape) == 4 and groups == 1 and dims == {1, 2} else 1
        return groups, h, count // h, c

    def op_reduce_max(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        self.same_quantisation(op, x, y)
        groups, h, w, c = self.reduced(op, x, y, self.tensor(op, 1, constant=True))
        r.dims[:14] = [groups * h, w, c, groups, 1, c, h, w, h, 1, 0, 0, 1, 1]

    def op_mean(self, op: Op, r: Record) -> None:
        x, y, axes = self.src(op), self.dst(op), self.tensor(op, 1, constant=True)
        groups, h, w, c = self.reduced(op, x, y, axes)
        count = h * w
        q, shift = quantize_multiplier(x.scale / y.scale)
        # TFLite folds 1/count into the multiplier: as many bits as fit are gained first.
        extra = min(count.bit_length() - 1, 32, 31 + shift)
        r.dims[:6] = [groups * h, w, c, groups, 1, c]
        r.extra[:3] = [(q << extra) // count, shift - extra, count]
        r.scratch_size = 4 * c

    def op_pad(self, op: Op, r: Record) -> None:
        x, y, pads = self.src(op), self.dst(op), self.tensor(op, 1, constant=True)
        self.same_quantisation(op, x, y)
        if op.name == "PADV2":
            fill = self.tensor(op, 2, constant=True)
            if (
                fill.dtype != np.int8
                or fill.size != 1
                or not np.array_equal(fill.scales, y.scales)
                or fill.zero_point != y.zero_point
            ):
                raise self.unsupported(op, "its padding value is not an int8 of the same scale")
            r.y_zero = int(fill.content.reshape(-1)[0])
        shape, out, p = x.shape, y.shape, pads.content.reshape(-1, 2)
        if len(shape) == 4 and p[3].any() and self.padded_axis(op, r, x, y, p):
            return
        if len(shape) == len(out) == len(p) == 3:  # a 1-D network
            shape, out, p = (1, *shape), (1, *out), np.concatenate([[[0, 0]], p])
        images = len(shape) == len(out) == len(p) == 4
        if not images or p.min() < 0 or (p[0] != 0).any() or (p[3] != 0).any() or max(out) > 65535:
            raise self.unsupported(op, "only height and width, or time, can be padded")
        if out != (1, shape[1] + p[1].sum(), shape[2] + p[2].sum(), shape[3]):
            raise self.unsupported(op, "its output shape does not fit its padding")
        r.dims[:6] = [*shape[1:], *out[1:]]
        r.dims[10:12] = [int(p[1][0]), int(p[2][0])]

    op_padv2 = op_pad

    def padded_axis(self, op: Op, r: Record, x: Tensor, y: Tensor, pads: np.ndarray) -> bool:
        """Whether it is of one axis only, and made so. See IndexedOperators."""
        return False

    def op_reshape(self, op: Op, r: Record) -> None:
        x, y = self.src(op), self.dst(op)
        if x.size != y.size:
            raise self.unsupported(op, f"cannot reshape {x.shape} to {y.shape}")

    op_squeeze = op_expand_dims = op_reshape

    def op_log_softmax(self, op: Op, r: Record) -> None:
        """At the very end, in floating point or not: it changes no class, and a board's output is what it
        reads."""
        self.last(op, r)

    def op_arg_max(self, op: Op, r: Record) -> None:
        """At the very end: a board's output is the scores."""
        self.last(op, r)

    def last(self, op: Op, r: Record) -> None:
        if op.outputs[0] not in self.m.outputs:
            raise self.unsupported(op, "it is supported at the model's end only")
        r.code, r.nothing = CODES["RESHAPE"], True

    def op_quantize(self, op: Op, r: Record) -> None:
        """int8 to int8 of another scale; from or to float there is nothing for a board to do."""
        x = self.tensor(op, 0)
        if x.dtype == np.float32 and op.inputs[0] in self.m.inputs:
            r.code = CODES["RESHAPE"]  # the board's input is what this operator makes
            self.dst(op)
            return
        x, y = self.src(op), self.dst(op)
        if x.scale == y.scale and x.zero_point == y.zero_point:
            r.code = CODES["RESHAPE"]  # the same numbers
            return
        r.extra[:2] = quantize_multiplier(float(np.float32(x.scale) / np.float32(y.scale)))

    def op_dequantize(self, op: Op, r: Record) -> None:
        """At the very end of a model; a board's output is the int8 tensor."""
        self.src(op)
        after = [o for o in self.m.ops if op.outputs[0] in o.inputs]
        if op.outputs[0] not in self.m.outputs and any(o.name not in FLOAT_ENDS for o in after):
            raise self.unsupported(
                op, "floating point in the midst of the model", "quantise the whole model to int8"
            )

    def op_softmax(self, op: Op, r: Record) -> None:
        if self.tensor(op, 0).dtype == np.float32:
            return self.last(op, r)
        x, y = self.src(op), self.dst(op)
        if abs(y.scale - 1 / 256) > 1e-9 or y.zero_point != -128 or x.size != y.size:
            raise self.unsupported(op, "softmax output must have scale 1/256 and zero-point -128")
        real = min(float(op.options.Beta()) * x.scale * (1 << 26), 2**31 - 1.0)
        q, left = quantize_multiplier(real)
        if not 0 <= left <= 31:
            raise self.unsupported(
                op,
                f"its input scale {x.scale:.3g} is out of range",
                "train the model: its outputs are all alike",
            )
        radius = math.floor(31.0 * (1 << 26) / (1 << left))
        r.dims[5] = x.shape[-1]
        r.extra[:3] = [q, left, -radius]
        return None

    def op_relu(self, op: Op, r: Record) -> None:
        self.relu(op, r, six=False)

    def op_relu6(self, op: Op, r: Record) -> None:
        self.relu(op, r, six=True)

    def relu(self, op: Op, r: Record, *, six: bool) -> None:
        x, y = self.src(op), self.dst(op)
        if six:
            # tflite-micro's stand-alone RELU6 clamps in the input's quantisation and does not rescale.
            self.same_quantisation(op, x, y)
            r.low, r.high = x.zero_point, min(127, math.floor(6.0 / x.scale + 0.5) + x.zero_point)
            r.extra[:2] = [1 << 30, 1]
        else:
            r.low, r.high = max(-128, y.zero_point), 127
            r.extra[:2] = quantize_multiplier(x.scale / y.scale)
