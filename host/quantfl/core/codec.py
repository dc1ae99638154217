"""Coding of deltas (qfl_codec): the very code that runs on the boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantfl.core import ffi, lib, status_text

LEVELS = (4, 8, 16, 32, 64, 256)
CODEC_NAMES = ("fp32", "bu", "bq", "dz")


class CodecError(ValueError):
    """Values or bytes that a codec refuses; `status` is the qfl_status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Codec:
    """How deltas are coded (docs/CODEC.md)."""

    kind: str = "bu"
    """`fp32`, `bu`, `bq` or `dz`."""
    levels: int = 64
    """Number of buckets of `bu` and `bq`: 4, 8, 16, 32, 64 or 256."""
    per_tensor: bool = False
    """`bu` and `bq`: one range for each tensor instead of one for each message."""
    means: bool = False
    """`bu` and `bq`: values are reconstructed at the means of their buckets, which are sent."""
    step: float = 4.0
    """`dz`: the step, in units of the delta's root mean square; a multiple of 1/16."""
    coded: bool = False
    """`bu` and `bq`: indices go through an entropy coder, losslessly."""

    def __str__(self) -> str:
        if self.kind == "fp32":
            return "fp32"
        if self.kind == "dz":
            return f"dz{self.step:g}"
        named = (("+tensor", self.per_tensor), ("+means", self.means), ("+coded", self.coded))
        return f"{self.kind}{self.levels}" + "".join(name for name, on in named if on)

    @property
    def fields(self) -> tuple[int, int, int]:
        """kind, flags and levels as they stand in a CONFIG message."""
        if self.kind == "fp32":
            return lib.QFL_CODEC_FP32, 0, 0
        if self.kind == "dz":
            return lib.QFL_CODEC_DZ, 0, round(16 * self.step)
        if self.kind not in CODEC_NAMES:
            raise ValueError(f"unknown codec {self.kind!r}: use one of {', '.join(CODEC_NAMES)}")
        options = (
            (self.per_tensor, lib.QFL_CODEC_PER_TENSOR),
            (self.means, lib.QFL_CODEC_MEANS),
            (self.coded, lib.QFL_CODEC_CODED),
        )
        return (
            getattr(lib, f"QFL_CODEC_{self.kind.upper()}"),
            sum(bit for on, bit in options if on),
            self.levels,
        )

    def _spec(self) -> Any:
        spec = ffi.new("qfl_codec_spec *")
        spec.kind, spec.flags, spec.levels = self.fields
        return spec

    def encode(self, x: np.ndarray, tensors: Sequence[int]) -> bytes:
        """Code float32 values `x` [sum(tensors)]. CodecError: not finite, or a range beyond float32."""
        x = np.array(x, np.float32).reshape(-1)
        layout = layout_of(tensors, x.size)
        spec = self._spec()
        cap = lib.qfl_codec_bound(spec, layout)
        if cap == 0:
            raise CodecError(f"codec {self} is not supported", lib.QFL_E_UNSUPPORTED)
        out, size = ffi.new("uint8_t[]", cap), ffi.new("uint32_t *")
        status = lib.qfl_codec_encode(spec, layout, ffi.from_buffer("float[]", x), out, cap, size)
        if status < 0:
            raise CodecError(f"cannot code the values as {self}: {status_text(status)}", status)
        return bytes(ffi.buffer(out, size[0]))


def layout_of(tensors: Sequence[int], values: int) -> Any:
    if sum(tensors) != values:
        raise ValueError(f"tensors of {sum(tensors)} values in all, but {values} given")
    layout = ffi.new("qfl_codec_layout *")
    if not 1 <= len(tensors) <= lib.QFL_CODEC_MAX_TENSORS:
        raise ValueError(f"{len(tensors)} tensors: 1 to {lib.QFL_CODEC_MAX_TENSORS} are possible")
    layout.tensors = len(tensors)
    for i, n in enumerate(tensors):
        layout.size[i] = n
    return layout


def decode(data: bytes, tensors: Sequence[int], agreed: int = 0) -> np.ndarray:
    """The float32 values [sum(tensors)] of one coded delta; agreed: code of the step where it was agreed on
    before.

    CodecError when `data` is not exactly one.
    """
    x = np.zeros(sum(tensors), np.float32)
    layout = layout_of(tensors, x.size)
    status = lib.qfl_codec_decode(
        layout, ffi.from_buffer("uint8_t[]", data), len(data), agreed, ffi.from_buffer("float[]", x)
    )
    if status < 0:
        raise CodecError(f"malformed delta of {len(data)} bytes: {status_text(status)}", status)
    return x


@dataclass(frozen=True)
class Form:
    """How a DZ delta is written (qfl_codec_dz_form): code of the step; agreed: the step is not in the delta;
    offset: by how many codes the encoder's own choice would have been coarser,
    QFL_CODEC_DZ_FINER..QFL_CODEC_DZ_COARSER of the C header, saturated."""

    code: int
    agreed: bool = False
    offset: int = 0


def is_dz(data: bytes) -> bool:
    """Whether a coded delta is one of DZ's."""
    return bool(data) and data[0] & 15 in (lib.QFL_CODEC_DZ, lib.QFL_CODEC_DZ_AGREED)


def dz_value(code: int) -> float:
    """The step with this code: m * 2^e, code = 4 * (e + 40) + m - 4."""
    return float(lib.qfl_codec_dz_value(code))


def dz_step(x: np.ndarray, steps: float) -> int:
    """Code of the largest step not above `steps` times the root mean square of x; steps in sixteenths, at
    most 64."""
    with np.errstate(over="ignore"):  # the largest step then
        x = np.ascontiguousarray(x, np.float32)
    return int(lib.qfl_codec_dz_step(ffi.from_buffer("float[]", x), x.size, round(16 * steps)))


def dz_with_feedback(x: np.ndarray, columns: int, residual: np.ndarray, kept: float, code: int) -> np.ndarray:
    """Symbols int32 of float32 x and residual int8 [n], times `kept` (the step it is of, or less), as boards
    make them: without the means of rows of `columns` values (0: with them). What they lose is left in
    `residual`."""
    x = np.array(x, np.float32).reshape(-1)
    lib.qfl_codec_dz_with_feedback(
        ffi.from_buffer("float[]", x),
        x.size,
        columns,
        ffi.from_buffer("int8_t[]", residual, require_writable=True),
        kept,
        code,
    )
    return x.view(np.int32)


def dz_quantise(x: np.ndarray, code: int) -> np.ndarray:
    """Symbols int32 of float32 x with the step of this code."""
    x = np.array(x, np.float32).reshape(-1)
    lib.qfl_codec_dz_quantise(ffi.from_buffer("float[]", x), x.size, code, ffi.NULL)
    return x.view(np.int32)


def dz_write(symbols: np.ndarray, form: Form, tensors: Sequence[int]) -> bytes:
    """Symbols int32 [sum(tensors)] to bytes."""
    s = np.ascontiguousarray(symbols, np.int32)
    layout, cap = layout_of(tensors, s.size), 8 * s.size + 64
    c = ffi.new("qfl_codec_dz_form *", {"code": form.code, "agreed": form.agreed, "offset": form.offset})
    out, size = ffi.new("uint8_t[]", cap), ffi.new("uint32_t *")
    status = lib.qfl_codec_dz_write(layout, ffi.from_buffer("int32_t[]", s), c, out, cap, size)
    if status < 0:
        raise CodecError(f"cannot write symbols with {form}: {status_text(status)}", status)
    return bytes(ffi.buffer(out, size[0]))


def dz_read(data: bytes, tensors: Sequence[int], agreed: int = 0) -> tuple[np.ndarray, Form]:
    """Symbols int32 [sum(tensors)] of a DZ delta, and its form. CodecError when `data` is not exactly one."""
    s = np.zeros(sum(tensors), np.int32)
    form = ffi.new("qfl_codec_dz_form *")
    status = lib.qfl_codec_dz_read(
        layout_of(tensors, s.size),
        ffi.from_buffer("uint8_t[]", data),
        len(data),
        agreed,
        ffi.from_buffer("int32_t[]", s),
        form,
    )
    if status < 0:
        raise CodecError(f"malformed delta of {len(data)} bytes: {status_text(status)}", status)
    return s, Form(form.code, bool(form.agreed), form.offset)


def dz_encode(x: np.ndarray, code: int, tensors: Sequence[int]) -> bytes:
    """Code float32 x with the step of this code. CodecError: not finite."""
    x = np.asarray(x, np.float32).reshape(-1)
    if not np.isfinite(x).all():
        raise CodecError("cannot code NaN or infinity", lib.QFL_E_NONFINITE)
    return dz_write(dz_quantise(x, code), Form(code), tensors)
