"""What the recipes share: a repeatable TensorFlow, full int8 quantisation, accuracy of a .tflite."""

from __future__ import annotations

import os

import numpy as np


def seeded_tensorflow(seed: int):
    """TensorFlow with fixed seeds, deterministic kernels and one thread: the same weights on the same kind of CPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def quantise(tf, net, calibration: np.ndarray) -> bytes:
    """The full int8 .tflite of a Keras model, with a fixed batch of 1, calibrated on the samples given."""
    shape = net.inputs[0].shape[1:]
    entry = tf.keras.Input(batch_shape=(1, *shape))
    fixed = tf.keras.Model(entry, net(entry))
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None].astype(np.float32)] for s in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def tflite_accuracy(tf, data: bytes, x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of a full int8 .tflite in TensorFlow Lite's interpreter."""
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    entry, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    correct = 0
    for sample, label in zip(x, y, strict=True):
        q = np.clip(np.rint(sample / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], q[None])
        interpreter.invoke()
        correct += int(interpreter.get_tensor(out["index"]).argmax() == label)
    return correct / len(y)


def glyph_backbone(layers) -> list:
    """conv 3x3/2 (16), separable (32), separable/2 (64), average pool 2, dense 128: 0.4 M multiply-accumulates."""
    return [
        layers.Input((28, 28, 1)),
        layers.Rescaling(1 / 255.0),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.Conv2D(32, 1, activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(128, activation="relu", name="features"),
    ]


def augmented(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images and three copies of each, shifted by up to two pixels and turned by up to 15 degrees."""
    from scipy import ndimage

    rng, copies = np.random.default_rng(seed), [x.astype(np.float32)]
    for _ in range(3):
        turned = [ndimage.rotate(i[..., 0], a, reshape=False, order=1) for i, a in zip(x, rng.uniform(-15, 15, len(x)), strict=True)]
        shift = rng.integers(-2, 3, (len(x), 2))
        copies.append(np.stack([np.roll(i, s, (0, 1)) for i, s in zip(turned, shift, strict=True)])[..., None].astype(np.float32))
    return np.concatenate(copies), np.tile(y, 4)
