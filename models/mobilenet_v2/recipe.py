"""MobileNetV2 (Sandler et al. 2018) of width 0.35 at 32 or 96 pixels, trained on CIFAR-10 (at 96 pixels
scaled up, after 32, see models/mobilenet_v1).

    python models/mobilenet_v2/recipe.py --size 32 --out mobilenet_v2_32_int8.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import pretrain, recipe_arguments, seeded_tensorflow

from quantfl.data.cifar import load_cifar

SEED, EPOCHS, CLASSES = 2, 10, 10
# expansion, channels at width 1, blocks, stride of the first (Sandler et al., table 2)
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 256  # channels before the pool: 1,280 in the paper, too many for a board's head


def _channels(n: float) -> int:
    """To the nearest multiple of 8, never less than 90 % of n."""
    rounded = max(8, int(n + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * n else rounded


def build(tf: Any, size: int, width: float = 0.35) -> Any:
    """A 32-pixel image is halved one time less than in the paper: the 24-channel group keeps its size."""
    layers = tf.keras.layers
    x = entry = layers.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)
    small = size == 32

    def unit(x: Any, layer: Any, relu: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=0.9)(layer(x))
        return layers.ReLU(6.0)(x) if relu else x

    x = unit(x, layers.Conv2D(_channels(32 * width), 3, 2, padding="same", use_bias=False))
    for expansion, channels, count, first in GROUPS:
        for i in range(count):
            stride = first if i == 0 and not (small and channels == 24) else 1
            shortcut, y = x, x
            if expansion > 1:
                y = unit(y, layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False))
            y = unit(y, layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False))
            y = unit(y, layers.Conv2D(_channels(channels * width), 1, use_bias=False), relu=False)
            x = layers.Add()([shortcut, y]) if stride == 1 and shortcut.shape[-1] == y.shape[-1] else y
    x = unit(x, layers.Conv2D(LAST, 1, use_bias=False))
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(entry, layers.Softmax()(layers.Dense(CLASSES, name="head")(x)))


if __name__ == "__main__":
    args = recipe_arguments(__doc__, EPOCHS, (32, 96))
    tf = seeded_tensorflow(SEED, onednn=True)
    how: dict[str, Any] = {"lr": 5e-3, "batch": 128, "warm": 0.2, "flip": True, "shift": 3}
    if args.size == 96:
        how |= {"small": build(tf, 32), "resize": 96}
    pretrain(tf, build(tf, args.size), lambda path: load_cifar(path, 10), args, **how)
