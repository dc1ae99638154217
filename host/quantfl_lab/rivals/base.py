"""What a rival codec is, the state its sender keeps, and bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn, Protocol

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError

Shapes = Sequence[tuple[int, ...]]
_ELIAS_MAX = 1 << 32


class Quantiser(Protocol):
    """A lossy code of vectors. shapes: of the tensors that the vector is made of, in order.

    source: paper and section. unbiased: the mean of what is decoded, over `seed`, is what was encoded. seed:
    randomness that both ends know, another one for every message. memory: what the sender keeps from one
    message to the next, if anything.
    """

    source: str
    unbiased: bool

    def __str__(self) -> str: ...

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        """float32 x [n] to bytes. CodecError: not finite."""

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        """float32 [n]. CodecError when `data` is nothing that encode makes."""


class Remembered:
    """A quantiser that decodes the same bytes once in a simulation: all boards apply the same update, and
    what a sender with feedback decodes the receiver does too. What it returns must not be written to, and
    cannot be."""

    def __init__(self, quantiser: Quantiser, most: int = 256):
        self.quantiser, self.source, self.unbiased = quantiser, quantiser.source, quantiser.unbiased
        self._decode = lru_cache(maxsize=most)(self._decode_now)

    def __str__(self) -> str:
        return str(self.quantiser)

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        return self.quantiser.encode(x, shapes, memory, seed)

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        return self._decode(data, tuple(shapes), seed)

    def _decode_now(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        x = self.quantiser.decode(data, shapes, seed)
        x.flags.writeable = False
        return x


@dataclass
class Sender:
    """One end that sends: a quantiser, its memory, and what earlier messages lost (error feedback, Seide et
    al. 2014; Stich et al. 2018, algorithm 1) when `feedback`. The residual is kept in float32, unlike
    quantfl's own, which has one byte per weight."""

    quantiser: Quantiser
    feedback: bool = False
    memory: dict = field(default_factory=dict)
    residual: np.ndarray | None = None

    def send(self, x: np.ndarray, shapes: Shapes, seed: int) -> bytes:
        if not self.feedback:
            return self.quantiser.encode(x, shapes, self.memory, seed)
        self.memory["fresh"] = x  # what is new, without the residual: a step may follow it
        wanted = x if self.residual is None else (x + self.residual).astype(np.float32)
        data = self.quantiser.encode(wanted, shapes, self.memory, seed)
        self.residual = wanted - self.quantiser.decode(data, shapes, seed)
        return data


def sizes(shapes: Shapes) -> list[int]:
    """Values of each tensor."""
    return [math.prod(s) for s in shapes]


def parts(x: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    """Views of the tensors in x [n], each flat."""
    return np.split(x, np.cumsum(sizes(shapes))[:-1])


def checked(x: np.ndarray, shapes: Shapes) -> np.ndarray:
    """x as float32 [n]. CodecError: not finite. ValueError: not of these shapes."""
    x = np.asarray(x, np.float32).reshape(-1)
    if x.size != sum(sizes(shapes)):
        raise ValueError(f"{x.size} values for tensors {tuple(shapes)}")
    if not np.isfinite(x).all():
        raise CodecError("cannot code NaN or infinity", lib.QFL_E_NONFINITE)
    return x


def refuse(why: str) -> NoReturn:
    raise CodecError(f"malformed bytes: {why}", lib.QFL_E_FORMAT)


class Take:
    """Reads bytes from the front; every method refuses when there are too few."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def raw(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            refuse(f"{len(self.data)} bytes are too few")
        self.at += n
        return self.data[self.at - n : self.at]

    def array(self, kind: str, n: int) -> np.ndarray:
        return np.frombuffer(self.raw(n * np.dtype(kind).itemsize), kind)

    def scale(self) -> float:
        """A float32 that is finite and not negative."""
        value = float(self.array("<f4", 1)[0])
        if not (math.isfinite(value) and value >= 0 and not (value == 0 and math.copysign(1, value) < 0)):
            refuse(f"a scale of {value}")
        return value

    def rest(self) -> bytes:
        return self.raw(len(self.data) - self.at)

    def end(self) -> None:
        if self.at != len(self.data):
            refuse(f"{len(self.data) - self.at} bytes too many")


def f32(value: float) -> bytes:
    """float32 little-endian."""
    return np.float32(value).astype("<f4").tobytes()


def pack(values: np.ndarray, width: int) -> bytes:
    """Unsigned integers of `width` bits each, lowest bit first, padded with zeros."""
    bits = (np.asarray(values, np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, n: int, width: int) -> np.ndarray:
    """Inverse of pack: uint32 [n]; refuses another length and set padding."""
    if len(data) != (n * width + 7) // 8:
        refuse(f"{len(data)} bytes for {n} values of {width} bits")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[n * width :].any():
        refuse("padding that is not zero")
    weights = np.uint32(1) << np.arange(width, dtype=np.uint32)
    return (bits[: n * width].reshape(n, width) * weights).sum(1, dtype=np.uint32)


@lru_cache(maxsize=1 << 16)
def omega(n: int) -> str:
    """Elias's recursive (omega) code of n >= 1, as QSGD uses it (Alistarh et al. 2017, appendix A.2; Elias
    1975)."""
    code = "0"
    while n > 1:
        code = f"{n:b}" + code
        n = n.bit_length() - 1
    return code


@lru_cache(maxsize=1 << 16)
def gamma(n: int) -> str:
    """Elias's gamma code of n >= 1."""
    return "0" * (n.bit_length() - 1) + f"{n:b}"


def to_bytes(bits: str) -> bytes:
    """A string of 0 and 1, first bit first (most significant), padded with zeros."""
    n = (len(bits) + 7) // 8
    return int(bits.ljust(8 * n, "0") or "0", 2).to_bytes(n, "big")


class Bits:
    """Reads what to_bytes wrote."""

    def __init__(self, data: bytes):
        self.bits, self.at = bin(int.from_bytes(b"\1" + data, "big"))[3:], 0

    def fixed(self, width: int) -> int:
        piece = self.bits[self.at : self.at + width]
        if len(piece) < width:
            refuse("it ends within a number")
        self.at += width
        return int(piece, 2) if width else 0

    def run(self, of: str) -> int:
        """Length of a run of one symbol, "0" or "1", and beyond the other one that ends it."""
        end = self.bits.find("1" if of == "0" else "0", self.at)
        if end < 0:
            refuse("it ends within a number")
        n, self.at = end - self.at, end + 1
        return n

    def omega(self) -> int:
        n = 1
        while self.fixed(1):
            if n > 40:
                refuse("a number beyond all bounds")
            self.at -= 1
            n = self.fixed(n + 1)
        return n

    def gamma(self) -> int:
        zeros = self.run("0")
        if zeros > 32:
            refuse("a number beyond all bounds")
        return 1 << zeros | self.fixed(zeros)

    def end(self) -> None:
        if len(self.bits) - self.at >= 8 or "1" in self.bits[self.at :]:
            refuse("something after its end")
