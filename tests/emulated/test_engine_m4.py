"""The DSP kernels on an emulated Cortex-M4F give the bytes of the portable ones, which equal
tflite-micro's."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.emulation.base import firmware
from quantfl.errors import ToolError
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program
from quantfl_lab.bench.engine import count
from tests.support import DEMO_MODEL, shared_data
from tests.unit.test_nn_models import MLPERF, structured
from tests.unit.test_nn_ops import cases, convert, tf

pytestmark = pytest.mark.emulated
assert tf  # the fixture


@pytest.fixture(autouse=True)
def _tools():
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    try:
        firmware("bench_m4", "firmware.elf")
    except ToolError as error:
        pytest.skip(str(error))


def same(data: bytes, inputs: np.ndarray) -> None:
    package = compile_program(data)
    assert (count(package, inputs).outputs == Engine(package).classify(inputs)).all()


def inputs_for(data: bytes, random: int) -> np.ndarray:
    size = ModelFile(data).tensors[ModelFile(data).inputs[0]].size
    return np.concatenate(
        [np.random.default_rng(1).integers(-128, 128, (random, size), np.int8), structured(size, 20)]
    )


@pytest.mark.parametrize(("name", "shape", "build"), cases(), ids=[c[0] for c in cases()])
def test_generated_models(tf, name, shape, build):
    data = convert(tf, shape, build, sum(map(ord, name)))
    same(data, inputs_for(data, 10))


@pytest.mark.parametrize("name", MLPERF)
def test_mlperf_tiny(name):
    data = (shared_data("models/mlperf_tiny") / f"{name}.tflite").read_bytes()
    same(data, inputs_for(data, 2)[:: 4 if name == "vww_96_int8" else 1])


def test_demo_model():
    data = DEMO_MODEL.read_bytes()
    same(data, inputs_for(data, 20))
