"""Where a model is cut: the layers after the cut become the trainable head, everything before stays int8.

Works on the full int8 .tflite, so Keras is not needed: cutting the file and converting the backbone alone
give the same features. The head starts from the dequantised int8 weights and int32 biases. What can be
trained is a chain at the model's end of convolutions (k x k, 1x1, depthwise), dense layers and pooling, with
ReLU, ReLU6 or nothing after each.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import tflite

from quantfl.core.head import Layer
from quantfl.errors import PackageError, UnsupportedError, UsageError
from quantfl.package.flatfile import ModelFile, Op
from quantfl.package.operators import CODES, Record
from quantfl.package.program import MAX_HEAD_LAYERS, MAX_HEAD_TRAINED, Compiler, HeadSpec, head_dims

#: A tail of more parameters than this is not trained by default: only its last dense layers are.
DEFAULT_PARAMS = 16_384
#: What of the layers after the cut is trained: everything; a scale and a bias per channel; the last layer
#: wholly, scales and biases below it.
MODES = ("all", "scales", "scales+head")
_TRANSPARENT = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_FUSED = {
    tflite.ActivationFunctionType.NONE: "linear",
    tflite.ActivationFunctionType.RELU: "relu",
    tflite.ActivationFunctionType.RELU6: "relu6",
}


@dataclass(frozen=True)
class Stage:
    """One layer of the tail. op: the operator with the weights or the window; first: where its input enters
    (a PAD before it)."""

    op: Op
    first: Op
    layer: Layer


@dataclass(frozen=True)
class Cut:
    """A possible cut: before operator `op`, whose layer is `layer`. layers: the head it leaves; mode: what of
    it is trained."""

    op: int
    layer: str
    layers: tuple[Layer, ...]
    mode: str = "all"

    @property
    def dims(self) -> tuple[int, ...]:
        return head_dims(self.layers)

    @property
    def params(self) -> int:
        return sum(n for layer in self.layers for n in layer.tensors)

    @property
    def dense(self) -> bool:
        """Whether the head is a stack of dense layers."""
        return all(
            layer.kind == "conv" and layer.in_shape[:2] == layer.out_shape[:2] == (1, 1)
            for layer in self.layers
        )

    @property
    def text(self) -> str:
        return " → ".join(layer.text for layer in self.layers)

    def trained(self, mode: str) -> Cut:
        """The same cut in another mode."""
        if mode not in MODES:
            raise UsageError(f"--train {mode}: known are {', '.join(MODES)}")
        last = len(self.layers) - 1
        layers = tuple(
            replace(
                x,
                mode="all"
                if mode == "all" or not x.weights or (mode == "scales+head" and i == last)
                else "scales",
            )
            for i, x in enumerate(self.layers)
        )
        return replace(self, layers=layers, mode=mode)


def tail(model: ModelFile) -> list[Stage]:
    """The trainable chain at the model's end, first to last; softmax and the like after it are left out."""
    made = {op.outputs[0]: op for op in model.ops if len(op.outputs) == 1}
    uses = Counter(t for op in model.ops for t in set(op.inputs) if t >= 0)
    ops = list(model.ops)
    while ops and ops[-1].name in ("SOFTMAX", "QUANTIZE", "DEQUANTIZE", *_TRANSPARENT):
        ops.pop()
    wanted = ops[-1].outputs[0] if ops else -1
    chain: list[Stage] = []
    pending: str | None = None
    while wanted in made and uses[wanted] <= 1:
        op = made[wanted]
        if op.name in _TRANSPARENT:
            wanted = op.inputs[0]
        elif op.name in ("RELU", "RELU6") and pending is None and chain:
            pending, wanted = op.name.lower(), op.inputs[0]
        elif (
            op.name == "PAD"
            and chain
            and pending is None
            and (padded := _padded(model, op, chain[0])) is not None
        ):
            chain[0], wanted = padded, op.inputs[0]
        else:
            layer = _layer(model, op)
            if layer is None or len(chain) == MAX_HEAD_LAYERS:
                break
            if pending is not None:
                if layer.activation != "linear" or not layer.weights:
                    break
                layer = replace(layer, activation=pending)
            chain.insert(0, Stage(op, op, layer))
            pending, wanted = None, op.inputs[0]
    if (
        not chain
        or chain[-1].layer.out_shape[:2] != (1, 1)
        or not chain[-1].layer.weights
        or chain[-1].layer.activation != "linear"
    ):
        return []
    return chain


def _layer(model: ModelFile, op: Op) -> Layer | None:
    """The operator as a trainable or pooling layer, or None."""
    kinds = {
        "CONV_2D": "conv",
        "DEPTHWISE_CONV_2D": "depthwise",
        "FULLY_CONNECTED": "conv",
        "AVERAGE_POOL_2D": "average",
        "MAX_POOL_2D": "maximum",
        "MEAN": "average",
        "REDUCE_MAX": "maximum",
    }
    if op.name not in kinds:
        return None
    record = Record(code=CODES[op.name])
    try:
        getattr(Compiler(model), "op_" + op.name.lower())(op, record)
    except (UnsupportedError, PackageError, AttributeError, TypeError, IndexError, ValueError):
        return None
    d = record.dims
    if op.name == "FULLY_CONNECTED" and record.code == CODES["FULLY_CONNECTED"]:  # else one on every row
        d = [1, 1, d[2], 1, 1, d[5], 1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    elif op.name in ("MEAN", "REDUCE_MAX") and d[3] != 1:  # over other axes than height and width
        return None
    elif op.name == "MEAN":
        d = [*d[:6], d[0], d[1], 1, 1, 0, 0, 1, 1, 0, 0]
    fused = (
        "linear" if op.name in ("MEAN", "REDUCE_MAX") else _FUSED.get(op.options.FusedActivationFunction())
    )
    kind = kinds[op.name]
    layer = Layer(
        kind,
        (d[0], d[1], d[2]),
        (d[3], d[4], d[5]),
        (d[6], d[7]),
        (d[8], d[9]),
        (d[10], d[11]),
        fused or "linear",
    )
    overlap = any(
        s < k and n != 1 for s, k, n in zip(layer.stride, layer.kernel, layer.out_shape[:2], strict=True)
    )
    if fused is None or max(d[6:12]) > 255 or (d[12], d[13]) not in ((1, 1), (0, 0)):
        return None
    if kind in ("average", "maximum") and (overlap or layer.activation != "linear"):
        return None
    if kind == "depthwise" and layer.in_shape[2] != layer.out_shape[2]:
        return None
    return layer


def _padded(model: ModelFile, op: Op, stage: Stage) -> Stage | None:
    """The stage with the zeros of a PAD before it taken into its window, or None."""
    pads = model.tensors[op.inputs[1]].data
    if (
        stage.layer.kind not in ("conv", "depthwise")
        or stage.layer.pad != (0, 0)
        or pads is None
        or pads.size != 8
        or pads.min() < 0
    ):
        return None
    p = pads.reshape(4, 2)
    shape = model.tensors[op.inputs[0]].shape
    if len(shape) != 4 or p[[0, 3]].any() or p[:, 0].max() > 255:
        return None
    return Stage(
        stage.op,
        op,
        replace(stage.layer, in_shape=(shape[1], shape[2], shape[3]), pad=(int(p[1, 0]), int(p[2, 0]))),
    )


def possible_cuts(model: ModelFile) -> list[Cut]:
    """Every cut from which the rest can be trained, the smallest head first."""
    chain, cuts = tail(model), []
    for i in range(len(chain) - 1, -1, -1):
        layers = tuple(s.layer for s in chain[i:])
        if sum(1 for x in layers if x.weights) > MAX_HEAD_TRAINED or not _alone(model, chain[i].first.index):
            break
        if layers[0].weights:
            cuts.append(Cut(chain[i].first.index, model.tensors[chain[i].op.outputs[0]].name, layers))
    return cuts


def _alone(model: ModelFile, cut_op: int) -> bool:
    """Whether everything from `cut_op` on depends on its input alone, so that the backbone is what stands
    before it."""
    known = {model.ops[cut_op].inputs[0]}
    for op in model.ops[cut_op:]:
        if any(t >= 0 and t not in known and model.tensors[t].data is None for t in op.inputs):
            return False
        known.update(op.outputs)
    return True


def choose(model: ModelFile, layer: str | None = None) -> Cut:
    """The cut named by `layer` (name of a layer, or number of an operator), or the default: as many of the
    last dense layers as stay below DEFAULT_PARAMS parameters, at least one. UnsupportedError lists what is
    possible.
    """
    cuts = possible_cuts(model)
    if not cuts:
        last = model.ops[-1]
        raise UnsupportedError(
            f"{model.name}: nothing at its end can be trained: {model.label(last)} ends no chain of "
            "layers that "
            "boards can train; end the model in convolutions, pooling and Dense layers (ReLU, ReLU6 or "
            "none after each), at most a "
            "softmax after"
        )
    if cuts[0].layers[-1].out_shape[2] == 1:
        raise UnsupportedError(
            f"{model.name}: {cuts[0].layer} has one output: boards train classes against each other "
            "(softmax), and one alone learns "
            "nothing; give the last layer an output per class, two for yes or no"
        )
    if layer is None:
        small = [c for c in cuts if c.dense and c.params <= DEFAULT_PARAMS]
        return small[-1] if small else cuts[0]
    exact = [c for c in cuts if layer in (c.layer, str(c.op))]
    found = exact or [c for c in cuts if layer in c.layer]
    if len(found) != 1:
        listed = "; ".join(f"{c.op} ({c.layer}, {c.params:,} parameters)" for c in cuts)
        why = "fits several layers" if found else "is no layer from which the rest can be trained"
        raise UnsupportedError(f"{model.name}: --cut {layer} {why}; possible are: {listed}")
    return found[0]


def stages_of(model: ModelFile, cut_op: int) -> list[Stage]:
    """The stages of the head, first to last."""
    return [s for s in tail(model) if s.first.index >= cut_op]


def head_of(model: ModelFile, cut: Cut) -> HeadSpec:
    """The head a cut leaves, its parameters dequantised float32: per layer kernel, then bias [out], in the
    order of qfl_head."""
    parts, layers, scales = [], [], []
    for stage, layer in zip(stages_of(model, cut.op), cut.layers, strict=True):
        if layer.weights:
            kernel, bias, s = stage_floats(model, stage)
            if layer.mode == "scales":
                kernel = np.ones(layer.out_shape[2])
                layer = replace(layer, frozen=model.tensors[stage.op.inputs[1]].offset)
                scales.append(s.astype(np.float32))
            parts += [kernel.reshape(-1), bias]
        layers.append(layer)
    return HeadSpec(tuple(layers), np.concatenate(parts).astype(np.float32), tuple(scales))


def stage_floats(model: ModelFile, stage: Stage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel [k_h, k_w, in, out] (depthwise [k_h, k_w, channels]), bias [out] and the kernel's scales [out],
    float64."""
    op, layer = stage.op, stage.layer
    x, w = model.tensors[op.inputs[0]], model.tensors[op.inputs[1]]
    if w.data is None or w.dtype != np.int8:
        raise UnsupportedError(
            f"{model.label(op)}: its weights are not constant int8; quantise the whole model to int8"
        )
    out = layer.out_shape[2]
    scales = np.broadcast_to(w.scales.astype(np.float64), (out,))
    if layer.kind == "depthwise":
        kernel = w.data.reshape(*layer.kernel, out).astype(np.float64) * scales
    else:
        kernel = w.data.reshape(
            out, *layer.kernel, math.prod(w.shape) // out // math.prod(layer.kernel)
        ).astype(np.float64)
        kernel = np.ascontiguousarray(np.moveaxis(kernel * scales[:, None, None, None], 0, -1))
    bias = np.zeros(out)
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        b = model.tensors[op.inputs[2]]
        if b.data is None or b.dtype != np.int32:
            raise UnsupportedError(f"{model.label(op)}: its bias is not constant int32")
        bias = b.data.reshape(-1).astype(np.float64) * (x.scale * scales)
    return kernel, bias, scales


def without_own_bias(model: ModelFile, cut: Cut) -> list[int]:
    """Trainable operators of the head that have no bias, or one whose bytes another tensor shares."""
    places = Counter(t.offset for t in model.tensors if t.data is not None)
    found = []
    for stage in stages_of(model, cut.op):
        if stage.layer.weights:
            b = stage.op.inputs[2] if len(stage.op.inputs) > 2 else -1
            users = sum(1 for op in model.ops for t in op.inputs if b >= 0 and t == b)
            if b < 0 or users > 1 or places[model.tensors[b].offset] > 1:
                found.append(stage.op.index)
    return found
