"""MLPerf Tiny's keyword spotter, trained by its authors on Speech Commands, with a fresh head for spoken
digits (64→10).

The weights (batch norms folded) are those of mlcommons/tiny's
benchmark/training/keyword_spotting/trained_models/ kws_ref_model_float32.tflite (Apache-2.0); the Free Spoken
Digit Dataset (docs/DATA.md) is used for calibration only.

    python models/spoken_digits/recipe.py --kws kws_ref_model_float32.tflite --out
    models/spoken_digits/spoken_digits_int8.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow

from quantfl.data.speech import load_fsdd

SEED, CLASSES = 7, 10


def weights_of(tf: Any, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of every convolution of the .tflite, in order, in Keras's layout; some kernels are int8
    with scales."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(model_path=str(path), experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    details, out = interpreter.get_tensor_details(), []
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kernel, bias = (interpreter.get_tensor(int(i)) for i in op["inputs"][1:3])
            if kernel.dtype == np.int8:
                scales = details[int(op["inputs"][1])]["quantization_parameters"]["scales"]
                kernel = kernel.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
            # OHWI to HWIO; depthwise 1HWC to HWC1
            out.append((kernel.transpose(1, 2, 3, 0), bias))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--kws", type=Path, required=True, help="MLPerf Tiny's kws_ref_model_float32.tflite")
    parser.add_argument("--data", type=Path, help="folder of fsdd_8k.npz or of FSDD's recordings")
    args = parser.parse_args()
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    blocks = [layers.Conv2D(64, (10, 4), strides=2, padding="same", activation="relu")]
    for _ in range(4):
        blocks += [
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(64, 1, activation="relu"),
        ]
    start = tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED)
    end = [
        layers.AveragePooling2D((25, 5)),
        layers.Flatten(),
        layers.Dense(CLASSES, activation="softmax", kernel_initializer=start),
    ]
    net = tf.keras.Sequential([layers.Input((49, 10, 1)), *blocks, *end])
    for layer, (kernel, bias) in zip(blocks, weights_of(tf, args.kws), strict=True):
        layer.set_weights([kernel, bias])
    data = quantise(tf, net, load_fsdd(args.data).x_train[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
