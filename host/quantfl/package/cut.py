"""Where a model is cut: the dense layers at its end become the trainable head, everything before stays int8.

Works on the full int8 .tflite, so Keras is not needed: cutting the file and converting the backbone alone give the same
features. The head starts from the dequantised int8 weights and int32 biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tflite

from quantfl.errors import UnsupportedError
from quantfl.package.flatfile import ModelFile, Op
from quantfl.package.program import MAX_HEAD_LAYERS, HeadSpec

#: A tail of more parameters than this is not trained by default: only its last layers are.
DEFAULT_PARAMS = 16_384


@dataclass(frozen=True)
class Cut:
    """A possible cut: before operator `op`, whose layer is `layer`. dims: F, hidden..., K of the head it leaves."""

    op: int
    layer: str
    dims: tuple[int, ...]

    @property
    def params(self) -> int:
        return sum((i + 1) * o for i, o in zip(self.dims, self.dims[1:], strict=False))


def _tail(model: ModelFile) -> list[Op]:
    """The trailing FULLY_CONNECTED operators, first to last: a chain that ends in the output, softmax or not."""
    ops = list(model.ops)
    while ops and ops[-1].name in ("SOFTMAX", "RESHAPE", "QUANTIZE", "DEQUANTIZE"):
        ops.pop()
    chain: list[Op] = []
    wanted: int | None = None
    for op in reversed(ops):
        if wanted is not None and op.outputs[0] != wanted:
            break
        if op.name in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "RELU") and chain:
            wanted = op.inputs[0]
            continue
        if op.name != "FULLY_CONNECTED" or len(chain) == MAX_HEAD_LAYERS:
            break
        if chain and not _relu_between(model, op, chain[0]):
            break
        chain.insert(0, op)
        wanted = op.inputs[0]
    return chain


def _relu_between(model: ModelFile, op: Op, after: Op) -> bool:
    """Whether op's output passes exactly a ReLU on its way to the next dense layer, as the head computes it."""
    fused = op.options.FusedActivationFunction() == tflite.ActivationFunctionType.RELU
    between = any(o.name == "RELU" for o in model.ops if op.index < o.index < after.index)
    return fused or between


def possible_cuts(model: ModelFile) -> list[Cut]:
    """Every cut from which the rest can be trained, the smallest head first."""
    chain = _tail(model)
    cuts = []
    for i in range(len(chain) - 1, -1, -1):
        dims = [model.tensors[chain[i].inputs[1]].shape[1]] + [model.tensors[o.inputs[1]].shape[0] for o in chain[i:]]
        cuts.append(Cut(chain[i].index, model.tensors[chain[i].outputs[0]].name, tuple(int(d) for d in dims)))
    return cuts


def choose(model: ModelFile, layer: str | None = None) -> Cut:
    """The cut named by `layer` (name of a layer, or number of an operator), or the default: as many of the last dense
    layers as stay below DEFAULT_PARAMS parameters, at least one. UnsupportedError lists what is possible.
    """
    cuts = possible_cuts(model)
    if not cuts:
        last = model.ops[-1]
        raise UnsupportedError(
            f"{model.name}: nothing at its end can be trained: {model.label(last)} follows no dense layer; "
            "end the model in Dense layers with ReLU between and at most a softmax after"
        )
    if layer is None:
        small = [c for c in cuts if c.params <= DEFAULT_PARAMS]
        return small[-1] if small else cuts[0]
    exact = [c for c in cuts if layer in (c.layer, str(c.op))]
    found = exact or [c for c in cuts if layer in c.layer]
    if len(found) != 1:
        listed = "; ".join(f"{c.op} ({c.layer}, {c.params:,} parameters)" for c in cuts)
        why = "fits several layers" if found else "is no layer from which the rest can be trained"
        raise UnsupportedError(f"{model.name}: --cut {layer} {why}; possible are: {listed}")
    return found[0]


def head_of(model: ModelFile, cut: Cut) -> HeadSpec:
    """The head a cut leaves, its parameters dequantised: per layer kernel [in][out], then bias [out], float32."""
    parts = []
    for op in _tail(model):
        if op.index < cut.op:
            continue
        kernel, bias = dense_floats(model, op)
        parts += [kernel.reshape(-1), bias]
    return HeadSpec(cut.dims, np.concatenate(parts).astype(np.float32))


def head_ops(model: ModelFile, cut_op: int) -> list[Op]:
    """The dense operators of the head, first to last."""
    return [op for op in _tail(model) if op.index >= cut_op]


def dense_floats(model: ModelFile, op: Op) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [in, out] and bias [out] in float64 of one int8 FULLY_CONNECTED."""
    x, w = model.tensors[op.inputs[0]], model.tensors[op.inputs[1]]
    if w.data is None or w.dtype != np.int8:
        raise UnsupportedError(f"{model.label(op)}: its weights are not constant int8; quantise the whole model to int8")
    scales = np.broadcast_to(w.scales.astype(np.float64), (w.shape[0],))
    kernel = w.data.astype(np.float64) * scales[:, None]
    bias = np.zeros(w.shape[0])
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        b = model.tensors[op.inputs[2]]
        if b.data is None or b.dtype != np.int32:
            raise UnsupportedError(f"{model.label(op)}: its bias is not constant int32")
        bias = b.data.reshape(-1).astype(np.float64) * (x.scale * scales)
    return np.ascontiguousarray(kernel.T), bias
