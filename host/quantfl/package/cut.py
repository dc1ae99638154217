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

from quantfl.core import lib
from quantfl.core.head import Layer
from quantfl.errors import PackageError, UnsupportedError, UsageError
from quantfl.package.flatfile import ModelFile, Op
from quantfl.package.operators import CODES, Record
from quantfl.package.program import Compiler, HeadSpec, head_dims
from quantfl.suggest import meant

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
    (a PAD before it). binary: its one output goes through a sigmoid, and boards train it as two classes."""

    op: Op
    first: Op
    layer: Layer
    binary: bool = False


@dataclass(frozen=True)
class Cut:
    """A possible cut: before operator `op`, whose layer is `layer`. layers: the head it leaves; mode: what of
    it is trained; number: of the operator in the file."""

    op: int
    layer: str
    layers: tuple[Layer, ...]
    mode: str = "all"
    number: int = -1

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


@dataclass(frozen=True)
class Tail:
    """The trainable chain at the model's end, first to last, without softmax and the like after it; it is
    empty where nothing can be trained. why: what ended it, in words that name the operator, or None: it
    reaches the input."""

    stages: tuple[Stage, ...]
    why: str | None = None


class _Break(Exception):
    """An operator that ends the chain; says why and what to do."""


_AFTER = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX", "QUANTIZE", "DEQUANTIZE", *_TRANSPARENT)
_KINDS = {
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "conv",
    "AVERAGE_POOL_2D": "average",
    "MAX_POOL_2D": "maximum",
    "MEAN": "average",
    "REDUCE_MAX": "maximum",
}
_ENDS = (
    "end the model in convolutions, pooling and Dense layers (ReLU, ReLU6 or none after each), at most a "
    "softmax after"
)


def tail(model: ModelFile) -> Tail:
    """The chain from which the model's end can be trained."""
    made = {t: op for op in model.ops for t in op.outputs}
    uses = Counter(t for op in model.ops for t in set(op.inputs) if t >= 0)
    wanted = model.outputs[0] if model.outputs else -1
    sigmoid: Op | None = None
    while wanted in made and made[wanted].name in (*_AFTER, "LOGISTIC") and uses[wanted] <= 1:
        sigmoid = made[wanted] if made[wanted].name == "LOGISTIC" else sigmoid
        wanted = made[wanted].inputs[0]
    chain: list[Stage] = []
    pending: Op | None = None
    why: str | None = None
    while wanted in made and len(chain) <= lib.QFL_HEAD_MAX_LAYERS:
        op = made[wanted]
        try:
            if uses[wanted] > 1:
                raise _Break(f"{model.label(op)} is used {uses[wanted]} times: {_ENDS}")
            if op.name in _TRANSPARENT:
                pass
            elif op.name in ("RELU", "RELU6") and pending is None and chain:
                pending = op
            elif op.name == "PAD" and chain and pending is None:
                chain[0] = _padded(model, op, chain[0])
            else:
                chain.insert(0, Stage(op, op, _with_relu(model, _layer(model, op), pending, not chain)))
                pending = None
        except _Break as reason:
            why = str(reason)
            break
        wanted = op.inputs[0]
    end = _end(model, chain) or _as_classes(model, chain, sigmoid)
    return Tail((), end or why) if end or not chain else Tail(tuple(chain), why)


def _end(model: ModelFile, chain: list[Stage]) -> str | None:
    """Why a chain's last layers give no classes, or None."""
    if not chain:
        return None
    last = chain[-1]
    height, width, _ = last.layer.out_shape
    if (height, width) != (1, 1):
        return (
            f"{model.label(last.op)} gives {height} x {width} outputs, not one per class; end the model in "
            "global pooling, or Flatten and Dense"
        )
    if not any(s.layer.weights for s in chain):
        return f"{model.label(last.op)} has no layer with weights before it that can be trained; {_ENDS}"
    return None


def _as_classes(model: ModelFile, chain: list[Stage], sigmoid: Op | None) -> str | None:
    """One output behind a sigmoid becomes two classes: with logits -z / 2 and z / 2 the softmax is the
    sigmoid, and cross-entropy is the binary one. Returns why it cannot be, or None."""
    if sigmoid is None or not chain:
        return None
    last = chain[-1]
    height, width, outputs = last.layer.out_shape
    if outputs != 1:
        return (
            f"{model.label(sigmoid)} gives {outputs} outputs of their own (labels that exclude nothing), "
            "which boards do not train; end in a softmax, or in one output for yes or no"
        )
    if last.layer.kind != "conv":
        return f"{model.label(last.op)} before the sigmoid has no weights of its own; {_ENDS}"
    chain[-1] = replace(last, layer=replace(last.layer, out_shape=(height, width, 2)), binary=True)
    return None


def _with_relu(model: ModelFile, layer: Layer, relu: Op | None, last: bool) -> Layer:
    """The layer with the RELU operator after it. The last layer gives logits, whatever it ends in: a ReLU of
    its own would hide the sign of classes that are not meant; the exported model is without it."""
    if last:
        return replace(layer, activation="linear")
    if relu is None:
        return layer
    if layer.activation != "linear" or not layer.weights:
        raise _Break(f"{model.label(relu)} comes after no linear layer with weights; {_ENDS}")
    return replace(layer, activation=relu.name.lower())


def _layer(model: ModelFile, op: Op) -> Layer:
    """The operator as a trainable or pooling layer. _Break: it is none."""
    if op.name not in _KINDS:
        raise _Break(f"{model.label(op)} cannot be trained on boards; {_ENDS}")
    record = Record(code=CODES[op.name])
    try:
        getattr(Compiler(model), "op_" + op.name.lower())(op, record)
    except UnsupportedError as error:
        raise _Break(str(error)) from None
    except (PackageError, AttributeError, TypeError, IndexError, ValueError) as error:
        raise _Break(f"{model.label(op)} is damaged ({error})") from None
    return _layer_of(model, op, record)


def _layer_of(model: ModelFile, op: Op, record: Record) -> Layer:
    d = record.dims
    kind = _KINDS[op.name]
    reduced = op.name in ("MEAN", "REDUCE_MAX")
    if op.name == "FULLY_CONNECTED" and record.code == CODES["FULLY_CONNECTED"]:  # else one on every row
        d = [1, 1, d[2], 1, 1, d[5], 1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    elif reduced and d[3] != 1:
        raise _Break(f"{model.label(op)} is over other axes than height and width; {_ENDS}")
    elif op.name == "MEAN":
        d = [*d[:6], d[0], d[1], 1, 1, 0, 0, 1, 1, 0, 0]
    fused = "linear" if reduced else _FUSED.get(op.options.FusedActivationFunction())
    if fused is None:
        raise _Break(f"{model.label(op)} has an activation that boards do not train; {_ENDS}")
    layer = Layer(
        kind, (d[0], d[1], d[2]), (d[3], d[4], d[5]), (d[6], d[7]), (d[8], d[9]), (d[10], d[11]), fused
    )
    overlap = any(
        s < k and n != 1 for s, k, n in zip(layer.stride, layer.kernel, layer.out_shape[:2], strict=True)
    )
    if max(d[6:12]) > 255 or (d[12], d[13]) not in ((1, 1), (0, 0)):
        raise _Break(f"{model.label(op)} is dilated or its window above 255, which boards do not train")
    if kind in ("average", "maximum") and (overlap or layer.activation != "linear"):
        raise _Break(f"{model.label(op)} has windows that overlap or an activation; {_ENDS}")
    if kind == "depthwise" and layer.in_shape[2] != layer.out_shape[2]:
        raise _Break(f"{model.label(op)} makes several channels of one, which boards do not train")
    return layer


def _padded(model: ModelFile, op: Op, stage: Stage) -> Stage:
    """The stage with the zeros of a PAD before it taken into its window."""
    refused = _Break(f"{model.label(op)} pads what boards cannot train behind; {_ENDS}")
    pads = model.tensors[op.inputs[1]].data
    if (
        stage.layer.kind not in ("conv", "depthwise")
        or stage.layer.pad != (0, 0)
        or pads is None
        or pads.size != 8
        or pads.min() < 0
    ):
        raise refused
    p = pads.reshape(4, 2)
    shape = model.tensors[op.inputs[0]].shape
    if len(shape) != 4 or p[[0, 3]].any() or p[:, 0].max() > 255:
        raise refused
    return Stage(
        stage.op,
        op,
        replace(stage.layer, in_shape=(shape[1], shape[2], shape[3]), pad=(int(p[1, 0]), int(p[2, 0]))),
    )


def possible_cuts(model: ModelFile) -> list[Cut]:
    """Every cut from which the rest can be trained, the smallest head first."""
    chain, cuts = tail(model).stages, []
    alone = _alone(model)
    for i in range(len(chain) - 1, -1, -1):
        layers = tuple(s.layer for s in chain[i:])
        if (
            len(layers) > lib.QFL_HEAD_MAX_LAYERS
            or sum(1 for x in layers if x.weights) > lib.QFL_HEAD_MAX_TRAINED
            or chain[i].first.index not in alone
        ):
            break
        if layers[0].weights:
            first = chain[i].first
            name = model.tensors[chain[i].op.outputs[0]].name
            cuts.append(Cut(first.index, name, layers, number=first.number))
    return cuts


def _alone(model: ModelFile) -> set[int]:
    """The operators before which the model can be cut: all from there on depends on the cut's tensor alone,
    and on constants."""
    found: set[int] = set()
    needed: set[int] = set()  # by the operators from here on, and made before them
    for op in reversed(model.ops):
        needed.difference_update(op.outputs)
        needed.update(t for t in op.inputs if t >= 0 and model.tensors[t].data is None)
        if len(needed) == 1 and op.inputs and op.inputs[0] in needed:
            found.add(op.index)
    return found


def choose(model: ModelFile, layer: str | None = None) -> Cut:
    """The cut named by `layer` (name of a layer, or number of an operator), or the default: as many of the
    last dense layers as stay below DEFAULT_PARAMS parameters, at least one. UnsupportedError lists what is
    possible.
    """
    cuts = possible_cuts(model)
    if not cuts:
        why = tail(model).why or f"its last operators hang on more than one tensor; {_ENDS}"
        raise UnsupportedError(f"{model.name}: nothing at its end can be trained: {why}")
    if cuts[0].layers[-1].out_shape[2] == 1:
        raise UnsupportedError(
            f"{model.name}: {cuts[0].layer} has one output and no sigmoid: boards train classes, and no "
            "quantity (regression); give the last layer an output per class, or one with a sigmoid for yes "
            "or no"
        )
    if layer is None:
        small = [c for c in cuts if c.dense and c.params <= DEFAULT_PARAMS]
        return small[-1] if small else cuts[0]
    exact = [c for c in cuts if layer in (c.layer, str(c.number))]
    found = exact or [c for c in cuts if layer in c.layer]
    if len(found) != 1:
        listed = "; ".join(f"{c.number} ({c.layer}, {c.params:,} parameters)" for c in cuts)
        guess = meant(layer, [c.layer for c in cuts])
        why = "fits several layers" if found else f"is no layer from which the rest can be trained{guess}"
        raise UnsupportedError(f"{model.name}: --cut {layer} {why}; possible are: {listed}")
    return found[0]


def stages_of(model: ModelFile, cut_op: int) -> list[Stage]:
    """The stages of the head, first to last."""
    return [s for s in tail(model).stages if s.first.index >= cut_op]


def head_of(model: ModelFile, cut: Cut) -> HeadSpec:
    """The head a cut leaves, its parameters dequantised float32: per layer kernel, then bias [out], in the
    order of qfl_head."""
    parts, layers, scales = [], [], []
    for stage, layer in zip(stages_of(model, cut.op), cut.layers, strict=True):
        if layer.weights:
            kernel, bias, s = stage_floats(model, stage)
            if layer.mode == "scales":
                if stage.binary:
                    raise UnsupportedError(
                        f"{model.label(stage.op)} is one output for yes or no, which is trained wholly; use "
                        "--train all or scales+head"
                    )
                if model.tensors[stage.op.inputs[1]].zero_points.any():
                    raise UnsupportedError(
                        f"{model.label(stage.op)} has a kernel with a zero-point, which cannot be scaled "
                        "where it lies; use --train all"
                    )
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
    out = 1 if stage.binary else layer.out_shape[2]
    scales = np.broadcast_to(w.scales.astype(np.float64), (out,))
    if layer.kind == "depthwise":
        kernel = (w.data.reshape(*layer.kernel, out).astype(np.float64) - w.zero_point) * scales
    else:
        kernel = w.data.reshape(
            out, *layer.kernel, math.prod(w.shape) // out // math.prod(layer.kernel)
        ).astype(np.float64)
        kernel -= w.zero_point
        kernel = np.ascontiguousarray(np.moveaxis(kernel * scales[:, None, None, None], 0, -1))
    bias = np.zeros(out)
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        b = model.tensors[op.inputs[2]]
        if b.data is None or b.dtype != np.int32:
            raise UnsupportedError(f"{model.label(op)}: its bias is not constant int32")
        bias = b.data.reshape(-1).astype(np.float64) * (x.scale * scales)
    if stage.binary:
        kernel, bias = (np.concatenate([-v / 2, v / 2], axis=-1) for v in (kernel, bias))
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
