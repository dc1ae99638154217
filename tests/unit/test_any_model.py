"""Models as people have them: dynamic batches, uint8, rows, ReLU or pooling at the end; refusals that name
the operator that breaks the chain; files made to be slow."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.errors import PackageError, UnsupportedError, UsageError
from quantfl.package.convert import convert, convert_bytes
from quantfl.package.export import export
from quantfl.package.flatfile import ModelFile, _follow, _table_fields, _vector
from quantfl.package.program import compile_program, open_package
from quantfl.package.rewrite import _MODEL_OFFSETS, _SUBGRAPH_OFFSETS, _Prefix
from quantfl.package.unsigned import signed, unsigned
from tests.support import ROOT, shared_data

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)")
from tests.unit.tflite_models import Builder, Generator, schema


def case(name: str):
    path = ROOT.parent / "shared" / "cases" / f"{name}.tflite"
    if not path.exists():
        pytest.skip("the shared cases are absent")
    return path


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("dynbatch_reshape", "dense(3)"),
        ("mobilenet_v1_classes", "dense(5)"),
        ("conv_gap_softmax", "conv1x1(3) → average"),
        ("last_relu", "dense(8) → dense(3)"),
        ("uint8_io", "dense(3)"),
        ("dense_on_4d", "dense(2)"),
    ],
)
def test_cases_convert_and_equal_the_stock_interpreter(name, head):
    from quantfl_lab.bench.models import row

    found = row(case(name), 6)
    assert (found["converts"], found["head"]) == ("yes", head), found
    # tflite-micro lacks REDUCE_PROD, which is folded here
    assert found["exact"] == ("no interpreter" if name == "dense_on_4d" else "yes")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("batch4", ["takes 4 samples at once", "operator 0 (FULLY_CONNECTED", "batch size of 1"]),
        ("int16x8", ["operator 12 (FULLY_CONNECTED", "is int16, not int8", "quantise the whole model"]),
    ],
)
def test_a_refusal_names_the_operator_that_breaks_the_chain(name, words):
    with pytest.raises(UnsupportedError) as error:
        convert(case(name))
    assert all(w in str(error.value) for w in words), str(error.value)


def dense(
    b: Builder, x: int, inputs: int, outputs: int, shape=None, activation: int = 0, small: bool = False
) -> int:
    rng = np.random.default_rng(inputs + outputs)
    w = b.add(
        [outputs, inputs], scales=0.002 if small else 0.02, data=rng.integers(-127, 128, (outputs, inputs))
    )
    y = b.add(shape or [1, outputs], scales=0.1, zero=3)
    o = schema.FullyConnectedOptionsT()
    o.fusedActivationFunction = activation
    b.op("FULLY_CONNECTED", [x, w, -1], [y], o)
    return y


def test_rows_are_no_batch():
    """[1, 2, 2, C] made [4, C] for a dense layer on every row."""
    from tests.unit.test_nn_models import compare

    b = Builder()
    x = b.add([1, 2, 2, 6], scales=0.05, zero=-4)
    rows = b.add([4, 6], scales=0.05, zero=-4)
    b.op("RESHAPE", [x], [rows])
    t = dense(b, rows, 6, 5, [4, 5])
    flat = b.add([1, 20], scales=0.1, zero=3)
    b.op("RESHAPE", [t], [flat])
    data = b.model([x], [dense(b, flat, 20, 3)])
    assert compare(data, np.random.default_rng(1).integers(-128, 128, (20, 24), np.int8), "rows") > 0
    assert convert_bytes(data, source="m").cut.text == "dense(3)"


def test_a_relu_at_the_end_goes_with_the_export():
    """Boards train the logits before it; after it all that are negative would be alike."""
    b = Builder()
    x = b.add([1, 8], scales=0.05)
    data = b.model([x], [dense(b, x, 8, 3, activation=schema.ActivationFunctionType.RELU)])
    p = open_package(convert_bytes(data, source="m").package)
    params = np.concatenate([np.zeros(24), [-3.0, -2.0, -1.0]]).astype(np.float32)
    features = np.random.default_rng(1).integers(-128, 128, (9, 8), np.int8)
    out = export(p, params, features)
    last = ModelFile(out).ops[-1]
    assert last.options.FusedActivationFunction() == schema.ActivationFunctionType.NONE
    got = Engine(compile_program(out)).classify(features)
    assert (got.argmax(1) == 2).all() and (got[:, 0] < got[:, 1]).all()


def test_a_tensor_that_is_used_twice_ends_the_chain():
    b = Builder()
    x = b.add([1, 8], scales=0.05)
    t = dense(b, x, 8, 8)
    y, o = b.add([1, 8], scales=0.2), schema.AddOptionsT()
    b.op("ADD", [t, t], [y], o)
    data = b.model([x], [y])
    with pytest.raises(UnsupportedError, match=r"operator 1 \(ADD, layer t3\) cannot be trained"):
        convert_bytes(data, source="m")


# -- uint8
# ------------------------------------------------------------------------------------------------------------


def in_uint8(data: bytes, rng: np.random.Generator) -> bytes:
    """An int8 model as TensorFlow 1 would have it: every int8 tensor uint8, kernels with any zero-point."""
    from quantfl.package.unsigned import _turn

    model = ModelFile(data)
    less = {}
    for t in model.tensors:
        if t.dtype == np.int8 and len(t.scales):
            less[t.index] = -128
    return _turn(model, less)


def moved_kernel(data: bytes, zero: int) -> bytes:
    """The same with another zero-point of every kernel: other weights."""
    import tflite

    model, out = ModelFile(data), bytearray(data)
    graph = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0)
    for op in model.ops:
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            q = graph.Tensors(op.inputs[1]).Quantization()
            struct.pack_into("<q", out, q._tab.Vector(q._tab.Offset(10)), zero)
    return bytes(out)


@pytest.mark.parametrize(
    "operator",
    ["conv_2d", "depthwise_conv_2d", "fully_connected", "average_pool_2d", "max_pool_2d", "add", "softmax"],
)
def test_uint8_models_equal_the_kernels_of_uint8(operator):
    """LiteRT's reference kernels: tflite-micro has none of uint8."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra quantize)")
    from quantfl.package.stock import stock

    checked = 0
    for i in range(40):
        rng = np.random.default_rng(i)
        generator = Generator(7000 * i + sum(map(ord, operator)))
        data = getattr(generator, operator)()
        if any(len(t.scales) > 1 for t in ModelFile(data).tensors):
            continue  # uint8 kernels have one scale
        data = in_uint8(data, rng)
        if operator not in ("average_pool_2d", "max_pool_2d", "add", "softmax"):
            data = moved_kernel(data, int(rng.choice([0, 1, 100, 128, 200, 255])))
        x = ModelFile(data).tensors[ModelFile(data).inputs[0]]
        oracle, engine = stock(data), Engine(compile_program(signed(data), shift=i % 16))
        assert oracle.name == "LiteRT"
        for _ in range(3):
            given = rng.integers(-128, 128, x.size).astype(np.int8)
            expected = (oracle.run(given) ^ 0x80).view(np.int8)
            np.testing.assert_array_equal(engine.classify(given[None])[0], expected)
            checked += 1
    assert checked > 30


def test_a_uint8_model_is_exported_as_one():
    data = (shared_data("models/coral_imagenet") / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    again = unsigned(signed(data))
    for a, b in zip(ModelFile(data).tensors, ModelFile(again).tensors, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.data is not None and a.dtype == np.uint8:  # another zero-point of a kernel, but equal weights
            np.testing.assert_array_equal(
                a.data.astype(int) - a.zero_point, b.data.astype(int) - b.zero_point
            )
        else:
            assert a.zero_point == b.zero_point


# -- files made to be slow
# ------------------------------------------------------------------------------------------------------------


def chain(n: int) -> bytes:
    """n RELU operators, then a dense layer."""
    b = Builder()
    first = t = b.add([1, 8], scales=0.1)
    for _ in range(n):
        y = b.add([1, 8], scales=0.1)
        b.op("RELU", [t], [y])
        t = y
    return b.model([first], [dense(b, t, 8, 4)])


def star(n: int) -> bytes:
    """n RELU operators on one tensor, all alive until they are joined."""
    b = Builder()
    first = b.add([1, 1], scales=0.1)
    parts = [b.add([1, 1], scales=0.1) for _ in range(n)]
    for y in parts:
        b.op("RELU", [first], [y])
    joined, o = b.add([1, n], scales=0.1), schema.ConcatenationOptionsT()
    o.axis = 1
    b.op("CONCATENATION", parts, [joined], o)
    return b.model([first], [dense(b, joined, n, 4)])


def many_of_one(data: bytes, n: int) -> bytes:
    """The model with n operators, all of which are its first few: one table referred to again and again."""
    root = _follow(data, 0)
    fields = _table_fields(data, root)
    graph = _vector(data, fields[2])[0]
    parts = _table_fields(data, graph)
    operators, p = _vector(data, parts[3]), _Prefix(data)
    new = p.copy_table(root, _MODEL_OFFSETS)
    struct.pack_into("<I", p.out, 0, new[-1])
    graphs = p.vector(1, "I")
    p.repoint(new[2], graphs)
    table = p.copy_table(graph, _SUBGRAPH_OFFSETS)
    p.point(graphs + 4, table[-1])
    at = p.vector(n, "I")
    p.repoint(table[3], at)
    p.later += [(at + 4 + 4 * i, operators[i % (len(operators) - 1)]) for i in range(n)]
    return p.finish()


@pytest.mark.parametrize("build", [chain, star])
def test_time_grows_with_the_model_and_not_with_its_square(build):
    """Counted in instructions of Python rather than in seconds, which a busy machine stretches."""
    import sys

    def steps(n: int) -> int:
        data, count = build(n), 0

        def tick(*_):
            nonlocal count
            count += 1

        sys.setprofile(tick)
        try:
            compile_program(data)
        finally:
            sys.setprofile(None)
        return count

    small, large = steps(700), steps(1400)
    assert large < 3 * small, (small, large)


def test_tables_that_are_shared_cost_no_more_than_the_file_is_long():
    wide = star(300)
    for data in (many_of_one(chain(3), 3000), many_of_one(wide, 4000)):
        start = time.process_time()
        with pytest.raises(PackageError, match=r"operators write t1|again and again"):
            convert_bytes(data, source="m")
        assert time.process_time() - start < 30  # of the processor; it was minutes


# -- float models and C arrays
# ------------------------------------------------------------------------------------------------------------


def test_a_float_model_is_quantised_on_calibration_data(tmp_path):
    pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed (extra quantize)")
    from quantfl.package.source import quality_text
    from tests.unit.test_nn_models import compare

    path = shared_data("models/mlperf_tiny") / "kws_ref_model_float32.tflite"
    with pytest.raises(UsageError, match=r"kws_ref_model_float32.tflite is a float model.*--calibrate"):
        convert(path)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 49, 10)).astype(np.float32), rng.integers(0, 12, 30)
    np.savez(tmp_path / "c.npz", y=y, x=x)
    done = convert(path, calibrate=tmp_path / "c.npz")
    assert done.cut.text == "dense(12)"
    inputs = rng.integers(-128, 128, (3, 490)).astype(np.int8)
    assert compare(done.opened.original, inputs, "kws") > 0
    q = done.quality
    assert q["samples"] == 30 and 0 <= q["disagreement"] <= 0.3 and 0 <= q["float_accuracy"] <= 1
    assert "another class for" in quality_text(q) and "accuracy float" in quality_text(q)
    np.savez(tmp_path / "bad.npz", y=y, x=x[:, :9])
    with pytest.raises(UsageError, match=r"bad.npz.*the model takes inputs \(samples, 49, 10, 1\)"):
        convert(path, calibrate=tmp_path / "bad.npz")


@pytest.mark.parametrize("kind", ["float16", "dynamic range"])
def test_weights_that_are_small_already_are_made_float_first(kind):
    """float16 constants behind a DEQUANTIZE, and int8 weights of layers that compute in floating point."""
    pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed (extra quantize)")
    from quantfl.package.float_convert import quantise

    rng = np.random.default_rng(4)
    q = rng.integers(-127, 128, (5, 16)).astype(np.int8)
    b = Builder()
    x, w = b.add([1, 16]), b.add([5, 16], scales=0.01, data=q)
    y = b.add([1, 5])
    for t in (x, y):
        b.tensors[t].type = schema.TensorType.FLOAT32
    if kind == "float16":
        b.tensors[w].type, b.tensors[w].quantization = schema.TensorType.FLOAT16, None
        half = (q * np.float32(0.01)).astype(np.float16)
        b.buffers[b.tensors[w].buffer].data = np.frombuffer(half.tobytes(), np.uint8)
        wide = b.add([5, 16])
        b.tensors[wide].type = schema.TensorType.FLOAT32
        b.op("DEQUANTIZE", [w], [wide], schema.DequantizeOptionsT())
        w = wide
    b.op("FULLY_CONNECTED", [x, w, -1], [y], schema.FullyConnectedOptionsT())
    inputs = rng.normal(size=(40, 16)).astype(np.float32)
    made, floats = quantise(b.model([x], [y]), inputs)
    np.testing.assert_allclose(floats, inputs @ (q.T * np.float32(0.01)), atol=0.02)
    done = convert_bytes(made, source="m")
    assert done.cut.text == "dense(5)"
    p = open_package(done.package)
    given = np.clip(np.rint(inputs / p.input_scale) + p.input_zero_point, -128, 127).astype(np.int8)
    got = p.head.logits(p.params, given)
    assert np.abs(got - floats).max() < 0.03 * np.abs(floats).max()


def test_c_arrays_are_read_and_written(tmp_path):
    from quantfl.cli.main import main
    from quantfl.package.flatfile import read_file
    from tests.support import DEMO_MODEL

    text = "// a model\n#include <x.h>\nalignas(16) const unsigned char g_model[] = {\n"
    text += ", ".join(f"0x{b:02X}" for b in DEMO_MODEL.read_bytes())
    text += "};\nconst int g_len[] = {1, 2};\n"
    (tmp_path / "model.CC").write_text(text)
    assert read_file(tmp_path / "model.CC") == DEMO_MODEL.read_bytes()
    assert main(["convert", str(tmp_path / "model.CC"), "-o", str(tmp_path / "out.h"), "--name", "m"]) == 0
    plain = convert(DEMO_MODEL, name="m").package
    assert read_file(tmp_path / "out.h") == plain
    assert "static const unsigned char out[]" in (tmp_path / "out.h").read_text()
    for bad, words in (("int x;", "no array of bytes"), ("a[] = {0x1, 0x100};", "256 in its longest array")):
        (tmp_path / "bad.h").write_text(bad)
        with pytest.raises(PackageError, match=words):
            read_file(tmp_path / "bad.h")


def test_what_comes_after_the_classes_is_left_to_the_host():
    """ARG_MAX at the end: a board's output is the scores."""
    b = Builder()
    x = b.add([1, 8], scales=0.05)
    t, axis = dense(b, x, 8, 5), b.add([1], "int32", data=np.array([1]))
    o = schema.ArgMaxOptionsT()
    o.outputType = schema.TensorType.INT32
    y = b.add([1], "int32")
    b.op("ARG_MAX", [t, axis], [y], o)
    done = convert_bytes(b.model([x], [y]), source="m")
    assert done.cut.text == "dense(5)"
    assert Engine(done.package).classify(np.zeros((1, 8), np.int8)).shape == (1, 5)


# -- one output for yes or no
# ------------------------------------------------------------------------------------------------------------


def yes_or_no(outputs: int = 1) -> bytes:
    """A hidden layer, then one output behind a sigmoid."""
    b = Builder()
    x = b.add([1, 12], scales=0.03, zero=5)
    t = dense(b, x, 12, 8, activation=schema.ActivationFunctionType.RELU, small=True)
    z = dense(b, t, 8, outputs, small=True)
    y = b.add([1, outputs], scales=1 / 256, zero=-128)
    b.op("LOGISTIC", [z], [y])
    return b.model([x], [y])


def test_one_output_behind_a_sigmoid_is_trained_as_two_classes():
    """Their softmax is its sigmoid: training learns, and the exported model has the one output again."""
    from quantfl.core.head import FitConfig
    from quantfl.fleet.finalise import stock_accuracy

    p = open_package(convert_bytes(yes_or_no(), source="m").package)
    assert p.dims == (12, 8, 2)
    rng = np.random.default_rng(3)
    inputs = rng.integers(-128, 128, (300, 12)).astype(np.int8)
    features = Engine(p.data).run_batch(inputs)
    z = p.head.logits(p.params, features)
    ours = (Engine(compile_program(p.original)).classify(inputs).astype(int) + 128) / 256
    np.testing.assert_allclose(1 / (1 + np.exp(z[:, :1] - z[:, 1:])), ours, atol=0.06)
    labels = (inputs[:, :6].astype(int).sum(1) > inputs[:, 6:].astype(int).sum(1)).astype(np.uint16)
    trained, _ = p.head.fit(p.params, features, labels, FitConfig(lr=0.02, momentum=0.5, epochs=30))
    accuracy = p.head.evaluate(trained, features, labels).accuracy
    assert accuracy > 0.9 > p.head.evaluate(p.params, features, labels).accuracy
    out = export(p, trained, features)
    assert ModelFile(out).tensors[ModelFile(out).outputs[0]].shape == (1, 1)
    stock, _ = stock_accuracy(out, inputs, labels)
    assert abs(stock - accuracy) < 0.03
    again = export(p, trained, features, keep_metadata=True)
    np.testing.assert_array_equal(open_package(again).params, open_package(again).params)
    assert open_package(again).dims == p.dims


def test_other_ends_of_one_output_are_refused_by_what_they_are():
    with pytest.raises(UnsupportedError, match=r"LOGISTIC.*gives 3 outputs of their own"):
        convert_bytes(yes_or_no(3), source="m")
    b = Builder()
    x = b.add([1, 8], scales=0.05)
    with pytest.raises(UnsupportedError, match=r"one output and no sigmoid.*regression"):
        convert_bytes(b.model([x], [dense(b, x, 8, 1)]), source="m")


# -- several outputs, and what becomes of every operator
# ------------------------------------------------------------------------------------------------------------


def test_one_of_several_outputs_is_trained_scored_and_exported():
    from quantfl.package.stock import stock

    data = case("two_swapped").read_bytes()
    names = [ModelFile(data).tensors[t].name for t in ModelFile(data).outputs]
    for i, classes in ((0, 3), (1, 2)):
        for output in (str(i), names[i]):
            p = open_package(convert_bytes(data, source="m", output=output).package)
            assert p.dims[-1] == classes and len(ModelFile(p.original).outputs) == 1
        x = np.random.default_rng(i).integers(-128, 128, (8,)).astype(np.int8)
        np.testing.assert_array_equal(Engine(p.data).classify(x[None])[0], stock(p.original).run(x))
        assert (
            ModelFile(export(p, p.params, x[None])).tensors[ModelFile(p.original).outputs[0]].size == classes
        )


def test_explain_marks_every_operator(capsys):
    import json

    from quantfl.cli.main import main

    assert main(["convert", "--explain", str(case("dense_on_4d")), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["operators"]
    marks = {r["operator"]: r["mark"] for r in rows}
    assert len(rows) == 17 and marks[0] == "trainable" and marks[1] == "folded" and marks[15] == "trained"
    assert main(["convert", "--explain", str(case("int16x8"))]) == 0
    said = capsys.readouterr().out
    assert "refused" in said and "nothing at its end can be trained: operator 12" in said
    assert main(["convert", "--explain", str(case("two_swapped"))]) == 0
    assert "unused (2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("operators", "words"),
    [
        (["CALL_ONCE", "VAR_HANDLE"], "keeps state from one inference to the next (CALL_ONCE, VAR_HANDLE)"),
        (["WHILE"], "control flow (WHILE)"),
        (["RELU"], "models with one are supported"),
    ],
)
def test_several_subgraphs_are_refused_by_what_they_are_for(operators, words):
    import flatbuffers

    b = Builder()
    x = b.add([1, 8], scales=0.05)
    data = b.model([x], [dense(b, x, 8, 3)])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for name in operators:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        model.operatorCodes.append(code)
    model.subgraphs.append(model.subgraphs[0])
    out = flatbuffers.Builder(1024)
    out.Finish(model.Pack(out), file_identifier=b"TFL3")
    with pytest.raises(UnsupportedError) as error:
        convert_bytes(bytes(out.Output()), source="m")
    assert words in str(error.value) and "m has 2 subgraphs" in str(error.value)
