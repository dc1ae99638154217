"""The int8 engine (qfl_nn) on the host: the boards' own executor, for features, checks and tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantfl.core import ffi, lib, status_text
from quantfl.errors import PackageError


class _Memory:
    """Zeroed bytes at a 16-byte boundary plus `offset`."""

    def __init__(self, size: int, offset: int = 0):
        self._keep = ffi.new("uint8_t[]", size + 32 + offset)
        at = int(ffi.cast("uintptr_t", self._keep))
        self.p = self._keep + ((-at) % 16) + offset
        self.size = size

    def buffer(self, at: int = 0, size: int | None = None) -> Any:
        return ffi.buffer(self.p + at, self.size - at if size is None else size)


class Engine:
    """An opened package. Not safe for use from two threads at once.

    PackageError when qfl_nn_open refuses the bytes.
    """

    def __init__(self, package: bytes, source: str = "the package"):
        self._file = _Memory(len(package))
        self._file.buffer()[:] = package
        self.nn = ffi.new("qfl_nn *")
        status = lib.qfl_nn_open(self.nn, self._file.p, len(package))
        if status < 0:
            raise PackageError(f"{source} is no package this firmware can run: {status_text(status)}")
        self._arena = _Memory(self.nn.arena_size)

    @property
    def op_count(self) -> int:
        return int(self.nn.op_count)

    @property
    def cut_op(self) -> int:
        return int(self.nn.cut_op)

    @property
    def program_at(self) -> int:
        """Where in the package the program lies."""
        return int(ffi.cast("uintptr_t", self.nn.program)) - int(ffi.cast("uintptr_t", self.nn.file))

    @property
    def arena_size(self) -> int:
        """Bytes of RAM for activations."""
        return int(self.nn.arena_size)

    def set_input(self, x: np.ndarray) -> None:
        """x: int8 with input_size elements."""
        x = np.ascontiguousarray(x, np.int8)
        if x.size != self.nn.input_size:
            raise ValueError(f"input of {x.size} values where {self.nn.input_size} are due")
        self._arena.buffer(self.nn.input_offset, x.size)[:] = x.tobytes()

    def run_ops(self, first: int, end: int) -> None:
        """Run records [first, end) on what is in the arena; without row tiling record i is operator i."""
        status = lib.qfl_nn_run(self.nn, self._arena.p, first, end)
        if status < 0:
            raise ValueError(status_text(status))

    def output(self, op: int) -> np.ndarray:
        """What record `op` writes, int8 flat; valid right after it has run."""
        at, size = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        if lib.qfl_nn_output(self.nn, op, at, size) < 0:
            raise ValueError(f"no record {op}")
        return np.frombuffer(bytes(self._arena.buffer(at[0], size[0])), np.int8)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Features int8 [F] of one input."""
        self.set_input(x)
        self.run_ops(0, self.cut_op)
        return np.frombuffer(
            bytes(self._arena.buffer(self.nn.feature_offset, self.nn.feature_count)), np.int8
        )

    def run_batch(self, x: np.ndarray) -> np.ndarray:
        """Features int8 [n, F] of inputs int8 [n, input_size]."""
        out = np.empty((len(x), self.nn.feature_count), np.int8)
        for i, row in enumerate(x):
            out[i] = self.run(row)
        return out

    def classify(self, x: np.ndarray) -> np.ndarray:
        """Final int8 output [n, size] of the whole model, its int8 head included, for inputs int8 [n,
        input_size]."""
        rows = []
        for row in x:
            self.set_input(row)
            self.run_ops(0, self.op_count)
            rows.append(self.output(self.op_count - 1))
        return np.stack(rows)


def check(package: bytes, source: str = "the package") -> Engine:
    """The opened package. PackageError unless the device would accept it, its head too."""
    engine = Engine(package, source)
    if engine.nn.head_layers:
        shape = ffi.new("qfl_head_shape *", lib.qfl_device_shape(engine.nn))
        status = lib.qfl_head_check(shape)
        params, features = lib.qfl_head_param_count(shape), lib.qfl_head_features(shape) if status == 0 else 0
        if status < 0 or params != engine.nn.head_param_count or features != engine.nn.feature_count:
            raise PackageError(
                f"{source} has a head this firmware cannot run: {status_text(status or lib.QFL_E_FORMAT)}"
            )
    return engine


def device_need(package: bytes, arena: int, *, pointer: int = 4) -> dict[str, int]:
    """What a package needs of an arena of `arena` bytes (qfl_device_plan): fixed, params, activations,
    per_sample, capacity.

    pointer: bytes of a pointer on the board; 8: it is a process of this machine.
    """
    engine = Engine(package)
    need = ffi.new("qfl_device_need *")
    status = (lib.qfl_device_plan if pointer == 8 else lib.qfl_device_plan_32)(engine.nn, arena, need)
    if status < 0 and status != lib.QFL_E_NOMEM:
        raise PackageError(f"the package has no head a board can train: {status_text(status)}")
    return {k: getattr(need, k) for k in ("fixed", "params", "activations", "per_sample", "capacity")}
