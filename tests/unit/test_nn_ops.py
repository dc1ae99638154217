"""qfl_nn against tflite-micro, operator by operator, on models generated and quantised by TFLite's
converter."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.unit.test_nn_models import compare, structured

tflm = pytest.importorskip(
    "tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)"
)


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    return pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")


def convert(tf, shape, build, seed: int, *, per_channel: bool = True) -> bytes:
    """A full int8 .tflite of layers on an input of `shape`, weights and calibration from `seed`."""
    tf.keras.utils.set_random_seed(seed)
    entry = tf.keras.Input(batch_shape=(1, *shape))
    net = tf.keras.Model(entry, build(tf.keras.layers, entry))
    for v in net.weights:
        v.assign(np.random.default_rng(seed).normal(size=v.shape).astype(np.float32) * 0.4)
    x = np.random.default_rng(seed).normal(size=(20, 1, *shape)).astype(np.float32) * 2 + 0.3
    c = tf.lite.TFLiteConverter.from_keras_model(net)
    c.optimizations = [tf.lite.Optimize.DEFAULT]
    c.representative_dataset = lambda: ([s] for s in x)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    c.inference_input_type = c.inference_output_type = tf.int8
    c._experimental_disable_per_channel = not per_channel
    return c.convert()


def cases():
    """(name, input shape, layers) of a few dozen small models; shapes drawn from a fixed seed."""
    rng = np.random.default_rng(11)
    out = []
    for i in range(14):
        h, w, c = (
            int(rng.integers(3, 12)),
            int(rng.integers(3, 12)),
            int(rng.choice([1, 2, 3, 4, 5, 8, 13, 16])),
        )
        k, s = (int(rng.integers(1, 4)), int(rng.integers(1, 4))), int(rng.integers(1, 4))
        o, pad = int(rng.choice([1, 2, 3, 7, 8, 17])), str(rng.choice(["same", "valid"]))
        act = rng.choice([None, "relu", "relu6"])
        d = 2 if s == 1 and i % 4 == 0 and pad == "same" else 1
        out.append(
            (
                f"conv{i}",
                (h, w, c),
                lambda L, x, k=k, s=s, o=o, pad=pad, act=act, d=d: L.Conv2D(
                    o, k, strides=s, padding=pad, activation=act, dilation_rate=d
                )(x),
            )
        )
        m = int(rng.choice([1, 1, 1, 2, 3]))
        out.append(
            (
                f"depthwise{i}",
                (h, w, c),
                lambda L, x, k=k, s=s, m=m, pad=pad, act=act: L.DepthwiseConv2D(
                    k, strides=s, padding=pad, depth_multiplier=m, activation=act
                )(x),
            )
        )
    for i, (n, o) in enumerate([(1, 1), (3, 5), (7, 4), (33, 17), (64, 10), (130, 3)]):
        out.append((f"dense{i}", (n,), lambda L, x, o=o: L.Dense(o, activation=["relu", None][o % 2])(x)))
    for i, (size, s, pad) in enumerate(
        [((2, 2), 2, "valid"), ((3, 3), 1, "same"), ((3, 2), 2, "same"), ((4, 4), 4, "valid")]
    ):
        out.append(
            (
                f"avgpool{i}",
                (8, 9, 3 + i),
                lambda L, x, a=(size, s, pad): L.AveragePooling2D(a[0], a[1], a[2])(x),
            )
        )
        out.append(
            (f"maxpool{i}", (8, 9, 3 + i), lambda L, x, a=(size, s, pad): L.MaxPooling2D(a[0], a[1], a[2])(x))
        )
    for shape in [(5, 7, 3), (1, 1, 8), (8, 8, 17)]:
        out.append((f"mean{shape}", shape, lambda L, x: L.GlobalAveragePooling2D()(x)))
    out.append(
        ("add", (6, 5, 4), lambda L, x: L.Add()([L.Conv2D(4, 1)(x), L.Conv2D(4, 3, padding="same")(x)]))
    )
    out.append(
        ("add relu", (6, 5, 4), lambda L, x: L.ReLU()(L.Add()([x, L.Conv2D(4, 3, padding="same")(x)])))
    )
    out.append(("pad", (5, 6, 3), lambda L, x: L.Conv2D(2, 3)(L.ZeroPadding2D(((1, 2), (0, 3)))(x))))
    out.append(("softmax", (12,), lambda L, x: L.Softmax()(L.Dense(7)(x))))
    out.append(("softmax wide", (12,), lambda L, x: L.Softmax()(L.Dense(90)(x))))
    out.append(
        (
            "1d mean",
            (40, 5),
            lambda L, x: L.GlobalAveragePooling1D()(L.Conv1D(7, 3, strides=2, activation="relu")(x)),
        )
    )
    out.append(
        ("1d pool", (33, 3), lambda L, x: L.Flatten()(L.MaxPooling1D(2)(L.Conv1D(4, 5, padding="same")(x))))
    )
    out.append(("1d dilated", (20, 2), lambda L, x: L.Conv1D(3, 3, padding="same", dilation_rate=2)(x)))
    out.append(("relu", (4, 4, 3), lambda L, x: L.ReLU()(L.MaxPooling2D(2)(x))))
    return out


@pytest.mark.parametrize(("name", "shape", "build"), cases(), ids=[c[0] for c in cases()])
@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
def test_generated_model_equals_tflite_micro(tf, name, shape, build, per_channel):
    if not per_channel and not name.startswith(("conv", "depth", "dense")):
        pytest.skip("no weights: per-tensor is the same model")
    data = convert(tf, shape, build, sum(map(ord, name)), per_channel=per_channel)
    size = int(np.prod(shape))
    random = np.random.default_rng(3).integers(-128, 128, (20, size), np.int8)
    assert compare(data, np.concatenate([random, structured(size, 20)]), name) > 0
