"""Coding of deltas (qfl_codec): the very code that runs on the boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantfl.core import ffi, lib, status_text

LEVELS = (4, 8, 16, 32, 64, 256)


class CodecError(ValueError):
    """Values or bytes that a codec refuses; `status` is the qfl_status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Codec:
    """How deltas are coded (docs/CODEC.md): kind "fp32"; "bu" with `levels` buckets; "dz" with `step` in units of the
    delta's root mean square (sixteenths; with error feedback where there is a memory of earlier rounds).

    per_tensor: one range per tensor instead of one per message. means: reconstruct at bucket means, which are sent.
    """

    kind: str = "bu"
    levels: int = 64
    per_tensor: bool = False
    means: bool = False
    step: float = 4.0

    def __str__(self) -> str:
        if self.kind == "fp32":
            return "fp32"
        if self.kind == "dz":
            return f"dz{self.step:g}"
        options = ("+tensor" if self.per_tensor else "") + ("+means" if self.means else "")
        return f"{self.kind}{self.levels}{options}"

    @property
    def fields(self) -> tuple[int, int, int]:
        """kind, flags and levels as they stand in a CONFIG message."""
        if self.kind == "fp32":
            return lib.QFL_CODEC_FP32, 0, 0
        if self.kind == "dz":
            return lib.QFL_CODEC_DZ, 0, round(16 * self.step)
        if self.kind != "bu":
            raise ValueError(f"unknown codec {self.kind!r}: use fp32, bu or dz")
        flags = (lib.QFL_CODEC_PER_TENSOR if self.per_tensor else 0) | (lib.QFL_CODEC_MEANS if self.means else 0)
        return lib.QFL_CODEC_BU, flags, self.levels

    def _spec(self):
        spec = ffi.new("qfl_codec_spec *")
        spec.kind, spec.flags, spec.levels = self.fields
        return spec

    def encode(self, x: np.ndarray, tensors: Sequence[int]) -> bytes:
        """Code float32 values `x` [sum(tensors)]. CodecError: not finite, or a range beyond float32."""
        x = np.ascontiguousarray(x, np.float32).reshape(-1)
        layout = _layout(tensors, x.size)
        spec = self._spec()
        cap = lib.qfl_codec_bound(spec, layout)
        if cap == 0:
            raise CodecError(f"codec {self} is not supported", lib.QFL_E_UNSUPPORTED)
        out, size = ffi.new("uint8_t[]", cap), ffi.new("uint32_t *")
        status = lib.qfl_codec_encode(spec, layout, ffi.from_buffer("float[]", x), out, cap, size)
        if status < 0:
            raise CodecError(f"cannot code the values as {self}: {status_text(status)}", status)
        return bytes(ffi.buffer(out, size[0]))


def _layout(tensors: Sequence[int], values: int):
    if sum(tensors) != values:
        raise ValueError(f"tensors of {sum(tensors)} values in all, but {values} given")
    layout = ffi.new("qfl_codec_layout *")
    if not 1 <= len(tensors) <= lib.QFL_CODEC_MAX_TENSORS:
        raise ValueError(f"{len(tensors)} tensors: 1 to {lib.QFL_CODEC_MAX_TENSORS} are possible")
    layout.tensors = len(tensors)
    for i, n in enumerate(tensors):
        layout.size[i] = n
    return layout


def decode(data: bytes, tensors: Sequence[int]) -> np.ndarray:
    """The float32 values [sum(tensors)] of one coded delta. CodecError when `data` is not exactly one."""
    x = np.zeros(sum(tensors), np.float32)
    layout = _layout(tensors, x.size)
    status = lib.qfl_codec_decode(layout, ffi.from_buffer("uint8_t[]", data), len(data), ffi.from_buffer("float[]", x))
    if status < 0:
        raise CodecError(f"malformed delta of {len(data)} bytes: {status_text(status)}", status)
    return x


def dz_value(code: int) -> float:
    """The step with this code: m * 2^e, code = 4 * (e + 40) + m - 4."""
    return lib.qfl_codec_dz_value(code)


def dz_step(x: np.ndarray, steps: float) -> int:
    """Code of the largest step not above `steps` times the root mean square of x."""
    x = np.ascontiguousarray(x, np.float32)
    return lib.qfl_codec_dz_step(ffi.from_buffer("float[]", x), x.size, round(16 * steps))


def dz_encode(x: np.ndarray, code: int, tensors: Sequence[int]) -> bytes:
    """Code x with the step of this code. CodecError as Codec.encode."""
    x = np.ascontiguousarray(x, np.float32).reshape(-1)
    layout, cap = _layout(tensors, x.size), 4 * x.size + 64
    out, size = ffi.new("uint8_t[]", cap), ffi.new("uint32_t *")
    status = lib.qfl_codec_dz_encode(layout, ffi.from_buffer("float[]", x), code, out, cap, size)
    if status < 0:
        raise CodecError(f"cannot code the values with step {dz_value(code):g}: {status_text(status)}", status)
    return bytes(ffi.buffer(out, size[0]))
