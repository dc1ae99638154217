"""The model: a small CNN, pre-trained on upright digits. Its last layer is what the fleet trains.

Needs TensorFlow: pip install 'quantfl[convert]'. Then

    python recipe.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from data import dataset

from quantfl.data.dataset import digits_arrays

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
import tensorflow as tf

OUT = Path(__file__).parent / "model.tflite"
layers = tf.keras.layers


def build(seed: int = 7) -> tf.keras.Model:
    """The network, with repeatable weights."""
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Rescaling(1 / 255.0),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(32, 1, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(10, name="head"),
            layers.Softmax(),
        ]
    )


def upright() -> tuple[np.ndarray, np.ndarray]:
    """600 upright digits and four copies of each, shifted by one pixel."""
    x, y = digits_arrays()
    shifted = [np.roll(x[:600], step, axis=axis) for axis in (1, 2) for step in (-1, 1)]
    return np.concatenate([x[:600], *shifted]), np.tile(y[:600], 5)


def quantised(net: tf.keras.Model, samples: np.ndarray) -> bytes:
    """The full int8 .tflite with a batch of one; its ranges are those of the samples."""
    entry = tf.keras.Input(batch_shape=(1, *net.input_shape[1:]))
    converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(entry, net(entry)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main() -> None:
    """Train, quantise, write model.tflite, and say how well it knows both worlds."""
    net = build()
    x, y = upright()
    shaped = x.reshape(-1, *net.input_shape[1:])
    net.compile(tf.keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(shaped, y, epochs=40, batch_size=32, verbose=0)
    fleet = dataset()
    seen = fleet.x_test.reshape(-1, *net.input_shape[1:])
    OUT.write_bytes(quantised(net, np.concatenate([shaped[:200], seen[:100]]).astype(np.float32)))
    print(f"{OUT.name}: {OUT.stat().st_size:,} bytes")
    for where, a, b in (("it was trained", shaped, y), ("the fleet is", seen, fleet.y_test)):
        print(f"accuracy where {where}: {(net.predict(a, verbose=0).argmax(1) == b).mean():.3f}")


if __name__ == "__main__":
    main()
