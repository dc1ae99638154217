"""Row tiling: whatever the division into groups and tiles, the bytes are those of whole operators and of
tflite-micro."""

from __future__ import annotations

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.package import layout
from quantfl.package.convert import convert_bytes
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import Compiler, compile_program, open_package
from quantfl.package.row_tiling import Segment
from tests.support import ROOT, shared_data

tflm = pytest.importorskip(
    "tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)"
)
from tests.unit.test_nn_generated import GuardedEngine  # noqa: E402
from tests.unit.tflite_models import NetGenerator  # noqa: E402

NETS = 60


def random_division(net, rng: np.random.Generator) -> list[layout.Segment]:
    """Groups of any length and number of tiles, in either direction, wherever operators can run on some of
    their rows."""
    division, i, n = [], 0, len(net.records)
    while i < n:
        end = i
        stop = net.cut if i < net.cut else n
        while end < stop and (net.row_ops[end] is not None or not net.writes[end]) and rng.random() < 0.85:
            end += 1
        while end > i and net.row_ops[end - 1] is None:
            end -= 1
        if end == i:
            division.append(Segment(i, i + 1))
        else:
            rows = net.rows[net.writes[end - 1][0]]
            division.append(Segment(i, end, int(rng.integers(2, rows + 1)), bool(rng.random() < 0.5)))
        i = division[-1].end
    return division


def randomly_divided(rng: np.random.Generator):
    """In place of layout.choose."""
    return lambda graph, shift, row_tiling: layout.placed(graph, random_division(graph, rng), shift, 5)


@pytest.mark.parametrize("part", range(4))
def test_any_division_of_generated_nets_gives_the_bytes_of_tflite_micro(part, monkeypatch):
    groups = 0
    for i in range(part, NETS, 4):
        generator = NetGenerator(i)
        data = generator.net()
        model, rng = ModelFile(data), np.random.default_rng(i)
        x = model.tensors[model.inputs[0]]
        oracle = tflm.runtime.Interpreter.from_bytes(data, arena_size=4 << 20)
        cut = int(rng.integers(1, len(model.ops))) if i % 2 else None
        packages = [
            compile_program(data, cut_op=cut, row_tiling=False),
            compile_program(data, cut_op=cut, shift=i % 16),
        ]
        with monkeypatch.context() as patch:
            patch.setattr(layout, "choose", randomly_divided(rng))
            packages += [compile_program(data, cut_op=cut, shift=(i + k) % 16) for k in range(2)]
        groups += sum(open_package(p).op_count > len(model.ops) for p in packages)
        engines = [GuardedEngine(p) for p in packages]
        for k in range(2):
            value = rng.integers(-128, 128, x.size).astype(np.int8)
            oracle.set_input(value.reshape(x.shape), 0)
            oracle.invoke()
            expected = np.array(oracle.get_output(0)).reshape(-1)
            features = [Engine(p).run(value).tobytes() for p in packages]
            assert features.count(features[0]) == len(features), f"net {i}: features"
            for number, engine in enumerate(engines):
                got = engine.run(value, (0x5A, 0xA5)[k])
                wrong = np.flatnonzero(got != expected)
                assert not len(wrong), (
                    f"net {i}, package {number}: {len(wrong)} of {got.size} differ, first at {wrong[0]}"
                )
    assert groups > NETS // 4


@pytest.mark.parametrize(
    ("name", "arena"),
    [
        ("pretrainedResnet_quant", 0.6 * 54_996),
        ("vww_96_int8", 0.55 * 100_708),
        ("kws_ref_model", 0.72 * 22_820),
    ],
)
def test_arena_and_output_of_mlperf_tiny(name, arena):
    data = (shared_data("models/mlperf_tiny") / f"{name}.tflite").read_bytes()
    package, whole = compile_program(data), compile_program(data, row_tiling=False)
    assert open_package(package).arena_size <= arena < 2 * open_package(package).arena_size
    x = np.random.default_rng(1).integers(-128, 128, (5, Engine(whole).nn.input_size), np.int8)
    assert (Engine(package).classify(x) == Engine(whole).classify(x)).all()
    assert len(package) - len(whole) < len(whole) / 12


@pytest.mark.parametrize("cut", [2, 4, 6, 8, 12, 13])
def test_features_at_a_cut_are_the_same(cut):
    """In the midst of a residual block too: the cut ends every group, and the features are there when the
    backbone has run."""
    data = (ROOT / "models" / "cifar100" / "cifar100_int8.tflite").read_bytes()
    x = np.random.default_rng(1).integers(-128, 128, (3, 3072), np.int8)
    tiled, whole = (open_package(compile_program(data, cut_op=cut, row_tiling=s)) for s in (True, False))
    assert (
        tiled.cut_op == whole.cut_op == cut
        and tiled.arena_size < whole.arena_size
        and tiled.op_count > whole.op_count
    )
    assert (Engine(tiled.data).run_batch(x) == Engine(whole.data).run_batch(x)).all()
    assert (Engine(tiled.data).classify(x) == Engine(whole.data).classify(x)).all()


def test_no_record_of_resnet8_takes_long():
    """Boards look at their link between records."""
    model = ModelFile((ROOT / "models" / "cifar100" / "cifar100_int8.tflite").read_bytes())
    net = layout.Graph(model, Compiler(model).records(), len(model.ops))

    def longest(row_tiling: bool) -> float:
        steps = layout.choose(net, 0, row_tiling).steps
        return max(
            net.products(s.op) * ((s.rows[1] - s.rows[0]) / net.rows[net.writes[s.op][0]] if s.rows else 1)
            for s in steps
            if s.op is not None
        )

    assert longest(True) <= layout.LONGEST < 2_000_000 < longest(False)


def test_records_run_one_at_a_time():
    """The backbone of ResNet8 one record at a time, as a board runs it, and the features of the whole."""
    data = (ROOT / "models" / "cifar100" / "cifar100_int8.tflite").read_bytes()
    engine = Engine(convert_bytes(data, source="cifar100").package)
    x = np.random.default_rng(1).integers(-128, 128, 3072, np.int8)
    expected = engine.run(x)
    engine.set_input(x)
    for i in range(engine.cut_op):
        engine.run_ops(i, i + 1)
    at = engine.nn.feature_offset
    assert bytes(engine._arena.buffer(at, engine.nn.feature_count)) == expected.tobytes()
