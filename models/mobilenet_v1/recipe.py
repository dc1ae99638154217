"""MobileNetV1 (Howard et al. 2017) of width 0.25 at 32 or 96 pixels, trained on CIFAR-10.

There are no 96-pixel photographs among the data sets quantfl reads: at 96 pixels the same images are scaled
up (bilinear), so the backbone is one for that size, not one that has seen detail of that size. It is trained
at 32 pixels first, with the same weights.

    python models/mobilenet_v1/recipe.py --size 32 --out mobilenet_v1_32_int8.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import pretrain, recipe_arguments, seeded_tensorflow

from quantfl.data.cifar import load_cifar

SEED, EPOCHS, CLASSES = 2, 10, 10
# (channels at width 1, stride) of the separable blocks
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def build(tf: Any, size: int, width: float = 0.25) -> Any:
    """A 32-pixel image enters with stride 1, a 96-pixel one with stride 2, as in the paper."""
    layers = tf.keras.layers
    x = entry = layers.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)

    def unit(x: Any, layer: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(layer(x)))

    x = unit(x, layers.Conv2D(int(32 * width), 3, 1 if size == 32 else 2, padding="same", use_bias=False))
    for channels, stride in BLOCKS:
        x = unit(x, layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False))
        x = unit(x, layers.Conv2D(int(channels * width), 1, use_bias=False))
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(entry, layers.Softmax()(layers.Dense(CLASSES, name="head")(x)))


if __name__ == "__main__":
    args = recipe_arguments(__doc__, EPOCHS, (32, 96))
    tf = seeded_tensorflow(SEED, onednn=True)
    how: dict[str, Any] = {"lr": 5e-3, "batch": 128, "warm": 0.2, "flip": True, "shift": 3}
    if args.size == 96:
        how |= {"small": build(tf, 32), "resize": 96}
    pretrain(tf, build(tf, args.size), lambda path: load_cifar(path, 10), args, **how)
