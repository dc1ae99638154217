"""The operators beyond plain convolutional networks against tflite-micro, on models quantised by TFLite's
converter."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.test_nn_models import compare, structured
from tests.unit.test_nn_ops import convert, tf

tflm = pytest.importorskip(
    "tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)"
)
assert tf  # the fixture


def _conv(L, x, channels, **options):
    return L.Conv2D(channels, **({"kernel_size": 1} | options))(x)


def cases():
    """(name, input shape, layers, operators that must occur)."""
    import keras
    from keras import ops

    A = keras.activations
    out = []

    def case(name, shape, build, *needs):
        out.append((name, shape, build, needs))

    case(
        "concat channels",
        (5, 4, 3),
        lambda L, x: L.Concatenate()([_conv(L, x, 2), _conv(L, x, 5), x]),
        "CONCATENATION",
    )
    case("concat rows", (5, 4, 3), lambda L, x: L.Concatenate(axis=1)([_conv(L, x, 3), x]), "CONCATENATION")
    case(
        "inception",
        (8, 8, 4),
        lambda L, x: L.Concatenate()(
            [
                _conv(L, x, 3),
                _conv(L, x, 4, kernel_size=3, padding="same"),
                L.MaxPooling2D(3, 1, "same")(x),
                _conv(L, L.AveragePooling2D(3, 1, "same")(x), 2),
            ]
        ),
        "CONCATENATION",
    )
    case("multiply", (4, 5, 3), lambda L, x: L.Multiply()([x, _conv(L, x, 3)]), "MUL")
    case(
        "squeeze and excite",
        (6, 5, 4),
        lambda L, x: L.Multiply()(
            [x, L.Reshape((1, 1, 4))(L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D()(x)))]
        ),
        "MUL",
        "LOGISTIC",
    )
    case("multiply by a plane", (6, 5, 4), lambda L, x: L.Multiply()([x, _conv(L, x, 1)]), "MUL")
    case("scale by a constant", (4, 5, 3), lambda L, x: L.Rescaling(0.37)(L.MaxPooling2D(2)(x)), "MUL")
    case("rescale and shift", (4, 5, 3), lambda L, x: L.Rescaling(0.37, -1.25)(x))
    case("add a constant", (4, 5, 3), lambda L, x: ops.add(x, np.arange(3, dtype=np.float32) - 1.3), "ADD")
    case(
        "add a row",
        (4, 5, 3),
        lambda L, x: L.Add()([x, L.Reshape((1, 1, 3))(L.Dense(3)(L.GlobalAveragePooling2D()(x)))]),
        "ADD",
    )
    case("subtract", (4, 5, 3), lambda L, x: L.Subtract()([x, _conv(L, x, 3)]), "SUB")
    case(
        "subtract from a constant",
        (4, 5, 3),
        lambda L, x: ops.subtract(np.float32(0.7), _conv(L, x, 3)),
        "SUB",
    )
    case(
        "subtract a constant",
        (7,),
        lambda L, x: ops.subtract(L.Dense(5)(x), np.arange(5, dtype=np.float32)),
        "SUB",
    )
    case("sigmoid", (33,), lambda L, x: A.sigmoid(L.Dense(17)(x)), "LOGISTIC")
    case("sigmoid small", (9,), lambda L, x: A.sigmoid(L.Rescaling(0.01)(x)), "LOGISTIC")
    case("sigmoid large", (9,), lambda L, x: A.sigmoid(L.Rescaling(60.0)(x)), "LOGISTIC")
    case("tanh", (33,), lambda L, x: A.tanh(L.Dense(17)(x)), "TANH")
    case("tanh small", (9,), lambda L, x: A.tanh(L.Rescaling(0.02)(x)), "TANH")
    case("tanh large", (9,), lambda L, x: A.tanh(L.Rescaling(60.0)(x)), "TANH")
    case("silu", (5, 4, 3), lambda L, x: A.silu(_conv(L, x, 6)), "LOGISTIC", "MUL")
    case("hard silu", (5, 4, 3), lambda L, x: L.Activation("hard_silu")(_conv(L, x, 6)), "HARD_SWISH")
    case(
        "hard silu wide", (5, 4, 3), lambda L, x: L.Activation("hard_silu")(L.Rescaling(9.0)(x)), "HARD_SWISH"
    )
    case(
        "hard silu narrow",
        (5, 4, 3),
        lambda L, x: L.Activation("hard_silu")(L.Rescaling(0.1)(x)),
        "HARD_SWISH",
    )
    case("hard sigmoid", (5, 4, 3), lambda L, x: L.Activation("hard_sigmoid")(_conv(L, x, 6)))
    for alpha in (0.01, 0.3, 1.7):
        case(
            f"leaky relu {alpha}",
            (5, 4, 3),
            lambda L, x, a=alpha: L.LeakyReLU(negative_slope=a)(_conv(L, x, 5)),
            "LEAKY_RELU",
        )
    case("prelu shared", (5, 4, 3), lambda L, x: L.PReLU(shared_axes=[1, 2])(_conv(L, x, 5)), "PRELU")
    case("prelu full", (3, 4, 3), lambda L, x: L.PReLU()(_conv(L, x, 2)), "PRELU")
    rng = np.random.default_rng(5)
    for i in range(10):
        c, o = int(rng.choice([1, 2, 3, 5, 8])), int(rng.choice([1, 2, 3, 7]))
        k, s = (
            (int(rng.integers(1, 5)), int(rng.integers(1, 5))),
            (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        )
        pad, act = str(rng.choice(["same", "valid"])), rng.choice([None, "relu"])
        case(
            f"transpose conv {i}",
            (int(rng.integers(2, 6)), int(rng.integers(2, 6)), c),
            lambda L, x, a=(o, k, s, pad, act): L.Conv2DTranspose(a[0], a[1], a[2], a[3], activation=a[4])(x),
            "TRANSPOSE_CONV",
        )
    case("resize", (5, 7, 3), lambda L, x: ops.image.resize(x, (9, 4), "nearest"), "RESIZE_NEAREST_NEIGHBOR")
    case(
        "resize down",
        (9, 9, 2),
        lambda L, x: ops.image.resize(x, (4, 5), "nearest"),
        "RESIZE_NEAREST_NEIGHBOR",
    )
    case("slice", (8, 9, 5), lambda L, x: x[:, 1:7, 2:9, 1:4], "STRIDED_SLICE")
    case("slice by steps", (8, 9, 5), lambda L, x: x[:, 1::2, ::3, ::-1])
    case("crop", (8, 9, 5), lambda L, x: L.Cropping2D(((1, 2), (3, 0)))(x), "STRIDED_SLICE")
    case("one row", (8, 9, 5), lambda L, x: x[:, 3])
    case("split", (4, 4, 6), lambda L, x: L.Concatenate()(ops.split(x, 3, axis=-1)[::-1]), "SPLIT")
    case("stack", (4, 6), lambda L, x: ops.stack([x, L.Dense(6)(x)], axis=2), "PACK")
    case("unstack", (3, 6), lambda L, x: L.Concatenate()(ops.unstack(x, axis=1)))
    case("transpose", (4, 5, 3), lambda L, x: L.Permute((3, 1, 2))(x), "TRANSPOSE")
    case("transpose 2", (4, 5, 3), lambda L, x: L.Permute((2, 1, 3))(x), "TRANSPOSE")
    case("global max", (6, 5, 4), lambda L, x: L.GlobalMaxPooling2D()(x), "REDUCE_MAX")
    case("global max 1d", (19, 5), lambda L, x: L.GlobalMaxPooling1D()(x), "REDUCE_MAX")
    case("mean of channels", (4, 4, 6), lambda L, x: ops.mean(x, axis=-1), "MEAN")
    case("mean of rows", (4, 5, 6), lambda L, x: ops.mean(x, axis=1), "MEAN")
    case("max of columns", (4, 5, 6), lambda L, x: ops.max(x, axis=2), "REDUCE_MAX")
    case(
        "channels first",
        (6, 5, 4),
        lambda L, x: ops.mean(ops.mean(ops.transpose(x, (0, 3, 1, 2)), axis=3), axis=2),
        "MEAN",
    )
    case("global mean kept", (6, 5, 4), lambda L, x: L.GlobalAveragePooling2D(keepdims=True)(x), "MEAN")
    case("dense on a sequence", (7, 5), lambda L, x: L.Dense(3, activation="relu")(x))
    case("dense on an image", (4, 3, 6), lambda L, x: L.Dense(5)(x))
    case(
        "dilated depthwise", (9, 9, 3), lambda L, x: L.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
    )
    case("separable 1d", (20, 4), lambda L, x: L.SeparableConv1D(6, 3, padding="same", activation="relu")(x))
    case("causal 1d", (20, 4), lambda L, x: L.Conv1D(5, 3, padding="causal")(x))
    case(
        "unet",
        (8, 8, 3),
        lambda L, x: L.Concatenate()(
            [
                x,
                L.Conv2DTranspose(4, 3, 2, "same", activation="relu")(
                    L.Conv2D(6, 3, 2, "same", activation="relu")(x)
                ),
            ]
        ),
        "TRANSPOSE_CONV",
        "CONCATENATION",
    )
    case(
        "mobilenet v3 block",
        (8, 8, 4),
        lambda L, x: L.Add()(
            [
                x,
                _conv(
                    L,
                    L.Multiply()(
                        [
                            (
                                h := L.Activation("hard_silu")(
                                    L.DepthwiseConv2D(3, padding="same")(_conv(L, x, 12))
                                )
                            ),
                            L.Activation("hard_sigmoid")(
                                _conv(L, L.GlobalAveragePooling2D(keepdims=True)(h), 12)
                            ),
                        ]
                    ),
                    4,
                ),
            ]
        ),
        "HARD_SWISH",
    )
    return out


def all_cases():
    try:
        return cases()
    except ImportError:
        return []


@pytest.mark.parametrize(("name", "shape", "build", "needs"), all_cases(), ids=[c[0] for c in all_cases()])
def test_equals_tflite_micro(tf, name, shape, build, needs):
    from quantfl.package.flatfile import ModelFile

    data = convert(tf, shape, build, sum(map(ord, name)))
    found = {op.name for op in ModelFile(data).ops}
    assert set(needs) <= found, f"the converter made {sorted(found)}"
    size = int(np.prod(shape))
    random = np.random.default_rng(3).integers(-128, 128, (20, size), np.int8)
    assert compare(data, np.concatenate([random, structured(size, 20)]), name) > 0


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small"])
def test_keras_applications_equal_tflite_micro(tf, name):
    """Random weights, but statistics as after training: without them activations fade, and tflite-micro
    aborts at the SOFTMAX."""
    from quantfl.package.flatfile import ModelFile

    keras, shape = tf.keras, (32, 32, 3)
    keras.utils.set_random_seed(5)
    more = {"include_preprocessing": False} if name == "MobileNetV3Small" else {}
    images = np.random.default_rng(1).random((16, 1, *shape)).astype(np.float32)
    net = getattr(keras.applications, name)(
        shape, alpha=0.35, weights=None, classes=10, classifier_activation="softmax", **more
    )
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(images[:, 0], training=True)
    entry = keras.Input(batch_shape=(1, *shape))
    c = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, net(entry)))
    c.optimizations = [tf.lite.Optimize.DEFAULT]
    c.representative_dataset = lambda: ([s] for s in images)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    c.inference_input_type = c.inference_output_type = tf.int8
    data = c.convert()
    assert len(ModelFile(data).ops) > 60
    assert compare(data, structured(32 * 32 * 3, 12)[::4], name) > 0


REFUSED = {
    "up-sampling by TILE": (
        (3, 4, 5),
        lambda L, x: L.UpSampling2D((2, 3), interpolation="nearest")(x),
        "TILE",
    ),
    "gelu": ((6,), lambda L, x: L.Activation("gelu")(L.Dense(4)(x)), "GELU"),
    "exponential": ((6,), lambda L, x: L.Activation("exponential")(L.Dense(4)(x)), "EXP"),
    "mean of rows and channels": (
        (4, 4, 6),
        lambda L, x: __import__("keras").ops.mean(x, axis=(1, 3)),
        "MEAN",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(tf, name):
    """By operator, layer and remedy, when the model is converted; never on a board."""
    from quantfl.errors import UnsupportedError
    from quantfl.package.program import compile_program

    shape, build, operator = REFUSED[name]
    data = convert(tf, shape, build, 1)
    with pytest.raises(UnsupportedError) as refused:
        compile_program(data)
    text = str(refused.value)
    assert operator in text and "layer" in text and ";" in text and "\n" not in text


def test_softmax_of_an_untrained_network_is_refused():
    """tflite-micro aborts on an input scale of 2^-26 or less; far below there is no multiplier for it
    either."""
    from quantfl.errors import UnsupportedError
    from quantfl.package.program import compile_program
    from tests.unit.tflite_models import Builder, schema

    for scale, fits in ((1e-12, False), (2.0**-25, True)):
        b, o = Builder(), schema.SoftmaxOptionsT()
        o.beta = 1.0
        data = b.finish(
            "SOFTMAX", [b.add([1, 4], scales=scale)], [b.add([1, 4], scales=1 / 256, zero=-128)], o
        )
        if fits:
            assert compare(data, structured(4, 20), "softmax") > 0
        else:
            with pytest.raises(UnsupportedError, match=r"SOFTMAX.*layer.*scale.*train the model"):
                compile_program(data)


def test_float_edges(tf):
    """TFLite's default keeps float32 inputs and outputs around an int8 model: boards take and give the int8
    inside."""
    from quantfl.core.nn import Engine
    from quantfl.package.convert import convert_bytes
    from quantfl.package.flatfile import ModelFile
    from quantfl.package.program import entry_of, open_package

    keras = tf.keras
    keras.utils.set_random_seed(3)
    entry = keras.Input(batch_shape=(1, 6, 6, 2))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(entry))
    net = keras.Model(entry, keras.layers.Dense(5, activation="softmax")(x))
    c = tf.lite.TFLiteConverter.from_keras_model(net)
    c.optimizations = [tf.lite.Optimize.DEFAULT]
    images = np.random.default_rng(1).normal(size=(20, 1, 6, 6, 2)).astype(np.float32)
    c.representative_dataset = lambda: ([s] for s in images)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    data = c.convert()
    model = ModelFile(data)
    assert model.tensors[model.inputs[0]].dtype == np.float32
    done = convert_bytes(data, source="m")
    q = model.tensors[entry_of(model)]
    assert open_package(done.package).input_scale == pytest.approx(q.scale)
    oracle = tflm.runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
    engine = Engine(done.package)
    for image in images:
        given = np.clip(np.rint(image / np.float32(q.scale)) + q.zero_point, -128, 127).astype(np.int8)
        oracle.set_input((given.astype(np.float32) - q.zero_point) * np.float32(q.scale), 0)
        oracle.invoke()
        logits = engine.classify(given.reshape(1, -1))[0]
        np.testing.assert_array_equal((logits.astype(np.float32) + 128) / 256, oracle.get_output(0)[0])


def test_all_int8_models_of_the_shared_data():
    """Each is either equal to tflite-micro or refused by name."""
    from quantfl.errors import QuantflError
    from quantfl.package.flatfile import ModelFile
    from tests.support import shared_data

    ran, refused = [], []
    for path in sorted(shared_data("models").rglob("*.tflite")):
        try:
            model = ModelFile(path.read_bytes(), path.name)
            if len(model.inputs) != 1 or model.tensors[model.inputs[0]].dtype != np.int8:
                continue
            size = model.tensors[model.inputs[0]].size
            assert (
                compare(
                    path.read_bytes(),
                    np.concatenate([structured(size, 2), structured(size, 12)[-2:]]),
                    path.name,
                )
                > 0
            )
            ran.append(path.stem)
        except QuantflError as error:
            refused.append(str(error))
    assert {
        "pretrainedResnet_quant",
        "vww_96_int8",
        "kws_ref_model",
        "ad01_int8",
        "models__person_detect",
    } <= set(ran), refused
    for text in refused:
        assert ("layer" in text and ";" in text) or "subgraphs" in text, text
