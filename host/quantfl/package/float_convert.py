"""Float .tflite to full int8 .tflite; run as a process by quantfl.package.convert.

    python -m quantfl.package.float_convert MODEL CALIBRATION OUT

Google's ai-edge-quantizer does it, statically and per channel, without TensorFlow. Weights that are already
float16 or int8 (dynamic-range models) are made float32 before. Lines on stdout are JSON, as those of
keras_convert.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import QuantflError, UsageError
from quantfl.package.calibrate import CalibrationWarning, agreement, labels_of, samples
from quantfl.package.flatfile import ModelFile

_SIGNATURE = "serving_default"


def fail(kind: str, message: str) -> None:
    print(json.dumps({"kind": kind, "message": " ".join(message.split())}))
    sys.exit(1)


def _plain(schema: Any, data: bytes) -> Any:
    """The model as objects, its weights float32, with one signature."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    constant = {i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    for c in model.operatorCodes:  # old files have the deprecated field only, which the quantizer overlooks
        c.builtinCode = max(c.builtinCode, c.deprecatedBuiltinCode)
    codes = [c.builtinCode for c in model.operatorCodes]
    kept = []
    for op in graph.operators:
        kind = codes[op.opcodeIndex]
        if kind == schema.BuiltinOperator.DEQUANTIZE and op.inputs[0] in constant:
            source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
            _as_float(schema, model, source, target)
            constant.add(int(op.outputs[0]))
        else:
            kept.append(op)
    for op in kept:
        if codes[op.opcodeIndex] in _weighted(schema) and len(op.inputs) > 1:
            x, w = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
            if x.type == schema.TensorType.FLOAT32 and op.inputs[1] in constant:
                _as_float(schema, model, w, w)
    graph.operators = kept
    model.signatureDefs = [_signature(schema, graph)]
    return model


def _weighted(schema: Any) -> set[int]:
    names = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
    return {getattr(schema.BuiltinOperator, n) for n in names}


def _as_float(schema: Any, model: Any, t: Any, to: Any) -> None:
    """The content of t, a constant of float16 or of int8 with scales, as float32 in the tensor `to`."""
    raw = bytes(model.buffers[t.buffer].data)
    if t.type == schema.TensorType.FLOAT16:
        values = np.frombuffer(raw, np.float16).astype(np.float32)
    elif t.type in (schema.TensorType.INT8, schema.TensorType.UINT8) and t.quantization is not None:
        dtype = np.int8 if t.type == schema.TensorType.INT8 else np.uint8
        q = np.frombuffer(raw, dtype).reshape(t.shape).astype(np.float32)
        axis = t.quantization.quantizedDimension
        wide = [1] * len(t.shape)
        wide[axis] = -1
        scale, zero = (
            np.asarray(v, np.float32).reshape(wide if len(v) > 1 else -1)
            for v in (t.quantization.scale, t.quantization.zeroPoint)
        )
        values = (q - zero) * scale
    else:
        return
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    to.buffer, to.type, to.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None


def _signature(schema: Any, graph: Any) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = _SIGNATURE.encode(), 0
    for name, ends in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        maps = []
        for i, t in enumerate(ends):
            m = schema.TensorMapT()
            m.name, m.tensorIndex = f"{name[:-1]}{i}".encode(), int(t)
            maps.append(m)
        setattr(signature, name, maps)
    return signature


def quantise(data: bytes, x: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The int8 model, and the float model's outputs float32 [n, size] on x float32 [n, ...]."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    builder = flatbuffers.Builder(len(data) + 1024)
    builder.Finish(_plain(schema, data).Pack(builder), file_identifier=b"TFL3")
    plain = bytes(builder.Output())
    runtime = Interpreter(model_content=plain)
    runtime.allocate_tensors()
    entry, last = runtime.get_input_details()[0], runtime.get_output_details()[0]["index"]
    outputs, rows = [], []
    for sample in x:
        rows.append({"input0": sample.reshape(entry["shape"]).astype(entry["dtype"])})
        runtime.set_tensor(entry["index"], rows[-1]["input0"])
        runtime.invoke()
        outputs.append(runtime.get_tensor(last).reshape(-1).astype(np.float32))
    work, recipes = quantizer.Quantizer(plain), recipe_manager.RecipeManager()
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    recipes.load_quantization_recipe(recipe.static_wi8_ai8())
    # The quantizer's own default is a moving average, by which the first sample counts for most.
    ranges = calibrator.Calibrator(plain, qsv_update_func=qsv_utils.min_max_update)
    ranges.calibrate({_SIGNATURE: rows}, recipes)
    done = work.quantize(ranges.get_model_qsvs())
    return _inline(schema, bytes(done.quantized_model)), np.stack(outputs)


def _inline(schema: Any, data: bytes) -> bytes:
    """The model with its weights inside the FlatBuffer, where the quantizer has put them behind it, and with
    the old field of operator codes, which readers of older schemas look at."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for buffer in model.buffers:
        if buffer.data is None and buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    for c in model.operatorCodes:
        c.builtinCode = max(c.builtinCode, c.deprecatedBuiltinCode)
        c.deprecatedBuiltinCode = min(c.builtinCode, 127)
    builder = flatbuffers.Builder(len(data) + 1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def main(model_path: str, calibration: str, out: str) -> None:
    data = Path(model_path).read_bytes()
    model = ModelFile(data, model_path)
    try:
        import ai_edge_quantizer
    except ImportError:
        fail(
            "tool",
            f"{model_path} is a float model; to quantise it install ai-edge-quantizer: "
            "pip install 'quantfl[quantize]'",
        )
    assert ai_edge_quantizer
    shape = model.tensors[model.inputs[0]].shape[1:]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CalibrationWarning)
        try:
            x = samples(Path(calibration), shape)
        except UsageError as error:
            fail("usage", str(error))
    for w in said:
        if issubclass(w.category, CalibrationWarning):
            print(json.dumps({"kind": "warning", "message": str(w.message)}))
    try:
        with (
            open(os.devnull, "w") as null,
            contextlib.redirect_stdout(null),
            contextlib.redirect_stderr(null),
        ):
            made, floats = quantise(data, x)
    except Exception as error:  # the quantizer raises its own kinds
        fail(
            "model",
            f"{model_path}: cannot be quantised to int8: {(str(error) or repr(error)).splitlines()[0]}",
        )
    Path(out).write_bytes(made)
    with contextlib.suppress(QuantflError):  # an operator that is refused: convert says so
        found = agreement(made, x, floats, labels_of(Path(calibration), len(x)))
        print(json.dumps({"kind": "quality", **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
