"""Plain ways: floats of 32 and 16 bits, int8 with a scale per tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError
from quantfl_lab.rivals.base import Shapes, Take, checked, f32, parts, refuse, sizes


@dataclass(frozen=True)
class Float:
    """IEEE 754 of 32 or 16 bits, rounded to nearest; half precision refuses values beyond 65,504."""

    bits: int = 32
    source: str = "IEEE 754-2019"
    unbiased: bool = False

    def __str__(self) -> str:
        return f"fp{self.bits}"

    @property
    def _kind(self) -> str:
        return f"<f{self.bits // 8}"

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        with np.errstate(over="ignore"):
            out = checked(x, shapes).astype(self._kind)
        if not np.isfinite(out).all():
            raise CodecError("values beyond half precision", lib.QFL_E_RANGE)
        return out.tobytes()

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take = Take(data)
        x = take.array(self._kind, sum(sizes(shapes))).astype(np.float32)
        take.end()
        if not np.isfinite(x).all():
            refuse("NaN or infinity")
        return x


@dataclass(frozen=True)
class Int8:
    """Symmetric int8, one float32 scale per tensor: q = round(x / scale), scale = max|x| / 127."""

    source: str = (
        "Jacob et al. 2018 (arXiv 1712.05877), section 2.1, symmetric as TensorFlow Lite's weights are"
    )
    unbiased: bool = False

    def __str__(self) -> str:
        return "int8"

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        out = b""
        for part in parts(checked(x, shapes), shapes):
            scale = np.float32(np.abs(part).max(initial=0.0) / np.float32(127))
            q = np.rint(part / scale) if scale > 0 else np.zeros(part.size)
            out += f32(scale) + np.clip(q, -127, 127).astype(np.int8).tobytes()
        return out

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, out = Take(data), []
        for n in sizes(shapes):
            scale, q = take.scale(), take.array("i1", n)
            if (q == -128).any() or (scale == 0 and q.any()):
                refuse("symbols that are not coded")
            out.append(q.astype(np.float32) * np.float32(scale))
        take.end()
        return np.concatenate(out)
