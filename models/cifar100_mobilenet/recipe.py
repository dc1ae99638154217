"""MobileNetV1 (Howard et al. 2017) of width 0.25, trained on ImageNet by its authors, as a backbone for
CIFAR-100's hundred classes.

A board's image has 32 x 32 pixels; the board itself enlarges it to 128 x 128 (bilinear). The 256 features are
projected onto 64 principal components, and a fresh head (64 to 100) follows. Neither a weight nor a scale has
seen an image of CIFAR-100: components and quantisation come from CIFAR-10.

    python models/cifar100_mobilenet/recipe.py --mobilenet mobilenet_v1_0.25_128_quant.tflite --out NEW.tflite

mobilenet_v1_0.25_128_quant.tflite is google-coral's test_data (Apache-2.0): weights of 8 bits, read as the
real numbers they stand for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tflite

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import quantise, seeded_tensorflow

from quantfl.data.cifar import load_cifar

SEED, CLASSES, SIDE, COMPONENTS, PUBLIC = 7, 100, 128, 64, 4000
_TYPES = {tflite.TensorType.UINT8: np.uint8, tflite.TensorType.INT32: np.int32}


def real(model: Any, index: int) -> np.ndarray:
    """The real numbers, float64, that a constant tensor stands for."""
    tensor = model.Subgraphs(0).Tensors(index)
    q, buffer = tensor.Quantization(), model.Buffers(tensor.Buffer()).DataAsNumpy()
    stored = np.frombuffer(buffer.tobytes(), _TYPES[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
    numbers: np.ndarray = (stored.astype(np.float64) - int(q.ZeroPoint(0))) * float(q.Scale(0))
    return numbers


def convolutions(path: Path) -> list[tuple[bool, int, np.ndarray, np.ndarray]]:
    """(depthwise, stride, kernel in Keras' order, bias) of every convolution before the classifier."""
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph, found = model.Subgraphs(0), []
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        code = model.OperatorCodes(op.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == tflite.BuiltinOperator.AVERAGE_POOL_2D:
            break
        depthwise = kind == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        if not depthwise and kind != tflite.BuiltinOperator.CONV_2D:
            raise SystemExit(f"{path}: operator {i} is not one of MobileNetV1's")
        options = tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions()
        table = op.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        kernel, bias = (real(model, int(t)) for t in op.InputsAsNumpy()[1:])
        found.append((depthwise, options.StrideW(), kernel.transpose(1, 2, 3, 0), bias))
    return found


def backbone(tf: Any, path: Path) -> Any:
    """32 x 32 pixels of 0..255 to 256 features."""
    layers = tf.keras.layers
    x = entry = layers.Input((32, 32, 3))
    x = layers.Resizing(SIDE, SIDE, interpolation="bilinear")(layers.Rescaling(1 / 128.0, -1.0)(x))
    for depthwise, stride, kernel, bias in convolutions(path):
        size = kernel.shape[0]
        layer = (
            layers.DepthwiseConv2D(size, stride, padding="same")
            if depthwise
            else layers.Conv2D(kernel.shape[3], size, stride, padding="same")
        )
        x = layer(x)
        layer.set_weights([kernel, bias])
        x = layers.ReLU(6.0)(x)
    return tf.keras.Model(entry, layers.GlobalAveragePooling2D()(x))


def projection(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [256, 64] and bias [64] that project centred features onto their principal components."""
    mean = features.mean(0)
    values, vectors = np.linalg.eigh(np.cov((features - mean).T))
    kernel = vectors[:, np.argsort(values)[::-1][:COMPONENTS]]
    return kernel, -mean @ kernel


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--mobilenet", type=Path, required=True, help="mobilenet_v1_0.25_128_quant.tflite")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    args = parser.parse_args()
    tf = seeded_tensorflow(SEED)
    layers = tf.keras.layers
    features = backbone(tf, args.mobilenet)
    public = load_cifar(args.data, 10).x_train[:PUBLIC].astype(np.float32)
    seen = np.concatenate([features.predict_on_batch(public[i : i + 100]) for i in range(0, PUBLIC, 100)])
    project = layers.Dense(COMPONENTS, name="components")
    start = tf.keras.initializers.RandomNormal(stddev=0.01, seed=SEED)
    head = layers.Dense(CLASSES, activation="softmax", kernel_initializer=start, name="head")
    net = tf.keras.Model(features.inputs, head(project(features.outputs[0])))
    project.set_weights(list(projection(seen.astype(np.float64))))
    data = quantise(tf, net, public[:300])
    args.out.write_bytes(data)
    print(f"{args.out.name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
