"""A CNN pre-trained on handwritten letters (FEMNIST), to be federated on handwritten digits (MNIST).

The 52-letter head is replaced by a fresh 10-class one with small random weights, so the fleet starts from nothing but the
features: 128 of them, head 128→10. Needs FEMNIST as packed in the shared data (or --data FOLDER, QUANTFL_DATA).

    python models/femnist_mnist/recipe.py --out models/femnist_mnist/femnist_mnist_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow, tflite_accuracy  # noqa: E402

from quantfl.data.femnist import load_femnist  # noqa: E402

SEED = 3


def backbone(layers) -> list:
    """conv 3x3/2 (16), separable (32), separable/2 (64), average pool 2, dense 128: 0.4 M multiply-accumulates."""
    return [
        layers.Input((28, 28, 1)),
        layers.Rescaling(1 / 255.0),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.Conv2D(32, 1, activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(128, activation="relu", name="features"),
    ]


def augmented(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images and three copies of each, shifted by up to two pixels and turned by up to 15 degrees."""
    from scipy import ndimage

    rng, copies = np.random.default_rng(SEED), [x.astype(np.float32)]
    for _ in range(3):
        turned = [ndimage.rotate(i[..., 0], a, reshape=False, order=1) for i, a in zip(x, rng.uniform(-15, 15, len(x)), strict=True)]
        shift = rng.integers(-2, 3, (len(x), 2))
        copies.append(np.stack([np.roll(i, s, (0, 1)) for i, s in zip(turned, shift, strict=True)])[..., None].astype(np.float32))
    return np.concatenate(copies), np.tile(y, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of femnist_train.npz and femnist_test.npz")
    args = parser.parse_args()
    letters = load_femnist(args.data, part="letters")
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    net = tf.keras.Sequential([*backbone(layers), layers.Dense(52, activation="softmax")])
    net.compile(tf.keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = augmented(letters.x_train, letters.y_train)
    net.fit(x, y, epochs=25, batch_size=64, verbose=0)
    score = float((net.predict(letters.x_test.astype(np.float32), verbose=0).argmax(1) == letters.y_test).mean())
    print(f"letters (domain of pre-training), 52 classes: float accuracy {score:.4f} on {len(letters.y_test):,} test images")
    head = layers.Dense(10, name="head", kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED))
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
