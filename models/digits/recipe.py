"""The demo's model: a small CNN pre-trained on upright digits, to be fine-tuned where the camera is mounted
sideways.

Domain of pre-training: 600 of scikit-learn's handwritten digits (8x8), upright, with small shifts. Domain of
the fleet: the other 1,197, turned by a quarter (`quantfl.data`, data set "digits"). The features carry over,
the head does not: the int8 model scores far lower on turned digits until the fleet has trained its head. No
download is needed.

    python models/digits/recipe.py --out models/digits/digits_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow, tflite_accuracy

from quantfl.data.dataset import digits_arrays, load_digits

SEED = 7


def pretraining_data() -> tuple[np.ndarray, np.ndarray]:
    """Upright images and four copies of each shifted by one pixel."""
    x, y = digits_arrays()
    x, y = x[:600], y[:600]
    shifted = [np.roll(x, step, axis=axis) for axis in (1, 2) for step in (-1, 1)]
    return np.concatenate([x, *shifted]), np.tile(y, 5)


def build(tf: Any) -> Any:
    """conv 3x3 (16), conv 3x3 stride 2 (32), depthwise 3x3, conv 1x1 (32), average pool: 128 features, dense
    10."""
    layers = tf.keras.layers
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    out = parser.parse_args().out
    tf = seeded_tensorflow(SEED)
    x, y = pretraining_data()
    net = build(tf)
    net.compile(tf.keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x, y, epochs=30, batch_size=50, verbose=0)
    data = quantise(tf, net, x[:300])
    out.write_bytes(data)
    fleet = load_digits(None)
    upright = np.ascontiguousarray(np.rot90(fleet.x_test, -1, axes=(1, 2)))
    print(f"{out.name}: {len(data):,} bytes")
    for name, images in (
        ("upright (domain of pre-training)", upright),
        ("turned (domain of the fleet)", fleet.x_test),
    ):
        exact = float((net.predict(images, verbose=0).argmax(1) == fleet.y_test).mean())
        print(
            f"accuracy, {name}: float {exact:.4f}, int8 {tflite_accuracy(tf, data, images, fleet.y_test):.4f}"
        )


if __name__ == "__main__":
    main()
