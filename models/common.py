"""What the recipes share: a repeatable TensorFlow, full int8 quantisation, accuracy of a .tflite."""

from __future__ import annotations

import os

import numpy as np


def seeded_tensorflow(seed: int):
    """TensorFlow with fixed seeds, deterministic kernels and one thread: the same weights on the same kind of CPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def quantise(tf, net, calibration: np.ndarray) -> bytes:
    """The full int8 .tflite of a Keras model, with a fixed batch of 1, calibrated on the samples given."""
    shape = net.inputs[0].shape[1:]
    entry = tf.keras.Input(batch_shape=(1, *shape))
    fixed = tf.keras.Model(entry, net(entry))
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None].astype(np.float32)] for s in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def tflite_accuracy(tf, data: bytes, x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of a full int8 .tflite in TensorFlow Lite's interpreter."""
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    entry, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    correct = 0
    for sample, label in zip(x, y, strict=True):
        q = np.clip(np.rint(sample / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], q[None])
        interpreter.invoke()
        correct += int(interpreter.get_tensor(out["index"]).argmax() == label)
    return correct / len(y)


def glyph_backbone(layers) -> list:
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


def augmented(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images and three copies of each, shifted by up to two pixels and turned by up to 15 degrees."""
    from scipy import ndimage

    rng, copies = np.random.default_rng(seed), [x.astype(np.float32)]
    for _ in range(3):
        turned = [ndimage.rotate(i[..., 0], a, reshape=False, order=1) for i, a in zip(x, rng.uniform(-15, 15, len(x)), strict=True)]
        shift = rng.integers(-2, 3, (len(x), 2))
        copies.append(np.stack([np.roll(i, s, (0, 1)) for i, s in zip(turned, shift, strict=True)])[..., None].astype(np.float32))
    return np.concatenate(copies), np.tile(y, 4)


def recipe_arguments(doc: str | None, epochs: int, sizes: tuple[int, ...] = ()):
    """The command line that recipes share: --out, --data, --epochs, --samples and, where there is a choice, --size."""
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of the data set's files")
    parser.add_argument("--epochs", type=int, default=epochs, help="0: untrained, to try the graph")
    parser.add_argument("--samples", type=int, help="at most so many training samples")
    if sizes:
        parser.add_argument("--size", type=int, choices=sizes, default=sizes[0], help="pixels of the input's side")
    return parser.parse_args()


def pretrain(tf, net, load, args, *, lr: float = 2e-3, batch: int = 64, resize: int | None = None, flip: bool = False) -> bytes:
    """Train `net`, quantise it, print the accuracy reached, write args.out. load: gives the data set, asked only when there is
    something to train or args.data is given; without, the graph is quantised on noise.

    resize: images are scaled up to so many pixels (bilinear). flip: mirrored images too.
    """
    shape = net.inputs[0].shape[1:]
    if args.epochs == 0:
        noise = np.random.default_rng(1).uniform(0, 255, (20, *shape)).astype(np.float32)
        data = quantise(tf, net, noise)
        args.out.write_bytes(data)
        print(f"{args.out.name}: {len(data):,} bytes, untrained")
        return data
    ds = load(args.data)
    x, y, x_test, y_test = ds.x_train, ds.y_train, ds.x_test, ds.y_test
    keep = np.random.default_rng(2).permutation(len(y))[: args.samples]
    x, y = x[keep], y[keep]

    def images(part: np.ndarray) -> np.ndarray:
        part = part.astype(np.float32)
        return part if resize is None else tf.image.resize(part, (resize, resize)).numpy()

    def batches():
        rng = np.random.default_rng(3)
        while True:
            order = rng.permutation(len(y))
            for at in range(0, len(y) - batch + 1, batch):
                part = images(x[order[at : at + batch]])
                if flip:
                    part = np.where(rng.random((len(part), 1, 1, 1)) < 0.5, part[:, :, ::-1], part)
                yield part, y[order[at : at + batch]]

    steps = len(y) // batch
    schedule = tf.keras.optimizers.schedules.CosineDecay(lr, steps * args.epochs)
    net.compile(tf.keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(batches(), steps_per_epoch=steps, epochs=args.epochs, verbose=2)
    score = np.mean([
        (net.predict_on_batch(images(x_test[a : a + 200])).argmax(1) == y_test[a : a + 200]).mean() for a in range(0, len(y_test), 200)
    ])  # fmt: skip
    print(f"{ds.name}, {len(y):,} training samples, {args.epochs} epochs: float accuracy {score:.4f} on {len(y_test):,} test samples")
    data = quantise(tf, net, images(x[:300]))
    args.out.write_bytes(data)
    exact = tflite_accuracy(tf, data, images(x_test[:1000]), y_test[:1000])
    print(f"{args.out.name}: {len(data):,} bytes; int8 accuracy {exact:.4f} on {len(y_test[:1000]):,} test samples")
    return data
