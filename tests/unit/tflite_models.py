"""int8 .tflite models of one operator, written straight into the format: many shapes, scales and corner
cases, without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema


@dataclass
class Builder:
    """One subgraph. Tensors: shape, numpy type, scales, zero-point, constant content."""

    tensors: list = field(default_factory=list)
    buffers: list = field(default_factory=lambda: [schema.BufferT()])
    codes: list = field(default_factory=list)
    ops: list = field(default_factory=list)

    def add(
        self, shape, dtype="int8", scales=None, zero: int = 0, data: np.ndarray | None = None, axis: int = 0
    ) -> int:
        t = schema.TensorT()
        t.name, t.shape = f"t{len(self.tensors)}".encode(), np.array(shape, np.int32)
        t.type = {"int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}[dtype]
        t.buffer = 0
        if data is not None:
            b = schema.BufferT()
            b.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.buffers.append(b)
            t.buffer = len(self.buffers) - 1
        if scales is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.array(scales, np.float32))
            q.zeroPoint = np.full(len(q.scale), zero, np.int64)
            q.quantizedDimension = axis
            t.quantization = q
        self.tensors.append(t)
        return len(self.tensors) - 1

    def op(self, name: str, inputs: list[int], outputs: list[int], options=None) -> None:
        kinds = [c.builtinCode for c in self.codes]
        kind = getattr(schema.BuiltinOperator, name)
        if kind not in kinds:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
            self.codes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = (
            ([*kinds, kind]).index(kind),
            np.array(inputs, np.int32),
            np.array(outputs, np.int32),
        )
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        self.ops.append(op)

    def model(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators = self.tensors, self.ops
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model.version, model.operatorCodes, model.subgraphs, model.buffers = (
            3,
            self.codes,
            [graph],
            self.buffers,
        )
        b = flatbuffers.Builder(1024)
        b.Finish(model.Pack(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def finish(self, name: str, inputs: list[int], outputs: list[int], options=None) -> bytes:
        self.op(name, inputs, outputs, options)
        return self.model(
            list(dict.fromkeys(i for i in inputs if i >= 0 and self.tensors[i].buffer == 0)), outputs
        )


class Generator:
    """Random models of an operator. Every method returns the bytes of one."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def scale(self, low: float = 0.004, high: float = 0.5) -> float:
        return float(np.float32(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def zero(self) -> int:
        return int(self.rng.choice([-128, 127, 0, self.int(-128, 127)]))

    def weights(self, shape) -> np.ndarray:
        if self.rng.random() < 0.2:  # saturating
            return self.rng.choice(np.array([-127, 127], np.int8), shape)
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def activation(self) -> int:
        return int(
            self.rng.choice(
                [
                    schema.ActivationFunctionType.NONE,
                    schema.ActivationFunctionType.RELU,
                    schema.ActivationFunctionType.RELU6,
                ]
            )
        )

    def channels(self) -> int:
        return self.int(1, 33)

    def layer(
        self,
        name: str,
        x_shape,
        w_shape,
        y_shape,
        channels: int,
        axis: int,
        options,
        fan: int,
        order=(0, 1, 2),
        extra=(),
    ):
        """A convolution or dense layer with per-channel or per-tensor scales."""
        b, s_in = Builder(), self.scale()
        x = b.add(x_shape, scales=s_in, zero=self.zero())
        per_channel = self.rng.random() < 0.6
        s_w = [self.scale(0.001, 0.05) for _ in range(channels)] if per_channel else [self.scale(0.001, 0.05)]
        w = b.add(w_shape, scales=s_w, data=self.weights(w_shape), axis=axis)
        s_b = [s_in * s for s in s_w]
        bias = b.add([channels], "int32", s_b, 0, self.rng.integers(-20000, 20001, channels).astype(np.int32))
        s_out = float(np.float32(s_in * np.mean(s_w) * 100 * np.sqrt(fan) * self.rng.uniform(0.1, 1.5)))
        y = b.add(y_shape, scales=s_out, zero=self.zero())
        ids = [x, w, bias]
        return b.finish(name, [*extra_ids(b, extra), *(ids[i] for i in order)], [y], options)

    def window(self, options, h: int, w: int, *, pool: bool = False, dilate: bool = False):
        """Sets strides, padding and window; returns window and output height and width."""
        k, s = (self.int(1, 5), self.int(1, 5)), (self.int(1, 3), self.int(1, 3))
        same = self.rng.random() < 0.5
        d = (self.int(1, 2), self.int(1, 2)) if dilate and s == (1, 1) else (1, 1)
        if not same:
            k = tuple(min(a, (n - 1) // e + 1) for a, n, e in zip(k, (h, w), d, strict=True))
        options.strideH, options.strideW = s
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        out = []
        for n, a, t, e in zip((h, w), k, s, d, strict=True):
            effective = (a - 1) * e + 1
            out.append(-(-n // t) if same else -(-(n - effective + 1) // t))
        if pool:
            options.filterHeight, options.filterWidth = k
        elif dilate:
            options.dilationHFactor, options.dilationWFactor = d
        return k, tuple(out)

    def conv_2d(self) -> bytes:
        o = schema.Conv2DOptionsT()
        h, w, c, n = self.int(1, 9), self.int(1, 9), self.channels(), self.channels()
        o.fusedActivationFunction = self.activation()
        k, out = self.window(o, h, w, dilate=True)
        return self.layer("CONV_2D", [1, h, w, c], [n, *k, c], [1, *out, n], n, 0, o, k[0] * k[1] * c)

    def depthwise_conv_2d(self) -> bytes:
        o = schema.DepthwiseConv2DOptionsT()
        h, w, c, m = self.int(1, 9), self.int(1, 9), self.channels(), int(self.rng.choice([1, 1, 1, 2, 3]))
        o.depthMultiplier, o.fusedActivationFunction = m, self.activation()
        k, out = self.window(o, h, w, dilate=True)
        return self.layer(
            "DEPTHWISE_CONV_2D", [1, h, w, c], [1, *k, c * m], [1, *out, c * m], c * m, 3, o, k[0] * k[1]
        )

    def fully_connected(self) -> bytes:
        o = schema.FullyConnectedOptionsT()
        n, k = self.int(1, 130), self.channels()
        o.fusedActivationFunction = self.activation()
        return self.layer("FULLY_CONNECTED", [1, n], [k, n], [1, k], k, 0, o, n)

    def transpose_conv(self) -> bytes:
        o = schema.TransposeConvOptionsT()
        h, w, c, n = self.int(1, 7), self.int(1, 7), self.channels(), self.channels()
        k, s = (self.int(1, 4), self.int(1, 4)), (self.int(1, 3), self.int(1, 3))
        same = self.rng.random() < 0.5
        o.strideH, o.strideW, o.padding = *s, schema.Padding.SAME if same else schema.Padding.VALID
        if same:
            out = [a * t for a, t in zip((h, w), s, strict=True)]
        else:
            k = tuple(max(a, t) for a, t in zip(k, s, strict=True))
            out = [(a - 1) * t + e for a, t, e in zip((h, w), s, k, strict=True)]
        shape = np.array([1, *out, n], np.int32)
        return self.layer(
            "TRANSPOSE_CONV",
            [1, h, w, c],
            [n, *k, c],
            [1, *out, n],
            n,
            0,
            o,
            k[0] * k[1] * c,
            order=(1, 0, 2),
            extra=(shape,),
        )

    def unary(
        self,
        name: str,
        options=None,
        *,
        y_scale: float | None = None,
        y_zero: int | None = None,
        low=0.004,
        high=0.5,
    ) -> bytes:
        b, shape = Builder(), [1, self.int(1, 6), self.int(1, 6), self.channels()]
        s = self.scale(low, high)
        x = b.add(shape, scales=s, zero=self.zero())
        y = b.add(
            shape,
            scales=s * float(self.rng.uniform(0.3, 2.5)) if y_scale is None else y_scale,
            zero=self.zero() if y_zero is None else y_zero,
        )
        return b.finish(name, [x], [y], options)

    def logistic(self) -> bytes:
        return self.unary("LOGISTIC", y_scale=1 / 256, y_zero=-128, low=0.0005, high=7.9)

    def tanh(self) -> bytes:
        return self.unary("TANH", y_scale=1 / 128, y_zero=0, low=0.0005, high=7.9)

    def hard_swish(self) -> bytes:
        return self.unary("HARD_SWISH", low=0.002, high=0.3)

    def leaky_relu(self) -> bytes:
        o = schema.LeakyReluOptionsT()
        o.alpha = float(np.float32(self.rng.uniform(-0.5, 1.5)))
        return self.unary("LEAKY_RELU", o)

    def relu(self) -> bytes:
        return self.unary("RELU")

    def quantize(self) -> bytes:
        return self.unary("QUANTIZE", schema.QuantizeOptionsT())

    def softmax(self) -> bytes:
        b, o, n = Builder(), schema.SoftmaxOptionsT(), self.int(1, 60)
        o.beta = 1.0
        x = b.add([1, n], scales=self.scale(0.002, 2.0), zero=self.zero())
        return b.finish("SOFTMAX", [x], [b.add([1, n], scales=1 / 256, zero=-128)], o)

    def prelu(self) -> bytes:
        b, h, w, c = Builder(), self.int(1, 5), self.int(1, 5), self.channels()
        s = self.scale()
        x, shape = (
            b.add([1, h, w, c], scales=s, zero=self.zero()),
            [h, w, c] if self.rng.random() < 0.3 else [1, 1, c],
        )
        slope = b.add(shape, scales=self.scale(0.001, 0.02), zero=self.zero(), data=self.weights(shape))
        y = b.add([1, h, w, c], scales=s * float(self.rng.uniform(0.5, 2.0)), zero=self.zero())
        return b.finish("PRELU", [x, slope], [y])

    def binary(self, name: str, options, low: float, high: float) -> bytes:
        """Both operands from one tensor or a constant: a model has one input here."""
        b, shape = Builder(), [1, self.int(1, 5), self.int(1, 5), self.channels()]
        s, s2 = self.scale(), self.scale()
        x = b.add(shape, scales=s, zero=self.zero())
        second = [[1, 1, 1, shape[3]], [1, 1, 1, 1], [1, *shape[1:3], 1], shape][self.int(0, 3)]
        if self.rng.random() < 0.25:
            other, s2 = x, s
        else:
            other = b.add(second, scales=s2, zero=self.zero(), data=self.weights(second))
        top = s * s2 * 127 if name == "MUL" else 2 * max(s, s2)
        y = b.add(shape, scales=top * float(self.rng.uniform(low, high)), zero=self.zero())
        options.fusedActivationFunction = self.activation()
        first, last = (x, other) if self.rng.random() < 0.7 else (other, x)
        return b.finish(name, [first, last], [y], options)

    def add(self) -> bytes:
        return self.binary("ADD", schema.AddOptionsT(), 0.1, 1.5)

    def sub(self) -> bytes:
        return self.binary("SUB", schema.SubOptionsT(), 0.1, 1.5)

    def mul(self) -> bytes:
        return self.binary("MUL", schema.MulOptionsT(), 0.05, 2.0)

    def pool(self, name: str) -> bytes:
        b, o = Builder(), schema.Pool2DOptionsT()
        h, w, c = self.int(1, 9), self.int(1, 9), self.channels()
        o.fusedActivationFunction = self.activation()
        _, out = self.window(o, h, w, pool=True)
        s, z = self.scale(), self.zero()
        return b.finish(
            name, [b.add([1, h, w, c], scales=s, zero=z)], [b.add([1, *out, c], scales=s, zero=z)], o
        )

    def average_pool_2d(self) -> bytes:
        return self.pool("AVERAGE_POOL_2D")

    def max_pool_2d(self) -> bytes:
        return self.pool("MAX_POOL_2D")

    def mean(self) -> bytes:
        b, o = Builder(), schema.ReducerOptionsT()
        o.keepDims = bool(self.rng.random() < 0.5)
        shape, s = [1, self.int(1, 9), self.int(1, 9), self.channels()], self.scale()
        axes = [[1, 2], [1], [2], [3], [2, 3], [-1]][self.rng.choice(6, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])]
        gone = {i % 4 for i in axes}
        left = [1 if i in gone else n for i, n in enumerate(shape) if o.keepDims or i not in gone]
        x, axes = (
            b.add(shape, scales=s, zero=self.zero()),
            b.add([len(axes)], "int32", data=np.array(axes, np.int32)),
        )
        y = b.add(left, scales=s * float(self.rng.uniform(0.3, 1.5)), zero=self.zero())
        return b.finish("MEAN", [x, axes], [y], o)

    def moved(self) -> tuple[Builder, int, list[int], float, int]:
        b, shape, s, z = (
            Builder(),
            [1, self.int(1, 7), self.int(1, 7), self.channels()],
            self.scale(),
            self.zero(),
        )
        return b, b.add(shape, scales=s, zero=z), shape, s, z

    def pad(self) -> bytes:
        b, x, shape, s, z = self.moved()
        pads = np.array([[0, 0], *self.rng.integers(0, 4, (2, 2)), [0, 0]], np.int32)
        y = b.add([int(n + p.sum()) for n, p in zip(shape, pads, strict=True)], scales=s, zero=z)
        return b.finish("PAD", [x, b.add([4, 2], "int32", data=pads)], [y], schema.PadOptionsT())

    def concatenation(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o, axis = schema.ConcatenationOptionsT(), self.int(1, 3)
        o.axis = axis if self.rng.random() < 0.5 else axis - 4
        count, out = self.int(1, 3), list(shape)
        out[axis] *= count
        return b.finish("CONCATENATION", [x] * count, [b.add(out, scales=s, zero=z)], o)

    def transpose(self) -> bytes:
        b, x, shape, s, z = self.moved()
        order = np.array([0, *(1 + self.rng.permutation(3))], np.int32)
        y = b.add([shape[i] for i in order], scales=s, zero=z)
        return b.finish("TRANSPOSE", [x, b.add([4], "int32", data=order)], [y], schema.TransposeOptionsT())

    def strided_slice(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o = schema.StridedSliceOptionsT()
        begin, end, by, out = [0], [1], [1], [1]
        for n in shape[1:]:
            step = int(self.rng.choice([1, 2, 3, -1]))
            a, e = sorted(self.rng.choice(n + 1, 2, replace=False)) if n > 0 else (0, 1)
            if step < 0:
                a, e = e - 1, a - 1
                e = e if e >= 0 else -n - 1
            begin, end, by = [*begin, int(a)], [*end, int(e)], [*by, step]
            out.append(len(range(n)[int(a) : (None if e == -n - 1 else int(e)) : step]))
        o.beginMask = o.endMask = o.ellipsisMask = o.newAxisMask = o.shrinkAxisMask = 0
        ids = [b.add([4], "int32", data=np.array(v, np.int32)) for v in (begin, end, by)]
        return b.finish("STRIDED_SLICE", [x, *ids], [b.add(out, scales=s, zero=z)], o)

    def resize_nearest_neighbor(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o, out = schema.ResizeNearestNeighborOptionsT(), [self.int(1, 12), self.int(1, 12)]
        o.alignCorners, o.halfPixelCenters = [(False, False), (True, False), (False, True)][self.int(0, 2)]
        size = b.add([2], "int32", data=np.array(out, np.int32))
        return b.finish(
            "RESIZE_NEAREST_NEIGHBOR", [x, size], [b.add([1, *out, shape[3]], scales=s, zero=z)], o
        )

    def resize_bilinear(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o, out = schema.ResizeBilinearOptionsT(), [self.int(1, 12), self.int(1, 12)]
        o.alignCorners, o.halfPixelCenters = [(False, False), (True, False), (False, True)][self.int(0, 2)]
        size = b.add([2], "int32", data=np.array(out, np.int32))
        return b.finish("RESIZE_BILINEAR", [x, size], [b.add([1, *out, shape[3]], scales=s, zero=z)], o)

    def gather(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o, axis = schema.GatherOptionsT(), self.int(1, 3)
        o.axis, o.batchDims = axis if self.rng.random() < 0.5 else axis - 4, 0
        index = self.rng.integers(0, shape[axis], self.int(1, 6)).astype(np.int32)
        out = [*shape[:axis], len(index), *shape[axis + 1 :]]
        return b.finish(
            "GATHER", [x, b.add([len(index)], "int32", data=index)], [b.add(out, scales=s, zero=z)], o
        )

    def mirror_pad(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o = schema.MirrorPadOptionsT()
        o.mode = self.int(0, 1)
        most = [min(4, n - 1 + o.mode) for n in shape[1:3]]
        pads = [[0, 0], *([self.int(0, m), self.int(0, m)] for m in most), [0, 0]]
        y = b.add([n + sum(p) for n, p in zip(shape, pads, strict=True)], scales=s, zero=z)
        return b.finish("MIRROR_PAD", [x, b.add([4, 2], "int32", data=np.array(pads))], [y], o)

    def pad_channels(self) -> bytes:
        b, x, shape, s, z = self.moved()
        pads = np.zeros((4, 2), np.int32)
        pads[3] = self.rng.integers(0, 5, 2)
        y = b.add([*shape[:3], int(shape[3] + pads[3].sum())], scales=s, zero=z)
        return b.finish("PAD", [x, b.add([4, 2], "int32", data=pads)], [y], schema.PadOptionsT())

    def blocks(self, name: str, o, deep: bool) -> bytes:
        b, block = Builder(), self.int(1, 3)
        small = [1, self.int(1, 4), self.int(1, 4), self.int(1, 9) * block * block]
        large = [1, small[1] * block, small[2] * block, small[3] // (block * block)]
        o.blockSize, (s, z) = block, (self.scale(), self.zero())
        first, last = (large, small) if deep else (small, large)
        return b.finish(name, [b.add(first, scales=s, zero=z)], [b.add(last, scales=s, zero=z)], o)

    def depth_to_space(self) -> bytes:
        return self.blocks("DEPTH_TO_SPACE", schema.DepthToSpaceOptionsT(), False)

    def space_to_depth(self) -> bytes:
        return self.blocks("SPACE_TO_DEPTH", schema.SpaceToDepthOptionsT(), True)

    def sum(self) -> bytes:
        b, o = Builder(), schema.ReducerOptionsT()
        o.keepDims = bool(self.rng.random() < 0.5)
        shape, s = [1, self.int(1, 7), self.int(1, 7), self.channels()], self.scale()
        axes = [[1, 2], [1], [2], [3]][self.int(0, 3)]
        count = int(np.prod([shape[i] for i in axes]))
        left = [1 if i in axes else n for i, n in enumerate(shape) if o.keepDims or i not in axes]
        x, which = (
            b.add(shape, scales=s, zero=self.zero()),
            b.add([len(axes)], "int32", data=np.array(axes, np.int32)),
        )
        y = b.add(left, scales=s * count**0.5 * float(self.rng.uniform(0.5, 2.0)), zero=self.zero())
        return b.finish("SUM", [x, which], [y], o)

    def limit(self, name: str) -> bytes:
        b, x, shape, s, z = self.moved()
        c = b.add([1], scales=s, zero=z, data=self.rng.integers(-128, 128, 1).astype(np.int8))
        inputs = [x, c] if self.rng.random() < 0.7 else [c, x]
        return b.finish(name, inputs, [b.add(shape, scales=s, zero=z)], schema.MaximumMinimumOptionsT())

    def maximum(self) -> bytes:
        return self.limit("MAXIMUM")

    def minimum(self) -> bytes:
        return self.limit("MINIMUM")

    def split(self) -> bytes:
        b, x, shape, s, z = self.moved()
        o, axis = schema.SplitOptionsT(), self.int(1, 3)
        parts = int(self.rng.choice([d for d in range(1, 5) if shape[axis] % d == 0]))
        o.numSplits = parts
        out = list(shape)
        out[axis] //= parts
        which = b.add([1], "int32", data=np.array([axis], np.int32))
        return b.finish("SPLIT", [which, x], [b.add(out, scales=s, zero=z) for _ in range(parts)], o)


def extra_ids(b: Builder, arrays) -> list[int]:
    return [b.add(a.shape, "int32", data=a) for a in arrays]


OPERATORS = [
    name
    for name in vars(Generator)
    if name
    not in (
        "__init__",
        "int",
        "scale",
        "zero",
        "weights",
        "activation",
        "channels",
        "layer",
        "window",
        "unary",
        "binary",
        "pool",
        "moved",
        "blocks",
        "limit",
    )
    and not name.startswith("__")
]


class NetGenerator(Generator):
    """Random nets of several operators: chains, residual blocks with and without strides, pooling, padding,
    element-wise functions."""

    BLOCKS = (
        "conv",
        "conv",
        "depthwise",
        "residual",
        "residual",
        "pool",
        "pad",
        "lut",
        "relu",
        "prelu",
        "square",
        "scale",
    )

    def net(self) -> bytes:
        self.b = Builder()
        long = self.rng.random() < 0.2  # a 1-D network
        shape = (
            (1, 1, self.int(8, 40), self.int(1, 9))
            if long
            else (1, self.int(4, 20), self.int(1, 14), self.int(1, 9))
        )
        x = self.b.add(shape, scales=self.scale(0.01, 0.1), zero=self.zero())
        t = x
        for _ in range(self.int(2, 5)):
            t = getattr(self, "_" + self.rng.choice(self.BLOCKS))(t)
        if self.rng.random() < 0.5:
            t = self._pointwise(t, self.int(1, 5))
        y = self.b.add(
            (1, int(np.prod(self.b.tensors[t].shape))), scales=self._scale_of(t), zero=self._zero_of(t)
        )
        self.b.op("RESHAPE", [t], [y])
        return self.b.model([x], [y])

    def _scale_of(self, t: int) -> float:
        return float(self.b.tensors[t].quantization.scale[0])

    def _zero_of(self, t: int) -> int:
        return int(self.b.tensors[t].quantization.zeroPoint[0])

    def _layer(self, t: int, name: str, options, k, out, channels: int, multiplier: int = 1) -> int:
        c, depthwise, s_in = int(self.b.tensors[t].shape[3]), name == "DEPTHWISE_CONV_2D", self._scale_of(t)
        w_shape = [1, *k, c * multiplier] if depthwise else [channels, *k, c]
        n, fan = (c * multiplier, k[0] * k[1]) if depthwise else (channels, k[0] * k[1] * c)
        scales = [self.scale(0.005, 0.05) for _ in range(n)]
        w = self.b.add(w_shape, scales=scales, data=self.weights(w_shape), axis=3 if depthwise else 0)
        bias = self.b.add(
            [n], "int32", [s_in * s for s in scales], 0, self.rng.integers(-3000, 3001, n).astype(np.int32)
        )
        s_out = float(np.float32(s_in * np.mean(scales) * 60 * np.sqrt(fan)))
        y = self.b.add([1, *out, n], scales=s_out, zero=self.zero())
        self.b.op(name, [t, w, bias], [y], options)
        return y

    def _conv(self, t: int, channels: int | None = None) -> int:
        o, (_, h, w, _) = schema.Conv2DOptionsT(), self.b.tensors[t].shape
        o.fusedActivationFunction = self.activation()
        k, out = self.window(o, int(h), int(w), dilate=True)
        return self._layer(t, "CONV_2D", o, k, out, channels or self.int(1, 9))

    def _depthwise(self, t: int) -> int:
        o, (_, h, w, _) = schema.DepthwiseConv2DOptionsT(), self.b.tensors[t].shape
        m = o.depthMultiplier = int(self.rng.choice([1, 1, 2]))
        o.fusedActivationFunction = self.activation()
        k, out = self.window(o, int(h), int(w), dilate=True)
        return self._layer(t, "DEPTHWISE_CONV_2D", o, k, out, 0, m)

    def _same(self, t: int, k, stride, channels: int) -> int:
        o, (_, h, w, _) = schema.Conv2DOptionsT(), (int(n) for n in self.b.tensors[t].shape)
        o.padding, (o.strideH, o.strideW) = schema.Padding.SAME, stride
        o.fusedActivationFunction = self.activation()
        return self._layer(t, "CONV_2D", o, k, (-(-h // stride[0]), -(-w // stride[1])), channels)

    def _pointwise(self, t: int, channels: int) -> int:
        return self._same(t, (1, 1), (1, 1), channels)

    def _residual(self, t: int) -> int:
        stride = (self.int(1, 2), self.int(1, 2))
        identity = stride == (1, 1) or self.rng.random() < 0.3
        stride = (1, 1) if identity else stride
        c = int(self.b.tensors[t].shape[3]) if identity else self.int(1, 9)
        a = self._same(
            t, (self.int(1, 4), self.int(1, 4)), stride, self.int(1, 9) if self.rng.random() < 0.5 else c
        )
        b = self._same(a, (self.int(1, 3), self.int(1, 3)), (1, 1), c)
        skip = t if identity else self._same(t, (1, 1), stride, c)
        return self._sum("ADD", schema.AddOptionsT(), *((skip, b) if self.rng.random() < 0.5 else (b, skip)))

    def _sum(self, name: str, o, a: int, b: int) -> int:
        s = max(self._scale_of(a), self._scale_of(b)) * float(self.rng.uniform(1.0, 2.0))
        o.fusedActivationFunction = self.activation()
        y = self.b.add(self.b.tensors[a].shape, scales=s, zero=self.zero())
        self.b.op(name, [a, b], [y], o)
        return y

    def _square(self, t: int) -> int:
        """SUB of a constant per channel, then MUL with itself."""
        c = int(self.b.tensors[t].shape[3])
        constant = self.b.add(
            [1, 1, 1, c], scales=self._scale_of(t), zero=self.zero(), data=self.weights([1, 1, 1, c])
        )
        t = self._sum("SUB", schema.SubOptionsT(), t, constant)
        y = self.b.add(self.b.tensors[t].shape, scales=self._scale_of(t) ** 2 * 100, zero=self.zero())
        self.b.op("MUL", [t, t], [y], schema.MulOptionsT())
        return y

    def _scale(self, t: int) -> int:
        """Channels scaled by their own means, as squeeze-and-excite does."""
        c = int(self.b.tensors[t].shape[3])
        axes = self.b.add([2], "int32", data=np.array([1, 2], np.int32))
        mean, o = (
            self.b.add([1, 1, 1, c], scales=self._scale_of(t), zero=self.zero()),
            schema.ReducerOptionsT(),
        )
        o.keepDims = True
        self.b.op("MEAN", [t, axes], [mean], o)
        gate = self.b.add([1, 1, 1, c], scales=1 / 256, zero=-128)
        self.b.op("LOGISTIC", [mean], [gate])
        y = self.b.add(self.b.tensors[t].shape, scales=self._scale_of(t), zero=self.zero())
        self.b.op("MUL", [t, gate], [y], schema.MulOptionsT())
        return y

    def _pool(self, t: int) -> int:
        name = str(self.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))
        o, (_, h, w, c) = schema.Pool2DOptionsT(), (int(n) for n in self.b.tensors[t].shape)
        o.fusedActivationFunction = self.activation()
        _, out = self.window(o, h, w, pool=True)
        y = self.b.add([1, *out, c], scales=self._scale_of(t), zero=self._zero_of(t))
        self.b.op(name, [t], [y], o)
        return y

    def _pad(self, t: int) -> int:
        _, h, w, c = (int(n) for n in self.b.tensors[t].shape)
        p = [[0, 0], [self.int(0, 2), self.int(0, 2)], [self.int(0, 2), self.int(0, 2)], [0, 0]]
        pads = self.b.add([4, 2], "int32", data=np.array(p, np.int32))
        y = self.b.add([1, h + sum(p[1]), w + sum(p[2]), c], scales=self._scale_of(t), zero=self._zero_of(t))
        self.b.op("PAD", [t, pads], [y], schema.PadOptionsT())
        return y

    def _elementwise(self, t: int, name: str, scale: float, zero: int) -> int:
        y = self.b.add(self.b.tensors[t].shape, scales=scale, zero=zero)
        self.b.op(name, [t], [y])
        return y

    def _lut(self, t: int) -> int:
        return self._elementwise(t, "TANH", 1 / 128, 0) if self._scale_of(t) < 8 else t

    def _relu(self, t: int) -> int:
        return self._elementwise(
            t, "RELU", self._scale_of(t) * float(self.rng.uniform(0.4, 1.5)), self.zero()
        )

    def _prelu(self, t: int) -> int:
        _, h, w, c = (int(n) for n in self.b.tensors[t].shape)
        shape = [h, w, c] if self.rng.random() < 0.3 else [1, 1, c]
        slope = self.b.add(shape, scales=self.scale(0.001, 0.02), zero=0, data=self.weights(shape))
        y = self.b.add([1, h, w, c], scales=self._scale_of(t), zero=self.zero())
        self.b.op("PRELU", [t, slope], [y])
        return y
