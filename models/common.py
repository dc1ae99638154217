"""What the recipes share: a repeatable TensorFlow, full int8 quantisation, accuracy of a .tflite."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quantfl.data.dataset import Dataset


def seeded_tensorflow(seed: int, *, onednn: bool = False) -> Any:
    """TensorFlow with fixed seeds, deterministic kernels and one thread: the same weights on the same kind of
    CPU.

    onednn: with oneDNN's kernels, which train convolutions up to 2.5 times as fast and round otherwise on
    another kind of CPU.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1" if onednn else "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def quantise(tf: Any, net: Any, calibration: np.ndarray) -> bytes:
    """The full int8 .tflite of a Keras model, with a fixed batch of 1, calibrated on the samples given."""
    shape = net.inputs[0].shape[1:]
    entry = tf.keras.Input(batch_shape=(1, *shape))
    fixed = tf.keras.Model(entry, net(entry))
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None].astype(np.float32)] for s in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def tflite_accuracy(tf: Any, data: bytes, x: np.ndarray, y: np.ndarray) -> float:
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


def glyph_backbone(layers: Any) -> list[Any]:
    """conv 3x3/2 (16), separable (32), separable/2 (64), average pool 2, dense 128: 0.4 M
    multiply-accumulates."""
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
        turned = [
            ndimage.rotate(i[..., 0], a, reshape=False, order=1)
            for i, a in zip(x, rng.uniform(-15, 15, len(x)), strict=True)
        ]
        shift = rng.integers(-2, 3, (len(x), 2))
        copies.append(
            np.stack([np.roll(i, s, (0, 1)) for i, s in zip(turned, shift, strict=True)])[..., None].astype(
                np.float32
            )
        )
    return np.concatenate(copies), np.tile(y, 4)


def recipe_arguments(doc: str | None, epochs: int, sizes: tuple[int, ...] = ()) -> argparse.Namespace:
    """The command line that recipes share: --out, --data, --epochs, --samples and, where there is a choice,
    --size."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write the int8 .tflite")
    parser.add_argument("--data", type=Path, help="folder of the data set's files")
    parser.add_argument("--epochs", type=int, default=epochs, help="0: untrained, to try the graph")
    parser.add_argument("--samples", type=int, help="at most so many training samples")
    if sizes:
        parser.add_argument(
            "--size", type=int, choices=sizes, default=sizes[0], help="pixels of the input's side"
        )
    return parser.parse_args()


def pretrain(
    tf: Any,
    net: Any,
    load: Callable[[Path | None], Dataset],
    args: argparse.Namespace,
    *,
    lr: float = 2e-3,
    batch: int = 64,
    warm: float = 0.0,
    resize: int | None = None,
    flip: bool = False,
    shift: int = 0,
    small: Any = None,
) -> bytes:
    """Train `net`, quantise it, print the accuracy reached, write args.out. load: gives the data set, asked
    only when there is something to train; without, the graph is quantised on noise.

    lr: peak of Adam's learning rate, reached after the share `warm` of the steps, then a cosine to 0. resize:
    images are scaled up to so many pixels (bilinear). flip: mirrored images too. shift: moved by up to so
    many pixels. small: the same layers for the images as they are, trained first; `net` then starts from its
    weights and sees a tenth as many epochs at a quarter of lr.
    """
    started = time.monotonic()
    if args.epochs == 0:
        shape = net.inputs[0].shape[1:]
        noise = np.random.default_rng(1).uniform(0, 255, (20, *shape)).astype(np.float32)
        data = quantise(tf, net, noise)
        args.out.write_bytes(data)
        print(f"{args.out.name}: {len(data):,} bytes, untrained")
        return data
    ds = load(args.data)
    x, y, x_test, y_test = ds.x_train, ds.y_train, ds.x_test, ds.y_test
    keep = np.random.default_rng(2).permutation(len(y))[: args.samples]
    x, y = x[keep], y[keep]
    how: dict[str, Any] = {"batch": batch, "warm": warm, "flip": flip, "shift": shift}
    if small is None:
        net, told = (
            fit(tf, net, x, y, args.epochs, args.out, lr=lr, resize=resize, **how),
            f"{args.epochs} epochs",
        )
    else:
        fine = max(1, args.epochs // 10)
        small = fit(tf, small, x, y, args.epochs, args.out, lr=lr, **how)
        net.set_weights(small.get_weights())
        net = fit(tf, net, x, y, fine, args.out, lr=lr / 4, resize=resize, **how)
        told = f"{args.epochs} epochs, then {fine} at {resize} pixels"
    score = np.mean(
        [
            (
                net.predict_on_batch(_scaled(tf, x_test[a : a + 200], resize)).argmax(1)
                == y_test[a : a + 200]
            ).mean()
            for a in range(0, len(y_test), 200)
        ]
    )
    print(
        f"{ds.name}, {len(y):,} training samples, {told}: float accuracy {score:.4f} on {len(y_test):,} "
        "test samples"
    )
    data = quantise(tf, net, _scaled(tf, x[:300], resize))
    args.out.write_bytes(data)
    exact = tflite_accuracy(tf, data, _scaled(tf, x_test[:1000], resize), y_test[:1000])
    print(
        f"{args.out.name}: {len(data):,} bytes; int8 accuracy {exact:.4f} on {len(y_test[:1000]):,} test "
        "samples"
    )
    print(
        f"this run: {(time.monotonic() - started) / 60:.1f} minutes, {time.process_time() / 60:.1f} of "
        "them on the processor"
    )
    return data


def _scaled(tf: Any, images: np.ndarray, resize: int | None) -> np.ndarray:
    images = images.astype(np.float32)
    if resize is None:
        return images
    larger: np.ndarray = tf.image.resize(images, (resize, resize)).numpy()
    return larger


def _moved(images: np.ndarray, offsets: np.ndarray, s: int) -> np.ndarray:
    """Each image moved by its row of offsets (0 to 2 s in height and width, s: no move), edges mirrored."""
    side = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (s, s), (s, s), (0, 0)), mode="reflect")
    return np.stack([p[a : a + side[0], b : b + side[1]] for p, (a, b) in zip(padded, offsets, strict=True)])


def fit(
    tf: Any,
    net: Any,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    out: Path,
    *,
    lr: float,
    batch: int,
    warm: float,
    flip: bool,
    shift: int,
    resize: int | None = None,
) -> Any:
    """The trained network. After each epoch it is kept with its optimiser in training-*.keras beside `out`: a
    run of the same network, data and settings goes on from there, with the batches that it would have seen.
    Delete the file to begin anew.
    """
    steps = len(y) // batch
    if not steps:
        raise SystemExit(
            f"{len(y)} training samples are fewer than a batch of {batch}: ask for more with --samples"
        )
    total = steps * epochs
    ramp = int(total * warm)
    schedule = tf.keras.optimizers.schedules.CosineDecay(
        0.0 if ramp else lr, total - ramp, warmup_target=lr if ramp else None, warmup_steps=ramp
    )
    net.compile(tf.keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    settings = repr((net.to_json(), epochs, lr, batch, warm, flip, shift, resize)).encode()
    name = hashlib.sha256(settings + np.ascontiguousarray(x).data + np.ascontiguousarray(y).data).hexdigest()[
        :12
    ]
    kept, done = out.with_name(f"training-{name}.keras"), 0
    if kept.exists():
        try:
            net = tf.keras.models.load_model(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"{kept}: not the training that was kept ({str(error).splitlines()[0]}): delete it to "
                "begin anew"
            ) from None
        done = int(net.optimizer.iterations) // steps
        print(f"{kept.name}: goes on after epoch {done} of {epochs}", flush=True)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(3)
        for epoch in range(epochs):
            order = rng.permutation(len(y))
            for at in range(0, len(y) - batch + 1, batch):
                mirror = rng.random((batch, 1, 1, 1)) < 0.5 if flip else None
                offsets = rng.integers(0, 2 * shift + 1, (batch, 2)) if shift else None
                if epoch < done:
                    continue
                part = x[order[at : at + batch]]
                part = part if mirror is None else np.where(mirror, part[:, :, ::-1], part)
                part = part if offsets is None else _moved(part, offsets, shift)
                yield _scaled(tf, part, resize), y[order[at : at + batch]]

    def keep(epoch: int, logs: Any = None) -> None:
        part = kept.with_name(f"part.{kept.name}")
        net.save(part)
        part.replace(kept)

    if done < epochs:
        each = [tf.keras.callbacks.LambdaCallback(on_epoch_end=keep)]
        net.fit(
            batches(), steps_per_epoch=steps, epochs=epochs, initial_epoch=done, verbose=2, callbacks=each
        )
    return net
