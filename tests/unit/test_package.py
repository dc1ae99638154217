"""Packages: the user's bytes unchanged, cut, fit, export; damaged files refused by host and device alike."""

from __future__ import annotations

import numpy as np
import pytest
import tflite
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.head import Head
from quantfl.core.nn import Engine
from quantfl.errors import PackageError, QuantflError, UnsupportedError
from quantfl.fleet.finalise import stock_accuracy
from quantfl.fleet.setup import load_package
from quantfl.package import cut, fit, plan
from quantfl.package.build import build_flags
from quantfl.package.convert import convert, convert_bytes
from quantfl.package.export import export
from quantfl.package.flatfile import METADATA_NAME, ModelFile
from quantfl.package.program import compile_program, grid, open_package, original_of
from quantfl.package.rewrite import add_biases
from tests.support import DEMO_MODEL, ROOT, need_digits, shared_data

ORIGINAL = DEMO_MODEL.read_bytes()
PACKAGE = convert_bytes(ORIGINAL, source="demo", name="digits").package


def test_the_users_bytes_are_inside_unchanged():
    assert PACKAGE.endswith(ORIGINAL) and original_of(PACKAGE) == ORIGINAL
    assert ModelFile(PACKAGE).metadata[METADATA_NAME][0] % 16 == 0


def test_a_model_is_parsed_once_on_its_way_to_a_package(monkeypatch, tmp_path):
    """Once as it came, and once more where it was rewritten: with a bias for a layer that had none, or out of
    the package it was in."""
    parsed = []
    parse = tflite.Model.GetRootAsModel
    monkeypatch.setattr(
        tflite.Model, "GetRootAsModel", lambda *given: parsed.append(len(given[0])) or parse(*given)
    )

    def parses(data: bytes) -> int:
        parsed.clear()
        (tmp_path / "m.tflite").write_bytes(data)
        done = convert(tmp_path / "m.tflite")
        assert build_flags(done.opened.needs) and done.opened.original and done.to_json()
        return len(parsed)

    assert parses(ORIGINAL) == 1 and parsed == [len(ORIGINAL)]
    assert parses(PACKAGE) == 2
    assert parses((shared_data("models/mlperf_tiny") / "vww_96_int8.tflite").read_bytes()) <= 2
    parsed.clear()
    open_package(PACKAGE)
    load_package(tmp_path / "m.tflite")
    assert len(parsed) <= 3


def test_packing_again_replaces_the_program():
    assert convert_bytes(PACKAGE, source="demo", name="digits").package == PACKAGE


def test_a_package_is_an_ordinary_tflite():
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)")
    x = np.random.default_rng(1).integers(-128, 128, (30, 64), np.int8)
    y = Engine(compile_program(ORIGINAL)).classify(x).argmax(1)
    assert stock_accuracy(PACKAGE, x, y) == (1.0, "tflite-micro")


def test_head_is_the_dequantised_last_layer():
    p, model = open_package(PACKAGE), ModelFile(ORIGINAL)
    assert p.dims == (128, 10) and p.params.dtype == np.float32
    op = model.ops[p.cut_op]
    w = model.tensors[op.inputs[1]]
    kernel = (w.data.astype(np.float64) * w.scales.astype(np.float64)[:, None]).T
    np.testing.assert_allclose(
        p.params[:1280].reshape(128, 10), kernel, atol=grid(p.params)
    )  # snapped to a grid


@pytest.mark.parametrize(
    ("name", "dims"),
    [("pretrainedResnet_quant", (64, 10)), ("kws_ref_model", (64, 12)), ("vww_96_int8", (256, 2))],
)
def test_cut_of_mlperf_tiny(name, dims):
    data = (shared_data("models/mlperf_tiny") / f"{name}.tflite").read_bytes()
    done = convert_bytes(data, source=name)
    assert done.cut.dims == dims and open_package(done.package).dims == dims


def test_cut_of_a_deep_tail_and_by_name():
    data = (shared_data("models/mlperf_tiny") / "ad01_int8.tflite").read_bytes()
    done = convert_bytes(data, source="ad")
    assert next(c.dims for c in done.cuts) == (128, 640) and len(done.cuts) == 8
    assert done.cut.dims == (128, 640)  # more than 16,384 parameters: only the last layer by default
    second = convert_bytes(data, source="ad", cut=str(done.cuts[1].op))
    assert second.cut.dims == (128, 128, 640)
    with pytest.raises(UnsupportedError, match="possible are"):
        convert_bytes(data, source="ad", cut="no such layer")


def test_export_of_the_initial_head_changes_nothing_that_matters():
    p = open_package(PACKAGE)
    x = np.random.default_rng(1).integers(-128, 128, (200, 64), np.int8)
    features = Engine(PACKAGE).run_batch(x)
    head = Head(p.dims, p.feature_scale, p.feature_zero_point)
    labels = head.logits(p.params, features).argmax(1)
    exported = export(p, p.params, features)
    assert len(exported) == len(ORIGINAL)
    assert stock_accuracy(exported, x, labels)[0] >= 0.98
    again = open_package(export(p, p.params, features, keep_metadata=True))
    assert again.cut_op == p.cut_op and np.abs(again.params - p.params).max() == 0


@pytest.mark.parametrize("scale", [0.5, 1.0, 300.0])
def test_export_of_heads_of_any_size(scale):
    """Logits far larger or smaller than the original's must not saturate in the exported model."""
    p = open_package(PACKAGE)
    params = (np.random.default_rng(4).normal(size=p.params.size) * scale * 0.1).astype(np.float32)
    x = np.random.default_rng(1).integers(-128, 128, (300, 64), np.int8)
    features = Engine(PACKAGE).run_batch(x)
    labels = Head(p.dims, p.feature_scale, p.feature_zero_point).logits(params, features).argmax(1)
    assert stock_accuracy(export(p, params, features), x, labels)[0] >= 0.93


def test_export_of_a_two_layer_head():
    data = (shared_data("models/mlperf_tiny") / "ad01_int8.tflite").read_bytes()
    done = convert_bytes(data, source="ad", cut=str(convert_bytes(data, source="ad").cuts[1].op))
    p = open_package(done.package)
    x = np.random.default_rng(1).integers(-128, 128, (40, 640), np.int8)
    features = Engine(done.package).run_batch(x)
    params = p.params + (np.random.default_rng(2).normal(size=p.params.size) * 0.02).astype(np.float32)
    logits = Head(p.dims, p.feature_scale, p.feature_zero_point).logits(params, features)
    out = export(p, params, features)
    last = ModelFile(out).tensors[ModelFile(out).outputs[0]]
    got = Engine(compile_program(out)).classify(x).astype(np.float64)
    real = (got - last.zero_point) * last.scale
    assert np.abs(real - logits).max() < 0.06 * np.abs(logits).max()


def test_fit_is_what_the_device_computes():
    rows = {r.board: r for r in fit.check(open_package(PACKAGE), samples=50)}
    assert rows["qemu_m4"].fits and rows["native"].max_samples > rows["nucleo_l476rg"].max_samples > 100
    tight = fit.check(open_package(PACKAGE), samples=5000)
    assert not any(r.fits for r in tight)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 500), st.integers(0, 20), st.integers(0, 8), st.integers(1, 4), st.booleans()
        ),
        min_size=1,
        max_size=15,
    )
)
@settings(deadline=None)
def test_plan_never_overlaps(raw):
    """Blocks in up to four pieces that come and go one after the other, from the first byte on or from the
    last."""
    blocks = []
    for key, (size, first, more, count, up) in enumerate(raw):
        ends = [size * k // count for k in range(count + 1)]
        when = range(count)[:: -1 if up else 1]
        pieces = [
            plan.Piece(a, b, first + k, first + k + more)
            for a, b, k in zip(ends, ends[1:], when, strict=False)
            if b > a
        ]
        blocks.append(plan.Block(key, size, tuple(pieces)))
    for tries in (0, 20):
        offsets, total = plan.place(blocks, tries=tries)
        assert total >= plan.peak(blocks, 40)
        used: dict[int, set] = {}
        for b in blocks:
            assert offsets[b.key] % 16 == 0 and offsets[b.key] + b.size <= total
            for p in b.pieces:
                for step in range(p.first, p.last + 1):
                    own = set(range(offsets[b.key] + p.low, offsets[b.key] + p.high))
                    assert not own & used.setdefault(step, set())
                    used[step] |= own


@pytest.mark.parametrize("name", ["ad01_fp32", "kws_ref_model_float32"])
def test_float_models_are_refused_with_a_remedy(name):
    data = (shared_data("models/mlperf_tiny") / f"{name}.tflite").read_bytes()
    with pytest.raises(UnsupportedError, match="int8"):
        convert_bytes(data, source=name)


def test_an_unsupported_operator_is_named_with_layer_and_remedy():
    data = (shared_data("models/tflite_micro") / "models__keyword_scrambled_8bit.tflite").read_bytes()
    with pytest.raises(UnsupportedError) as error:
        compile_program(data)
    message = str(error.value)
    assert "operator 0" in message and "QUANTIZE" in message and "layer" in message and "\n" not in message


def test_a_model_without_a_trainable_tail_is_refused():
    data = (
        shared_data("models/tflite_micro") / "examples__memory_footprint__models__simple_add_model.tflite"
    ).read_bytes()
    with pytest.raises(UnsupportedError, match="2 inputs"):
        convert_bytes(data, source="simple_add_model")


def opens_or_is_refused(data: bytes) -> None:
    try:
        open_package(data)
        engine = Engine(data)
        engine.run(np.zeros(engine.nn.input_size, np.int8))
        engine.run_ops(0, engine.op_count)
    except QuantflError as error:
        assert "\n" not in str(error)


@given(st.integers(0, len(PACKAGE) - 1))
@settings(max_examples=150, deadline=None)
def test_truncated_packages_are_refused(n):
    with pytest.raises(PackageError):
        open_package(PACKAGE[:n])


@given(
    st.lists(
        st.tuples(st.integers(0, len(PACKAGE) - len(ORIGINAL) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=1500, deadline=None)
def test_packages_damaged_in_our_part_are_refused_or_run(changes):
    data = bytearray(PACKAGE)
    for at, value in changes:
        data[at] = value
    opens_or_is_refused(bytes(data))


@given(st.lists(st.tuples(st.integers(0, len(PACKAGE) - 1), st.integers(0, 255)), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_packages_damaged_anywhere_are_refused_or_run(changes):
    data = bytearray(PACKAGE)
    for at, value in changes:
        data[at] = value
    opens_or_is_refused(bytes(data))


@given(st.lists(st.tuples(st.integers(0, len(ORIGINAL) - 1), st.integers(0, 255)), min_size=1, max_size=10))
@settings(max_examples=300, deadline=None)
def test_damaged_models_are_refused_or_converted(changes):
    data = bytearray(ORIGINAL)
    for at, value in changes:
        data[at] = value
    try:
        convert_bytes(bytes(data), source="damaged")
    except QuantflError as error:
        assert "\n" not in str(error)


def test_keras_model_through_tensorflow(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")
    layers = tf.keras.layers
    net = tf.keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )
    net.save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(40, 6, 6, 2)))
    np.save(tmp_path / "bad.npy", np.arange(35.0).reshape(5, 7))
    done = convert(tmp_path / "m.keras", calibrate=tmp_path / "x.npz")
    assert done.cut.dims == (64, 8, 3) and len(done.cuts) == 3  # the convolution too
    with pytest.raises(QuantflError, match="calibrate"):
        convert(tmp_path / "m.keras")
    with pytest.raises(QuantflError, match=r"\(5, 7\).*\(samples, 6, 6, 2\)"):
        convert(tmp_path / "m.keras", calibrate=tmp_path / "bad.npy")
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(PackageError, match="cannot be loaded"):
        convert(tmp_path / "broken.keras", calibrate=tmp_path / "x.npz")
    net.export(tmp_path / "saved")
    assert convert(tmp_path / "saved", calibrate=tmp_path / "x.npz").cut.dims == (64, 8, 3)


def test_a_layer_whose_zero_bias_was_dropped_gets_one():
    """TFLite's converter drops a bias of zeros; the trained head needs a place for its own."""
    data = (ROOT / "models" / "femnist_mnist" / "femnist_mnist_int8.tflite").read_bytes()
    model = ModelFile(data)
    op = next(o for o in reversed(model.ops) if o.name == "FULLY_CONNECTED")
    assert len(op.inputs) < 3 or op.inputs[2] < 0
    done = convert_bytes(data, source="letters")
    p = open_package(done.package)
    assert p.original.endswith(data)
    x = np.random.default_rng(1).integers(-128, 128, (40, 784), np.int8)
    before = Engine(compile_program(data)).classify(x)
    assert (Engine(compile_program(p.original)).classify(x) == before).all()
    assert stock_accuracy(p.original, x, before.argmax(1))[0] == 1.0
    features = Engine(done.package).run_batch(x)
    rng = np.random.default_rng(2)
    params = np.concatenate([rng.normal(size=1280) * 0.05, rng.normal(size=10) * 3]).astype(np.float32)
    labels = Head(p.dims, p.feature_scale, p.feature_zero_point).logits(params, features).argmax(1)
    assert stock_accuracy(export(p, params, features), x, labels)[0] >= 0.95
    assert convert_bytes(done.package, source="again").package == done.package


def test_biases_for_several_layers_at_once():
    """Taken away from a model that has them, and given back: the outputs are those of biases of zero."""
    data = bytearray((shared_data("models/mlperf_tiny") / "ad01_int8.tflite").read_bytes())
    model = ModelFile(bytes(data))
    for op in model.ops:
        b = model.tensors[op.inputs[2]]
        data[b.offset : b.offset + 4 * b.size] = bytes(4 * b.size)
    zeroed = bytes(data)
    table = tflite.Model.GetRootAsModel(zeroed, 0).Subgraphs(0)
    for op in model.ops:  # input 2 becomes -1
        o = table.Operators(op.index)
        at = o._tab.Vector(o._tab.Offset(6)) + 8
        data[at : at + 4] = (-1).to_bytes(4, "little", signed=True)
    given = add_biases(ModelFile(bytes(data)), [op.index for op in model.ops])
    x = np.random.default_rng(1).integers(-128, 128, (10, 640), np.int8)
    assert (Engine(compile_program(given)).classify(x) == Engine(compile_program(zeroed)).classify(x)).all()
    assert all(
        ModelFile(given).tensors[o.inputs[2]].size == model.tensors[o.inputs[1]].shape[0]
        for o in ModelFile(given).ops
    )


def test_possible_cuts_start_with_the_smallest_head():
    cuts = cut.possible_cuts(ModelFile(ORIGINAL))
    assert [c.params for c in cuts] == sorted(c.params for c in cuts)


@pytest.mark.parametrize(
    ("cut_op", "train"),
    [("1", "all"), ("2", "all"), ("3", "all"), ("2", "scales"), ("1", "scales+head"), ("3", "scales+head")],
)
def test_export_of_trained_convolutions(cut_op, train):
    """The int8 model in tflite-micro within 0.5 points of the boards' float head on real samples, trained
    from the turned digits."""
    need_digits()
    from quantfl.core.head import FitConfig
    from quantfl.data.dataset import load_digits
    from quantfl.data.quantise import to_int8

    ds = load_digits(None)
    done = convert_bytes(ORIGINAL, source="demo", cut=cut_op, train=train)
    p = open_package(done.package)
    x = to_int8(np.concatenate([ds.x_train, ds.x_test]), p.input_scale, p.input_zero_point, p.input_size)
    y = np.concatenate([ds.y_train, ds.y_test]).astype(np.uint16)
    features, head = Engine(done.package).run_batch(x), p.head
    before = head.evaluate(p.params, features, y).accuracy
    lr, epochs = {"all": (0.002, 6), "scales": (0.03, 30), "scales+head": (0.01, 6)}[train]
    config = FitConfig(lr=lr, momentum=0.9, epochs=epochs, batch=10, seed=1)
    params, _ = head.fit(p.params, features[:600], y[:600], config)
    after = head.evaluate(params, features, y).accuracy
    assert after > before + 0.1
    exported = export(p, params, features[:900])
    assert len(exported) == len(p.original)
    got, _ = stock_accuracy(exported, x, y)
    assert abs(got - after) <= 0.005, (before, after, got)
    again = open_package(export(p, params, features[:900], keep_metadata=True))
    assert [x.text for x in again.layers] == [x.text for x in p.layers]
    restarted = again.head.evaluate(again.params, Engine(again.data).run_batch(x), y).accuracy
    assert abs(restarted - after) < 0.02


def test_shared_bias_buffers_are_parted():
    """TFLite's converter stores equal constants once; two layers that train must not write the same bytes."""
    model = ModelFile(ORIGINAL)
    chosen = cut.choose(model, "1")
    ops = [s.op.index for s in cut.stages_of(model, chosen.op) if s.layer.weights]
    parted = ModelFile(add_biases(model, ops[:2]))
    for index in ops[:2]:
        old, new = (m.tensors[m.ops[index].inputs[2]] for m in (model, parted))
        assert np.array_equal(old.data.reshape(-1), new.data.reshape(-1)) and np.allclose(
            old.scales, new.scales
        )
    assert cut.without_own_bias(parted, cut.choose(parted, "1")) == []
    x = np.random.default_rng(1).integers(-128, 128, (10, 64), np.int8)
    assert (
        Engine(compile_program(ORIGINAL)).classify(x) == Engine(compile_program(parted.data)).classify(x)
    ).all()


def test_a_last_layer_of_one_output_is_refused():
    """TensorFlow's hello world, a regression: a softmax of one class has no gradient."""
    data = (
        shared_data("models/tflite_micro") / "examples__hello_world__models__hello_world_int8.tflite"
    ).read_bytes()
    with pytest.raises(UnsupportedError, match=r"one output.*an output per class"):
        convert_bytes(data, source="hello")
