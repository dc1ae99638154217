"""DS-CNN on MFCC (Zhang et al. 2017, as in MLPerf Tiny's keyword spotting), trained on the Free Spoken Digit
Dataset: 64 features, head 64→10; 2.7 M multiply-accumulates.

    python models/dscnn_fsdd/recipe.py --out dscnn_fsdd_int8.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import pretrain, recipe_arguments, seeded_tensorflow

from quantfl.data.speech import load_fsdd

SEED, EPOCHS, CLASSES = 6, 6, 10


def build(tf: Any) -> Any:
    """conv 10x4/2 (64), four separable blocks (64), global average pool, dense 10."""
    layers = tf.keras.layers
    x = entry = layers.Input((49, 10, 1))

    def unit(x: Any, layer: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))

    x = unit(x, layers.Conv2D(64, (10, 4), 2, padding="same", use_bias=False))
    for _ in range(4):
        x = unit(x, layers.DepthwiseConv2D(3, padding="same", use_bias=False))
        x = unit(x, layers.Conv2D(64, 1, use_bias=False))
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.2)(x))
    return tf.keras.Model(entry, layers.Softmax()(layers.Dense(CLASSES, name="head")(x)))


if __name__ == "__main__":
    args = recipe_arguments(__doc__, EPOCHS)
    tf = seeded_tensorflow(SEED)
    pretrain(tf, build(tf), load_fsdd, args)
