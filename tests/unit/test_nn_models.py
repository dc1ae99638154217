"""qfl_nn against tflite-micro: every tensor of real models, on random and structured inputs."""

from __future__ import annotations

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program
from tests.support import DEMO_MODEL, ROOT, shared_data

tflm = pytest.importorskip(
    "tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)"
)

MLPERF = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8")


def structured(size: int, count: int) -> np.ndarray:
    """Extremes, ramps, checkerboards, impulses: what random bytes do not reach."""
    i = np.arange(size)
    rows = [np.full(size, v) for v in (-128, -127, -1, 0, 1, 127)]
    rows += [(i % 256) - 128, 127 - (i % 256), np.where(i % 2, 127, -128), np.where((i // 7) % 2, -128, 127)]
    rows += [np.where(i == (k * size) // 7, 127, -128) for k in range(5)]
    rows += [np.where(i < (k * size) // 6, 127, -128) for k in range(1, 6)]
    return np.stack(rows[:count]).astype(np.int8)


def compare(data: bytes, inputs: np.ndarray, name: str) -> int:
    """Every operator's output equals the oracle's; returns the number of elements compared."""
    engine, model = Engine(compile_program(data, name=name, row_tiling=False)), ModelFile(data)
    config = tflm.runtime.InterpreterConfig.kPreserveAllTensors
    oracle = tflm.runtime.Interpreter.from_bytes(data, arena_size=4 << 20, intrepreter_config=config)
    shape, checked = model.tensors[model.inputs[0]].shape, 0
    for x in inputs:
        oracle.set_input(x.reshape(shape), 0)
        oracle.invoke()
        engine.set_input(x)
        for op in model.ops:
            engine.run_ops(op.index, op.index + 1)
            expected = np.array(oracle.GetTensor(op.outputs[0], 0)["tensor_data"]).reshape(-1)
            got = engine.output(op.index)
            wrong = np.flatnonzero(got != expected)
            assert not len(wrong), (
                f"{model.label(op)}: {len(wrong)} of {got.size} differ, first at {wrong[0]}"
            )
            checked += got.size
    return checked


@pytest.mark.parametrize("name", MLPERF)
def test_every_tensor_of_mlperf_tiny_equals_tflite_micro(name):
    data = (shared_data("models/mlperf_tiny") / f"{name}.tflite").read_bytes()
    size = ModelFile(data).tensors[ModelFile(data).inputs[0]].size
    random = np.random.default_rng(1).integers(-128, 128, (20, size), np.int8)
    assert compare(data, np.concatenate([random, structured(size, 20)]), name) > 0


def test_every_tensor_of_the_demo_model_equals_tflite_micro():
    data = DEMO_MODEL.read_bytes()
    size = ModelFile(data).tensors[ModelFile(data).inputs[0]].size
    random = np.random.default_rng(2).integers(-128, 128, (20, size), np.int8)
    assert compare(data, np.concatenate([random, structured(size, 20)]), "demo") > 0


def test_every_tensor_of_the_cifar100_mobilenet_equals_tflite_micro():
    """An image enlarged on the board, a float model's operators after its quantisation, a projection."""
    data = (ROOT / "models" / "cifar100_mobilenet" / "cifar100_mobilenet_int8.tflite").read_bytes()
    random = np.random.default_rng(3).integers(-128, 128, (2, 32 * 32 * 3), np.int8)
    assert compare(data, np.concatenate([random, structured(32 * 32 * 3, 6)]), "mobilenet") > 0
