"""MLPerf Tiny's ResNet8, trained by its authors on CIFAR-10, with a fresh head for CIFAR-100's hundred
classes (64→100).

The network is mlcommons/tiny's benchmark/training/image_classification/trained_models/pretrainedResnet.h5
(Apache-2.0); CIFAR-100 (docs/DATA.md) is used for calibration only.

    python models/cifar100/recipe.py --resnet pretrainedResnet.h5 --out models/cifar100/cifar100_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow

from quantfl.data.cifar import load_cifar

SEED, CLASSES = 7, 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--resnet", type=Path, required=True, help="MLPerf Tiny's pretrainedResnet.h5")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100")
    args = parser.parse_args()
    tf = seeded_tensorflow(SEED)
    source = tf.keras.models.load_model(args.resnet, compile=False)
    start = tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED)
    head = tf.keras.layers.Dense(CLASSES, activation="softmax", kernel_initializer=start, name="head")
    net = tf.keras.Model(source.inputs, head(source.layers[-2].output))
    train = load_cifar(args.data, CLASSES).x_train[:300]
    data = quantise(tf, net, train.astype(np.float32))
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
