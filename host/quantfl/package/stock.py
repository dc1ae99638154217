"""Interpreters that others have made, as oracles: tflite-micro, or LiteRT where a model has kernels of uint8,
which tflite-micro has none of."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quantfl.core.nn import Engine
from quantfl.package.flatfile import ModelFile, Tensor
from quantfl.package.program import compile_program, entry_of
from quantfl.package.unsigned import signed

ARENA = 16 << 20
OWN = "quantfl's engine (install tflite-micro for the stock one)"
#: What tflite-micro runs on uint8.
_EDGES = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")


@dataclass(frozen=True)
class Stock:
    """name: of the interpreter. run: the output of a model, flat and in its own dtype, for an input int8
    [size] as boards take it."""

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    output: Tensor

    def decide(self, row: np.ndarray) -> int:
        """The class of an input int8 [size]: the largest output, or of one that is a probability whether it
        is at least a half."""
        y = self.run(row)
        if y.size > 1:
            return int(y.argmax())
        if y.dtype == np.float32:
            return int(y[0] >= 0.5)
        t = self.output
        if t.dtype != y.dtype:  # our engine's int8 for a uint8 or float32 end
            return int(y[0] >= 0)
        return int((int(y[0]) - t.zero_point) * t.scale >= 0.5)


def stock(model: bytes) -> Stock:
    """The interpreter for a full int8 or uint8 .tflite; quantfl's own engine, which equals their bytes, where
    none is installed that runs it."""
    file = ModelFile(model)
    whole = any(
        op.name not in _EDGES and any(t >= 0 and file.tensors[t].dtype == np.uint8 for t in op.inputs)
        for op in file.ops
    )
    found = None if whole else _micro(model, file)
    found = found or (_litert(model, file) if whole else None)
    if found is not None:
        return found
    engine = Engine(compile_program(signed(model)))
    return Stock(OWN, lambda row: engine.classify(row[None])[0], file.tensors[file.outputs[0]])


def _entry(file: ModelFile) -> Callable[[np.ndarray], np.ndarray]:
    """From the int8 that a board takes to what the model's input holds."""
    first = file.tensors[file.inputs[0]]
    if first.dtype == np.uint8:
        return lambda row: (row.view(np.uint8) ^ 0x80).reshape(first.shape)
    if first.dtype == np.float32:  # a float32 input that the model itself quantises
        inside = file.tensors[entry_of(file)]
        return lambda row: ((row.astype(np.float32) - inside.zero_point) * np.float32(inside.scale)).reshape(
            first.shape
        )
    return lambda row: row.reshape(first.shape)


def _micro(model: bytes, file: ModelFile) -> Stock | None:
    try:
        import tflite_micro
    except ImportError:
        return None
    given = _entry(file)
    try:
        with quiet():
            runtime = tflite_micro.runtime.Interpreter.from_bytes(model, arena_size=ARENA)
    except (RuntimeError, ValueError):  # an operator that it lacks
        return None

    def run(row: np.ndarray) -> np.ndarray:
        runtime.set_input(given(row), 0)
        runtime.invoke()
        return np.array(runtime.get_output(0)).reshape(-1)

    return Stock("tflite-micro", run, file.tensors[file.outputs[0]])


def _litert(model: bytes, file: ModelFile) -> Stock | None:
    """LiteRT's reference kernels: the optimised ones round otherwise."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        return None
    given = _entry(file)
    runtime = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    runtime.allocate_tensors()
    first, last = runtime.get_input_details()[0]["index"], runtime.get_output_details()[0]["index"]

    def run(row: np.ndarray) -> np.ndarray:
        runtime.set_tensor(first, given(row))
        runtime.invoke()
        return np.array(runtime.get_tensor(last)).reshape(-1)

    return Stock("LiteRT", run, file.tensors[file.outputs[0]])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Interpreters write to the process's stdout; --json must not be disturbed."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
