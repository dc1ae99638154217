"""A CNN pre-trained on the hand of 40 writers (FEMNIST, 62 classes), to be federated on the hands of 40
others.

The head is replaced by a fresh one with small random weights: 128 features, head 128→62. Needs FEMNIST as
packed in the shared data (or --data FOLDER, QUANTFL_DATA).

    python models/femnist_writers/recipe.py --out models/femnist_writers/femnist_writers_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import augmented, glyph_backbone, quantise, seeded_tensorflow, tflite_accuracy

from quantfl.data.femnist import load_femnist

SEED, CLASSES = 5, 62


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of femnist_train.npz and femnist_test.npz")
    args = parser.parse_args()
    public = load_femnist(args.data, part="public")
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    net = tf.keras.Sequential([*glyph_backbone(layers), layers.Dense(CLASSES, activation="softmax")])
    net.compile(tf.keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = augmented(public.x_train, public.y_train, SEED)
    net.fit(x, y, epochs=25, batch_size=64, verbose=0)
    score = float(
        (net.predict(public.x_test.astype(np.float32), verbose=0).argmax(1) == public.y_test).mean()
    )
    print(
        f"writers of pre-training, 62 classes: float accuracy {score:.4f} on {len(public.y_test):,} test "
        "images"
    )
    others = load_femnist(args.data, part="writers")
    score = float(
        (net.predict(others.x_test.astype(np.float32), verbose=0).argmax(1) == others.y_test).mean()
    )
    print(
        f"the fleet's writers, head of pre-training: float accuracy {score:.4f} on {len(others.y_test):,} "
        "test images"
    )
    head = layers.Dense(
        CLASSES, name="head", kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED)
    )
    ready = tf.keras.Sequential([*net.layers[:-1], head, layers.Softmax()])
    ready.build((None, 28, 28, 1))
    data = quantise(tf, ready, public.x_train[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")
    before = tflite_accuracy(tf, data, others.x_test, others.y_test)
    print(f"the fleet's writers, fresh head: int8 accuracy {before:.4f}")


if __name__ == "__main__":
    main()
