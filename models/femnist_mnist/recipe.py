"""A CNN pre-trained on handwritten letters (FEMNIST), to be federated on handwritten digits (MNIST).

The 52-letter head is replaced by a fresh 10-class one with small random weights, so the fleet starts from
nothing but the features: 128 of them, head 128→10. Needs FEMNIST as packed in the shared data (or --data
FOLDER, QUANTFL_DATA).

    python models/femnist_mnist/recipe.py --out models/femnist_mnist/femnist_mnist_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import augmented, glyph_backbone, quantise, seeded_tensorflow, tflite_accuracy

from quantfl.data.femnist import load_femnist

SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of femnist_train.npz and femnist_test.npz")
    args = parser.parse_args()
    letters = load_femnist(args.data, part="letters")
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    net = tf.keras.Sequential([*glyph_backbone(layers), layers.Dense(52, activation="softmax")])
    net.compile(tf.keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = augmented(letters.x_train, letters.y_train, SEED)
    net.fit(x, y, epochs=25, batch_size=64, verbose=0)
    score = float(
        (net.predict(letters.x_test.astype(np.float32), verbose=0).argmax(1) == letters.y_test).mean()
    )
    print(
        f"letters (domain of pre-training), 52 classes: float accuracy {score:.4f} on "
        f"{len(letters.y_test):,} test images"
    )
    head = layers.Dense(
        10, name="head", kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED)
    )
    ready = tf.keras.Sequential([*net.layers[:-1], head, layers.Softmax()])
    ready.build((None, 28, 28, 1))
    data = quantise(tf, ready, letters.x_train[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")
    try:
        from quantfl.data.idx import load_mnist

        mnist = load_mnist(None)
    except Exception as error:  # MNIST is not needed to make the model
        print(f"MNIST (domain of the fleet) not scored: {error}")
        return
    before = tflite_accuracy(tf, data, mnist.x_test[:1000], mnist.y_test[:1000])
    print(f"MNIST (domain of the fleet), fresh head: int8 accuracy {before:.4f} on 1,000 test images")


if __name__ == "__main__":
    main()
