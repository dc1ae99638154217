"""The boards' own codecs behind the rivals' interface, and BU's indices through general-purpose
compressors."""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from quantfl.core.codec import Codec, decode, dz_encode, dz_step
from quantfl_lab.rivals.base import Shapes, checked, pack, refuse, sizes, unpack

_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
_WAYS = {
    0: (lambda d: d, lambda d: d),
    1: (lambda d: zlib.compress(d, 9, wbits=-15), lambda d: _whole(zlib.decompressobj(wbits=-15), d)),
    2: (
        lambda d: lzma.compress(d, lzma.FORMAT_RAW, filters=_LZMA),
        lambda d: _whole(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA), d),
    ),
    3: (bz2.compress, lambda d: _whole(bz2.BZ2Decompressor(), d)),
}
_LONGEST = 1 << 24


def _whole(decompressor, data: bytes) -> bytes:
    out = decompressor.decompress(data, _LONGEST)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not exactly one compressed stream")
    return out


@dataclass(frozen=True)
class Ours:
    """A codec of qfl_codec, the C that boards run: docs/CODEC.md. As on a board, DZ's step follows the delta
    without its residual."""

    codec: Codec
    source: str = "docs/CODEC.md; BU and BQ after QuantFL, Herath et al. 2026 (arXiv 2603.17507)"
    unbiased: bool = False

    def __str__(self) -> str:
        c = self.codec
        if c.kind == "fp32":
            return "fp32"
        options = "".join(
            name
            for name, on in ((", per tensor", c.per_tensor), (", means", c.means), (", coded", c.coded))
            if on
        )
        return f"{c.kind.upper()}({c.step if c.kind == 'dz' else c.levels:g}{options})"

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        if self.codec.kind == "dz" and "fresh" in memory:
            return dz_encode(checked(x, shapes), dz_step(memory["fresh"], self.codec.step), sizes(shapes))
        return self.codec.encode(x, sizes(shapes))

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        return decode(data, sizes(shapes))


@dataclass(frozen=True)
class Compressed:
    """BU(levels), indices through the best of zlib, LZMA and bzip2, packed in bits or a byte each. First
    byte: which."""

    levels: int = 64
    source: str = "BU as in docs/CODEC.md; RFC 1951 (zlib), LZMA2 (xz), bzip2"
    unbiased: bool = False
    bu: Ours = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bu", Ours(Codec("bu", self.levels)))

    def __str__(self) -> str:
        return f"BU({self.levels}) + zlib/lzma/bzip2"

    @property
    def _width(self) -> int:
        return math.ceil(math.log2(self.levels))

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        coded, n = self.bu.encode(x, shapes, memory, seed), sum(sizes(shapes))
        head, packed = coded[2:10], coded[10:]
        best = bytes((0,)) + head + packed
        if packed:
            bodies = {0: packed, 16: unpack(packed, n, self._width).astype(np.uint8).tobytes()}
            for form, body in bodies.items():
                for way in (1, 2, 3):
                    best = min(best, bytes((form | way,)) + head + _WAYS[way][0](body), key=len)
        return best

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        n = sum(sizes(shapes))
        if len(data) < 9 or data[0] & 15 not in _WAYS or data[0] & ~31 or data[0] == 16:
            refuse("no such way of compression")
        body = data[9:]
        if body:
            try:
                body = _WAYS[data[0] & 15][1](body)
            except (ValueError, EOFError, OSError, zlib.error, lzma.LZMAError):
                refuse("it does not decompress")
        if data[0] & 16:
            values = np.frombuffer(body, np.uint8)
            if len(values) != n or values.max(initial=0) >= self.levels:
                refuse("indices beyond the last bucket, or too few")
            body = pack(values, self._width)
        return self.bu.decode(bytes((1, self._width)) + data[1:9] + body, shapes, seed)
