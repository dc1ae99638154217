"""ResNet8, MLPerf Tiny's image classifier (mlcommons/tiny, benchmark/training/image_classification), trained
on CIFAR-10.

python models/resnet8/recipe.py --out resnet8_int8.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import pretrain, recipe_arguments, seeded_tensorflow

from quantfl.data.cifar import load_cifar

SEED, EPOCHS, CLASSES = 4, 10, 10


def build(tf: Any) -> Any:
    """conv 3x3 (16), three residual blocks of 16, 32/2 and 64/2 channels, global average pool, dense 10; 12.5
    M products."""
    layers = tf.keras.layers
    x = entry = layers.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)

    def unit(x: Any, channels: int, stride: int) -> Any:
        return layers.BatchNormalization(momentum=0.9)(layers.Conv2D(channels, 3, stride, padding="same")(x))

    x = layers.ReLU()(unit(x, 16, 1))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        y = unit(layers.ReLU()(unit(x, channels, stride)), channels, 1)
        if stride != 1:
            x = layers.Conv2D(channels, 1, stride, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(entry, layers.Softmax()(layers.Dense(CLASSES, name="head")(x)))


if __name__ == "__main__":
    args = recipe_arguments(__doc__, EPOCHS)
    tf = seeded_tensorflow(SEED, onednn=True)
    pretrain(
        tf,
        build(tf),
        lambda path: load_cifar(path, 10),
        args,
        lr=5e-3,
        batch=64,
        warm=0.2,
        flip=True,
        shift=3,
    )
