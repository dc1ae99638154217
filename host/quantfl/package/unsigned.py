"""uint8 models (quantised by TensorFlow 1, or with uint8 inputs and outputs) as int8 ones of equal numbers.

real = scale * (q - zero_point), so a uint8 tensor with zero-point z is the int8 tensor whose values and
zero-point are 128 less: bytes with the top bit turned over. Types, zero-points and constants are written
over in place, and a mark is put in front, for kernels of uint8 differ from those of int8 in two roundings.
"""

from __future__ import annotations

import struct

import numpy as np
import tflite

from quantfl.errors import UnsupportedError
from quantfl.package.flatfile import UNSIGNED_NAME, ModelFile, with_metadata

_TYPE = 6  # place of a Tensor's field in its vtable: 4 + 2 * id
_ZERO_POINT = 10  # of QuantizationParameters'


def signed(data: bytes, source: str = "the model", parsed: ModelFile | None = None) -> bytes:
    """The model with int8 tensors in place of its quantised uint8 ones, or `data` itself when it has none.
    UnsupportedError for a uint8 tensor without scale, or with content that another type shares."""
    model = parsed or ModelFile(data, source)
    tensors = [t for t in model.tensors if t.dtype == np.uint8 and len(t.scales)]
    if not tensors:
        return data
    centred = _centred(model)
    turned = _turn(model, {t.index: t.zero_point if t.index in centred else 128 for t in tensors})
    return with_metadata(turned, struct.pack(f"<{len(tensors)}I", *(t.index for t in tensors)), UNSIGNED_NAME)


def signed_model(model: ModelFile) -> ModelFile:
    """As `signed`, parsed."""
    data = signed(model.data, model.name, model)
    return model if data is model.data else ModelFile(data, model.name)


def unsigned(data: bytes, source: str = "the model") -> bytes:
    """What `signed` has made int8 as uint8 again; other files as they are."""
    model = ModelFile(data, source)
    return _turn(model, dict.fromkeys(model.unsigned, -128)) if model.unsigned else data


def _turn(model: ModelFile, less: dict[int, int]) -> bytes:
    """Tensors of one of the two types as the other: values and zero-points become less by less[tensor]."""
    out, graph = bytearray(model.data), tflite.Model.GetRootAsModel(model.data, 0).Subgraphs(0)
    tensors = [model.tensors[i] for i in sorted(less)]
    turned = {t.offset: t for t in tensors if t.data is not None}
    for t in model.tensors:
        if t.data is not None and t.offset in turned and t.index not in less:
            raise UnsupportedError(
                f"{model.name}: tensors {t.name} and {turned[t.offset].name} share their content and not "
                "their type; convert the model anew with TFLite's converter"
            )
    for offset, t in turned.items():
        values = t.content.reshape(-1).astype(np.int16) - less[t.index]
        dtype = np.int8 if t.dtype == np.uint8 else np.uint8
        out[offset : offset + t.size] = values.astype(dtype).tobytes()
    done: set[int] = set()
    for t in tensors:
        table = graph.Tensors(t.index)
        kind = tflite.TensorType.INT8 if t.dtype == np.uint8 else tflite.TensorType.UINT8
        struct.pack_into("<b", out, table._tab.Pos + table._tab.Offset(_TYPE), kind)
        quantisation = table.Quantization()
        field = quantisation._tab.Offset(_ZERO_POINT)
        if field == 0 or quantisation.ZeroPointLength() == 0:
            raise UnsupportedError(
                f"{model.name}: tensor {t.name} is {t.dtype.name} without a zero-point; convert the model "
                "anew with TFLite's converter"
            )
        at = quantisation._tab.Vector(field)
        if at not in done:  # tensors may share the table
            done.add(at)
            for i, z in enumerate(t.zero_points):
                struct.pack_into("<q", out, at + 8 * i, int(z) - less[t.index])
    return bytes(out)


def _centred(model: ModelFile) -> set[int]:
    """Kernels whose values less their zero-point are int8: these become symmetric, as int8 models have
    them."""
    found = set()
    for op in model.ops:
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and op.inputs[1] >= 0:
            w = model.tensors[op.inputs[1]]
            if w.data is not None and w.dtype == np.uint8 and len(w.zero_points) == 1 and w.size:
                low, high = int(w.data.min()) - w.zero_point, int(w.data.max()) - w.zero_point
                if low >= -128 and high <= 127:
                    found.add(w.index)
    return found
