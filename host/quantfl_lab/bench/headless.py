"""A package without a backbone: boards that get it are fed cached features instead of samples.

Head, features and their scale are those of the whole package, so a run's rounds are the same to the byte (a
test holds them against each other), without running the backbone anew for every scheme and seed.
"""

from __future__ import annotations

import itertools
from functools import cache

import flatbuffers
import numpy as np
import tflite

from quantfl.core.head import Head, dense_layers
from quantfl.package.cut import HeadSpec
from quantfl.package.program import Package, compile_program, open_package


def _vector(b: flatbuffers.Builder, values: np.ndarray) -> int:
    return b.CreateNumpyVector(np.ascontiguousarray(values))


def _quantised(b: flatbuffers.Builder, scale: float, zero: int) -> int:
    scales, zeros = _vector(b, np.array([scale], np.float32)), _vector(b, np.array([zero], np.int64))
    tflite.QuantizationParametersStart(b)
    tflite.QuantizationParametersAddScale(b, scales)
    tflite.QuantizationParametersAddZeroPoint(b, zeros)
    return tflite.QuantizationParametersEnd(b)


def _tensor(
    b: flatbuffers.Builder, shape: tuple[int, ...], kind: int, buffer: int, scale: float, zero: int
) -> int:
    name, dims, quantised = (
        b.CreateString(f"t{buffer}"),
        _vector(b, np.array(shape, np.int32)),
        _quantised(b, scale, zero),
    )
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, dims)
    tflite.TensorAddType(b, kind)
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, name)
    tflite.TensorAddQuantization(b, quantised)
    return tflite.TensorEnd(b)


def _offsets(b: flatbuffers.Builder, start, items: list[int]) -> int:
    start(b, len(items))
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return b.EndVector()


def dense_model(dims: tuple[int, ...], scale: float, zero: int) -> bytes:
    """A full int8 .tflite of dense layers alone (all weights zero, ReLU between), whose input has this scale
    and zero point."""
    b = flatbuffers.Builder(1 << 16)
    int8, int32 = tflite.TensorType.INT8, tflite.TensorType.INT32
    buffers, tensors, ops = [b""], [], []
    tensors.append(_tensor(b, (1, dims[0]), int8, 0, scale, zero))
    for layer, (i, o) in enumerate(itertools.pairwise(dims)):
        given, last = len(tensors) - 1, layer == len(dims) - 2
        buffers += [bytes(i * o), bytes(4 * o)]
        tensors.append(_tensor(b, (o, i), int8, len(buffers) - 2, 0.01, 0))
        tensors.append(_tensor(b, (o,), int32, len(buffers) - 1, 0.01 * (scale if layer == 0 else 0.1), 0))
        tensors.append(_tensor(b, (1, o), int8, 0, 0.1, 0 if last else -128))
        kind = tflite.ActivationFunctionType
        tflite.FullyConnectedOptionsStart(b)
        tflite.FullyConnectedOptionsAddFusedActivationFunction(b, kind.NONE if last else kind.RELU)
        options, entries = (
            tflite.FullyConnectedOptionsEnd(b),
            _vector(b, np.array([given, given + 1, given + 2], np.int32)),
        )
        outs = _vector(b, np.array([len(tensors) - 1], np.int32))
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, 0)
        tflite.OperatorAddInputs(b, entries)
        tflite.OperatorAddOutputs(b, outs)
        tflite.OperatorAddBuiltinOptionsType(b, tflite.BuiltinOptions.FullyConnectedOptions)
        tflite.OperatorAddBuiltinOptions(b, options)
        ops.append(tflite.OperatorEnd(b))
    tensors_at, ops_at = (
        _offsets(b, tflite.SubGraphStartTensorsVector, tensors),
        _offsets(b, tflite.SubGraphStartOperatorsVector, ops),
    )
    ins, outs = _vector(b, np.array([0], np.int32)), _vector(b, np.array([len(tensors) - 1], np.int32))
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensors_at)
    tflite.SubGraphAddInputs(b, ins)
    tflite.SubGraphAddOutputs(b, outs)
    tflite.SubGraphAddOperators(b, ops_at)
    graphs = _offsets(b, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(b)])
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, tflite.BuiltinOperator.FULLY_CONNECTED)
    tflite.OperatorCodeAddBuiltinCode(b, tflite.BuiltinOperator.FULLY_CONNECTED)
    codes = _offsets(b, tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(b)])
    stored = []
    for data in buffers:
        at = _vector(b, np.frombuffer(data, np.uint8)) if data else None
        tflite.BufferStart(b)
        if at is not None:
            tflite.BufferAddData(b, at)
        stored.append(tflite.BufferEnd(b))
    buffers_at = _offsets(b, tflite.ModelStartBuffersVector, stored)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, buffers_at)
    b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
    return bytes(b.Output())


def head_only(package: Package) -> Package:
    """The package that has the same head over the same features, and these as its input."""
    return _head_only(
        package.dims, package.feature_scale, package.feature_zero_point, package.params.tobytes()
    )


@cache
def _head_only(dims: tuple[int, ...], scale: float, zero: int, params: bytes) -> Package:
    model = dense_model(dims, scale, zero)
    spec = HeadSpec(dense_layers(dims), np.frombuffer(params, np.float32))
    return open_package(
        compile_program(model, cut_op=0, head=spec, name="head", source="a head alone"), "a head alone"
    )


def head_of(package: Package) -> Head:
    return package.head
