"""Keras or SavedModel to full int8 .tflite; run as a process by quantfl.package.convert.

    python -m quantfl.package.keras_convert MODEL CALIBRATION OUT

A failure is one JSON line on stdout: {"kind": "tool" | "usage" | "model", "message": …}; a warning too, of
kind "warning".
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from quantfl.errors import QuantflError, UsageError
from quantfl.package.calibrate import CalibrationWarning, agreement, labels_of, samples


def fail(kind: str, message: str) -> None:
    print(json.dumps({"kind": kind, "message": " ".join(message.split())}))
    sys.exit(1)


def _named_as_keras_wants(path: str) -> str:
    """Keras tells formats by their suffix, in lower case."""
    suffix = Path(path).suffix
    if suffix == suffix.lower():
        return path
    link = Path(tempfile.mkdtemp()) / f"model{suffix.lower()}"
    link.symlink_to(Path(path).resolve())
    return str(link)


def main(model_path: str, calibration: str, out: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        import tensorflow as tf
    except ImportError:
        fail(
            "tool",
            "TensorFlow is missing: pip install 'quantfl[convert]', or give a full int8 .tflite instead",
        )
    net = None
    try:
        if Path(model_path).is_dir():
            loaded = tf.saved_model.load(model_path)
            signature = loaded.signatures["serving_default"]
            entry = next(iter(signature.structured_input_signature[1].values()))
            shape, call = entry.shape[1:], signature
            name = next(iter(signature.structured_input_signature[1]))
            function = tf.function(
                lambda v: call(**{name: v}), input_signature=[tf.TensorSpec((1, *shape), tf.float32)]
            )
            converter = tf.lite.TFLiteConverter.from_concrete_functions(
                [function.get_concrete_function()], loaded
            )
        else:
            net = tf.keras.models.load_model(_named_as_keras_wants(model_path), compile=False)
            shape = net.inputs[0].shape[1:]
            entry = tf.keras.Input(batch_shape=(1, *shape))
            converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(entry, net(entry)))
    except Exception as error:  # whatever Keras raises for a file it does not understand
        fail(
            "model",
            f"{model_path}: cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
        )
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", CalibrationWarning)
            x = samples(Path(calibration), tuple(int(n) for n in shape))
    except UsageError as error:
        fail("usage", str(error))
    for w in said:
        print(json.dumps({"kind": "warning", "message": str(w.message)}))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        data = converter.convert()
    except Exception as error:  # the converter raises its own kinds
        fail("model", f"{model_path}: cannot be quantised to int8: {str(error).splitlines()[0]}")
    Path(out).write_bytes(data)
    if net is not None:
        floats = np.asarray(net(x, training=False), np.float32).reshape(len(x), -1)
        with contextlib.suppress(QuantflError):  # an operator that is refused: convert says so
            found = agreement(data, x, floats, labels_of(Path(calibration), len(x)))
            print(json.dumps({"kind": "quality", **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
