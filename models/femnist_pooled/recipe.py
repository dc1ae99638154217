"""A DS-CNN with a globally pooled feature, pre-trained on the hand of 40 writers (FEMNIST, 62 classes), for
the hands of others.

64 features after the global average pool, head 64→62; before it a separable block that boards can train too
(`quantfl convert --cuts`). Needs FEMNIST as packed in the shared data (or --data FOLDER, QUANTFL_DATA).

    python models/femnist_pooled/recipe.py --out models/femnist_pooled/femnist_pooled_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import augmented, quantise, seeded_tensorflow, tflite_accuracy

SEED, CLASSES = 5, 62


def build(tf: Any) -> Any:
    """conv 3x3/2 (16), separable (32), separable/2 (64), separable (64), global average pool, dense 62."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255.0),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(32, 1, activation="relu"),
            layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(64, 1, activation="relu"),
            layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(64, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, name="head"),
            layers.Softmax(),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of femnist_train.npz and femnist_test.npz")
    parser.add_argument("--epochs", type=int, default=16)
    args = parser.parse_args()
    from quantfl.data.femnist import load_femnist

    public, others = load_femnist(args.data, part="public"), load_femnist(args.data, part="writers")
    tf = seeded_tensorflow(SEED)
    net = build(tf)
    net.compile(tf.keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = augmented(public.x_train, public.y_train, SEED)
    net.fit(x, y, epochs=args.epochs, batch_size=64, verbose=0)
    for ds, who in ((public, "writers of pre-training"), (others, "the fleet's writers")):
        score = float((net.predict(ds.x_test, verbose=0).argmax(1) == ds.y_test).mean())
        print(f"{who}, 62 classes: float accuracy {score:.4f} on {len(ds.y_test):,} test images")
    data = quantise(tf, net, public.x_train[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")
    print(
        "the fleet's writers: int8 accuracy "
        f"{tflite_accuracy(tf, data, others.x_test[:2000], others.y_test[:2000]):.4f}"
    )


if __name__ == "__main__":
    main()
