"""From a trained head back to a full int8 .tflite.

Contract (ARM's notes on fine-tuning with CMSIS): the cut tensor keeps its scale and zero-point; weights are
symmetric int8, per output channel where the model has that; biases are int32 with scale cut_scale *
weight_scale[c]. The ranges of the head's own activations are taken anew, for logits grow with training.
Everything is patched in place in the user's file: no byte of the backbone changes.
"""

from __future__ import annotations

import struct

import numpy as np
import tflite

from quantfl.errors import PackageError, UnsupportedError
from quantfl.package.cut import Stage, head_of, possible_cuts, stage_floats, stages_of
from quantfl.package.flatfile import ModelFile, Op
from quantfl.package.program import HeadSpec, Package, compile_program
from quantfl.package.unsigned import unsigned

#: Place of the field fused_activation_function in the vtable of the options.
_FUSED = {"CONV_2D": 10, "DEPTHWISE_CONV_2D": 12, "FULLY_CONNECTED": 4}


class _Patch:
    """Writes into a copy of a .tflite: constants, and the quantisation of tensors."""

    def __init__(self, data: bytes):
        self.out = bytearray(data)
        self.graph = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0)

    def constant(self, offset: int, values: np.ndarray) -> None:
        raw = values.tobytes()
        self.out[offset : offset + len(raw)] = raw

    def scales(self, tensor: int, values: np.ndarray) -> None:
        q = self.graph.Tensors(tensor).Quantization()
        o = q._tab.Offset(8)  # QuantizationParameters: min 4, max 6, scale 8, zero_point 10
        if o == 0 or q.ScaleLength() != len(values):
            raise PackageError(f"tensor {tensor} has {q.ScaleLength()} scales where {len(values)} are due")
        self.constant(q._tab.Vector(o), values.astype("<f4"))

    def zero_point(self, tensor: int, value: int) -> None:
        q = self.graph.Tensors(tensor).Quantization()
        o = q._tab.Offset(10)
        if o == 0:
            if value != 0:
                raise UnsupportedError(
                    f"tensor {tensor} has no zero-point to set; quantise with TFLite's converter"
                )
            return
        struct.pack_into("<q", self.out, q._tab.Vector(o), value)


def _range(values: np.ndarray, relu: bool) -> tuple[float, int]:
    """Scale and zero-point of an asymmetric int8 tensor that holds these values."""
    low, high = (0.0 if relu else min(0.0, float(values.min()))), max(0.0, float(values.max()))
    scale = max((high - low) / 255.0, 1e-8)
    scale = float(np.float32(scale))
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def export(
    package: Package, params: np.ndarray, features: np.ndarray, *, keep_metadata: bool = False
) -> bytes:
    """The improved full int8 .tflite with head `params` float32 [P].

    features: int8 [n, F] of representative samples, from which the ranges of the head's activations are
    taken. A softmax at the model's end still gives probabilities in steps of 1/256, as in every int8 model:
    classes whose logits differ by less are told apart by the logits only. keep_metadata: make it a package
    again, whose initial head is `params`.
    """
    model = ModelFile(package.original, package.name or "the package")
    stages = stages_of(model, package.cut_op)
    if [s.layer.out_shape for s in stages] != [x.out_shape for x in package.layers]:
        raise PackageError("the package's head does not fit its own model; convert the model anew")
    if params.shape != package.params.shape or not np.isfinite(params).all():
        raise PackageError(
            f"a head of {params.size} finite parameters was given, {package.params.size} are due"
        )
    patch, at = _Patch(model.data), 0
    params = np.ascontiguousarray(params, np.float32)
    outputs = package.head.outputs(params, features)
    x_scale, x_zero = package.feature_scale, package.feature_zero_point
    for i, (stage, layer) in enumerate(zip(stages, package.layers, strict=True)):
        following = stages[i + 1].first if i + 1 < len(stages) else None
        if not layer.weights:
            if stage.op.name == "MEAN":
                x_scale, x_zero = _write_outputs(model, patch, stage, following, _range(outputs[i], False))
            else:  # kernels of pooling do not rescale
                _write_outputs(model, patch, stage, following, (x_scale, x_zero))
            continue
        n, out = layer.tensors
        kernel, bias = (
            params[at : at + n].astype(np.float64),
            params[at + n : at + n + out].astype(np.float64),
        )
        at += n + out
        values, scales = outputs[i], None
        if stage.binary:  # two classes back to one output: the difference of their logits
            kernel = np.diff(kernel.reshape(-1, 2), axis=1)
            bias, values, out = np.diff(bias), np.diff(values, axis=1), 1
        if layer.mode == "scales":  # the int8 kernel stays as it is, but for the sign
            fixed, _, before = stage_floats(model, stage)
            scales, kernel = np.abs(kernel) * before, fixed.reshape(-1, out) * kernel
        _write_weights(model, patch, stage, kernel.reshape(-1, out), bias, x_scale, scales)
        x_scale, x_zero = _write_outputs(
            model, patch, stage, following, _range(values, layer.activation != "linear")
        )
    _linear_end(model, patch, stages[-1])
    exported = bytes(patch.out)
    return _package_again(exported, package, params) if keep_metadata else unsigned(exported)


def _linear_end(model: ModelFile, patch: _Patch, stage: Stage) -> None:
    """The last layer gives logits: a ReLU fused to it, which would make all that are negative alike, goes."""
    if stage.layer.weights and stage.op.options.FusedActivationFunction():
        table = stage.op.options._tab
        patch.out[table.Pos + table.Offset(_FUSED[stage.op.name])] = tflite.ActivationFunctionType.NONE


def _package_again(data: bytes, package: Package, params: np.ndarray) -> bytes:
    """A package of the exported model whose initial head is `params`; in mode "scales" it starts from the new
    kernels."""
    model = ModelFile(data, package.name or "the package")
    mode = "all" if all(x.mode == "all" for x in package.layers) else "scales+head"
    if mode != "all" and package.layers[-1].mode == "scales":
        mode = "scales"
    cut = next(c for c in possible_cuts(model) if c.op == package.cut_op).trained(mode)
    head = head_of(model, cut)
    if mode == "all":
        head = HeadSpec(package.layers, params)
    return compile_program(
        data,
        cut_op=package.cut_op,
        head=head,
        name=package.name,
        labels=package.labels,
        recompute=package.recompute,
    )


def _write_weights(
    model: ModelFile,
    patch: _Patch,
    stage: Stage,
    kernel: np.ndarray,
    bias: np.ndarray,
    x_scale: float,
    wanted: np.ndarray | None = None,
) -> None:
    """kernel [taps * in, out], depthwise [taps, channels]. wanted: scales [out] to quantise with instead of
    the smallest."""
    op = stage.op
    w = model.tensors[op.inputs[1]]
    largest = np.abs(kernel).max(axis=0)
    if len(w.scales) == 1:
        largest = np.full_like(largest, largest.max())
    # A channel of zeros, or one whose bias would overflow int32, gets a larger scale.
    scales = np.maximum(largest / 127.0, 1e-9)
    if wanted is not None and len(w.scales) > 1:
        scales = np.maximum(wanted, 1e-9)  # at most one step of clipping, where -128 changes its sign
    scales = np.maximum(scales, np.abs(bias) / (x_scale * (2**30))).astype(np.float32)
    if len(w.scales) == 1:
        scales = np.full_like(scales, scales.max())
    q = np.clip(np.rint(kernel / scales.astype(np.float64)), -127, 127).astype(np.int8)
    patch.constant(w.offset, np.ascontiguousarray(q if stage.layer.kind == "depthwise" else q.T))
    patch.scales(w.index, scales if len(w.scales) > 1 else scales[:1])
    if w.zero_points.any():
        patch.zero_point(w.index, 0)
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        b = model.tensors[op.inputs[2]]
        b_scales = (np.float32(x_scale) * scales).astype(np.float32)
        patch.constant(b.offset, np.rint(bias / (x_scale * scales.astype(np.float64))).astype("<i4"))
        if len(b.scales):
            patch.scales(b.index, b_scales if len(b.scales) > 1 else b_scales[:1])
    elif np.abs(bias).max() > 0:
        raise UnsupportedError(
            f"{model.label(op)} has no bias, but the trained head has: add one to the model's layer"
        )


def _write_outputs(
    model: ModelFile, patch: _Patch, stage: Stage, following: Op | None, quantisation: tuple[float, int]
) -> tuple[float, int]:
    """Quantise the layer's output anew, and every tensor up to the next layer or the softmax; returns its
    scale and zero-point."""
    scale, zero = quantisation
    end = following.index if following else len(model.ops)
    tensors = {stage.op.outputs[0]}
    for o in model.ops[stage.op.index + 1 : end]:
        if o.name in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "RELU", "RELU6") and o.inputs[0] in tensors:
            tensors.add(o.outputs[0])
    if following is not None and following.name == "PAD":
        tensors.add(following.outputs[0])
    for t in tensors:
        patch.scales(t, np.array([scale]))
        patch.zero_point(t, zero)
    return scale, zero
