"""Thousands of generated operators against tflite-micro: shapes, 1 to 33 channels, asymmetric padding,
strides, saturating values, every alignment of the buffers, guard bytes around the arena."""

from __future__ import annotations

import numpy as np
import pytest

from quantfl.core import ffi, lib
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program

tflm = pytest.importorskip(
    "tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)"
)
from tests.unit.tflite_models import OPERATORS, Generator  # noqa: E402

CASES = 120  # of each operator
GUARD = 64


class GuardedEngine:
    """A package on an arena with guard bytes before and behind it."""

    def __init__(self, package: bytes):
        self._file = ffi.new("uint8_t[]", len(package) + 16)
        self.file = self._file + -int(ffi.cast("uintptr_t", self._file)) % 16
        ffi.buffer(self.file, len(package))[:] = package
        self.nn = ffi.new("qfl_nn *")
        assert lib.qfl_nn_open(self.nn, self.file, len(package)) == 0
        self._memory = ffi.new("uint8_t[]", self.nn.arena_size + 2 * GUARD + 16)
        start = self._memory + -int(ffi.cast("uintptr_t", self._memory)) % 16
        self.arena, self.whole = start + GUARD, ffi.buffer(start, self.nn.arena_size + 2 * GUARD)

    def run(self, x: np.ndarray, fill: int) -> np.ndarray:
        self.whole[:] = bytes([fill]) * len(self.whole)
        ffi.buffer(self.arena + self.nn.input_offset, x.size)[:] = x.tobytes()
        assert lib.qfl_nn_run(self.nn, self.arena, 0, self.nn.op_count) == 0
        guard = bytes([fill]) * GUARD
        assert self.whole[:GUARD] == guard and self.whole[-GUARD:] == guard, "wrote outside its arena"
        at, size = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        lib.qfl_nn_output(self.nn, self.nn.op_count - 1, at, size)
        return np.frombuffer(bytes(ffi.buffer(self.arena + at[0], size[0])), np.int8)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator):
    for i in range(CASES):
        generator = Generator(1000 * i + sum(map(ord, operator)))
        data = getattr(generator, operator)()
        model = ModelFile(data)
        x = model.tensors[model.inputs[0]]
        oracle = tflm.runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
        engine = GuardedEngine(compile_program(data, shift=i % 16))
        rng = np.random.default_rng(i)
        inputs = [
            rng.integers(-128, 128, x.size).astype(np.int8),
            rng.choice(np.array([-128, 127], np.int8), x.size),
        ]
        for k, value in enumerate(inputs):
            oracle.set_input(value.reshape(x.shape), 0)
            oracle.invoke()
            expected = np.array(oracle.get_output(0)).reshape(-1)
            got = engine.run(value, 0x5A if k else 0xA5)
            wrong = np.flatnonzero(got != expected)
            assert not len(wrong), (
                f"case {i}: {model.label(model.ops[0])}: {len(wrong)} of {got.size} differ, first at "
                f"{wrong[0]}: "
                f"{got[wrong[0]]} instead of {expected[wrong[0]]}"
            )
