"""A model for boards with 16 KB of RAM (BBC micro:bit): a tiny CNN on 8x8 digits, 48 features, head 48→10.

Data and domains are those of models/digits: pre-trained upright, federated turned by a quarter. No download
is needed.

    python models/micro/recipe.py --out models/micro/micro_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow, tflite_accuracy
from digits.recipe import pretraining_data

from quantfl.data.dataset import load_digits

SEED = 5


def build(tf: Any) -> Any:
    """conv 3x3 stride 2 (4), conv 3x3 stride 2 (12): 48 features, dense 10: 4.8 thousand
    multiply-accumulates."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Rescaling(1 / 255.0),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
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
    net.compile(tf.keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x, y, epochs=60, batch_size=50, verbose=0)
    data = quantise(tf, net, x[:300])
    out.write_bytes(data)
    fleet = load_digits(None)
    print(f"{out.name}: {len(data):,} bytes")
    upright = np.ascontiguousarray(np.rot90(fleet.x_test, -1, axes=(1, 2)))
    for images, where in (
        (upright, "upright digits (domain of pre-training)"),
        (fleet.x_test, "turned digits (domain of the fleet)"),
    ):
        print(
            f"{where}: int8 accuracy {tflite_accuracy(tf, data, images, fleet.y_test):.4f} on "
            f"{len(images):,} test images"
        )


if __name__ == "__main__":
    main()
