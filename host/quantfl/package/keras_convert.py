"""Keras or SavedModel to full int8 .tflite; run as a process by quantfl.package.convert.

    python -m quantfl.package.keras_convert MODEL CALIBRATION OUT

A failure is one JSON line on stdout: {"kind": "tool" | "usage" | "model", "message": …}.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np


def fail(kind: str, message: str) -> None:
    print(json.dumps({"kind": kind, "message": " ".join(message.split())}))
    sys.exit(1)


def samples(path: Path) -> np.ndarray:
    """Representative inputs: a .npy array, or the array x, x_train or the only one of a .npz."""
    try:
        raw = np.load(path, allow_pickle=False)
        if isinstance(raw, np.ndarray):
            return raw
        for key in ("x", "x_train", *raw.files):
            if key in raw.files:
                found: np.ndarray = raw[key]
                return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        fail("usage", f"{path}: not a .npy or .npz file of plain arrays ({error})")
    fail("usage", f"{path}: holds no array")
    raise AssertionError


def checked(x: np.ndarray, source: str) -> np.ndarray:
    """x as float32 [n, ...]; fails unless it holds finite numbers that differ, in at least one sample."""
    if x.dtype.kind not in "biuf" or x.ndim < 2 or x.size == 0:
        fail("usage", f"{source}: {x.dtype} {x.shape} calibrates nothing; real inputs (samples, ...) are due")
    values = x.astype(np.float32)
    if not np.isfinite(values).all():
        fail("usage", f"{source}: NaN or infinity among the inputs, as float32; finite numbers are due")
    if values.min() == values.max():
        fail("usage", f"{source}: every value is {values.min():g}; real inputs are due, which differ")
    return values


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
    x = checked(samples(Path(calibration)), calibration)
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
            net = tf.keras.models.load_model(model_path, compile=False)
            shape = net.inputs[0].shape[1:]
            entry = tf.keras.Input(batch_shape=(1, *shape))
            converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(entry, net(entry)))
    except Exception as error:  # whatever Keras raises for a file it does not understand
        fail(
            "model",
            f"{model_path}: cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
        )
    if tuple(x.shape[1:]) != tuple(shape):
        fail("usage", f"{calibration}: samples have shape {x.shape[1:]}, but the model takes {tuple(shape)}")
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in x[:500])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        data = converter.convert()
    except Exception as error:  # the converter raises its own kinds
        fail("model", f"{model_path}: cannot be quantised to int8: {str(error).splitlines()[0]}")
    Path(out).write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
