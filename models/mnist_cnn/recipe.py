"""The small CNN of many a first example, trained on MNIST: two convolutions, two max pools, 400→10; 0.19 M
multiply-accumulates.

python models/mnist_cnn/recipe.py --out mnist_cnn_int8.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import pretrain, recipe_arguments, seeded_tensorflow

from quantfl.data.idx import load_mnist

SEED, EPOCHS = 1, 4


def build(tf: Any) -> Any:
    """conv 3x3 (8), max pool 2, conv 3x3 (16), max pool 2, dense 10."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255.0),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, name="head"),
            layers.Softmax(),
        ]
    )


if __name__ == "__main__":
    args = recipe_arguments(__doc__, EPOCHS)
    tf = seeded_tensorflow(SEED)
    pretrain(tf, build(tf), load_mnist, args)
