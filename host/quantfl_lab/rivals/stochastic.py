"""Unbiased stochastic rounding: QSGD, FedPAQ, TernGrad."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantfl_lab.rivals.base import (
    Bits,
    Shapes,
    Take,
    checked,
    f32,
    gamma,
    omega,
    pack,
    parts,
    refuse,
    sizes,
    to_bytes,
    unpack,
)


def _buckets(n: int, bucket: int | None) -> list[int]:
    """Lengths of consecutive buckets of n values."""
    if bucket is None or bucket >= n:
        return [n]
    return [bucket] * (n // bucket) + ([n % bucket] if n % bucket else [])


def _round(x: np.ndarray, norm: np.float32, levels: int, rng: np.random.Generator) -> np.ndarray:
    """QSGD's levels int64: sign(x) * l with l / levels = |x| / norm in the mean (Alistarh et al. 2017,
    section 3.1)."""
    if norm == 0:
        return np.zeros(x.size, np.int64)
    away = np.abs(x).astype(np.float64) / float(norm) * levels
    floor = np.floor(away)
    level = np.minimum(
        floor + (rng.random(x.size) < away - floor), levels
    )  # norm is rounded: |x| may exceed it by a hair
    return np.sign(x).astype(np.int64) * level.astype(np.int64)


@dataclass(frozen=True)
class Qsgd:
    """QSGD with Elias coding. levels: s. bucket: values that share a norm, None: all. norm: "l2" as the
    theory has it, or "max" as its experiments do. elias: "omega" (the paper's) or "gamma".

    The shorter of the paper's two codes goes out, which is said in the first bit: sparse (gaps between
    non-zero values, then sign and level) or dense (level + 1 of every value, then a sign where it is not
    zero).
    """

    levels: int = 7
    bucket: int | None = 512
    norm: str = "max"
    elias: str = "omega"
    source: str = (
        "QSGD, Alistarh et al. 2017 (arXiv 1610.02132): 3.1 quantiser, 3.2 and appendix A codes, 4 buckets "
        "and max-norm"
    )
    unbiased: bool = True

    def __str__(self) -> str:
        bucket = "" if self.bucket is None else f", bucket {self.bucket}"
        return f"QSGD(s={self.levels}, {self.norm}{bucket})"

    def _norm(self, x: np.ndarray) -> np.float32:
        return np.float32(
            np.linalg.norm(x.astype(np.float64)) if self.norm == "l2" else np.abs(x).max(initial=0.0)
        )

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        x, rng = checked(x, shapes), np.random.default_rng([seed, 1])
        norms, codes, at = b"", [], 0
        for n in _buckets(x.size, self.bucket):
            norm = self._norm(x[at : at + n])
            norms += f32(norm)
            codes.append(_round(x[at : at + n], norm, self.levels, rng))
            at += n
        levels = np.concatenate(codes)
        bits = min("0" + self._dense(levels), "1" + self._sparse(levels), key=len)
        return norms + to_bytes(bits)

    def _dense(self, levels: np.ndarray) -> str:
        code = omega if self.elias == "omega" else gamma
        table = {
            v: code(abs(v) + 1) + ("" if v == 0 else "01"[v < 0])
            for v in range(-self.levels, self.levels + 1)
        }
        return "".join([table[v] for v in levels.tolist()])

    def _sparse(self, levels: np.ndarray) -> str:
        code = omega if self.elias == "omega" else gamma
        at = np.flatnonzero(levels)
        gaps = np.diff(at, prepend=-1).tolist()
        values = levels[at].tolist()
        return code(len(at) + 1) + "".join(
            [code(g) + "01"[v < 0] + code(abs(v)) for g, v in zip(gaps, values, strict=True)]
        )

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, n = Take(data), sum(sizes(shapes))
        buckets = _buckets(n, self.bucket)
        norms = [take.scale() for _ in buckets]
        bits = Bits(take.rest())
        number = bits.omega if self.elias == "omega" else bits.gamma
        levels = np.zeros(n, np.int64)
        if bits.fixed(1):
            at = -1
            for _ in range(number() - 1):
                at += number()
                if at >= n:
                    refuse("a position beyond the end")
                sign = bits.fixed(1)
                levels[at] = -number() if sign else number()
        else:
            for i in range(n):
                v = number() - 1
                if v:
                    levels[i] = -v if bits.fixed(1) else v
        bits.end()
        scale = np.repeat(np.array(norms, np.float64) / self.levels, buckets)
        if np.abs(levels).max(initial=0) > self.levels or levels[scale == 0].any():
            refuse("a level beyond the last")
        return (levels * scale).astype(np.float32)


@dataclass(frozen=True)
class FedPaq:
    """FedPAQ's low-precision quantiser: QSGD's with one l2 norm, of `levels` levels. The paper counts bits
    without saying how levels are packed; here sign and level take ceil(log2(2 levels + 1)) bits."""

    levels: int = 10
    source: str = (
        "FedPAQ, Reisizadeh et al. 2020 (arXiv 1909.13014): algorithm 1, example 1 (quantiser), section 5 "
        "(s = 1, 5, 10)"
    )
    unbiased: bool = True

    def __str__(self) -> str:
        return f"FedPAQ(s={self.levels})"

    @property
    def _width(self) -> int:
        return math.ceil(math.log2(2 * self.levels + 1))

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        x = checked(x, shapes)
        norm = np.float32(np.linalg.norm(x.astype(np.float64)))
        levels = _round(x, norm, self.levels, np.random.default_rng([seed, 1]))
        return f32(norm) + pack(levels + self.levels, self._width)

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take = Take(data)
        norm = take.scale()
        levels = unpack(take.rest(), sum(sizes(shapes)), self._width).astype(np.int64) - self.levels
        if levels.max(initial=0) > self.levels:
            refuse("a level beyond the last")
        return (levels * (norm / self.levels)).astype(np.float32)


@dataclass(frozen=True)
class TernGrad:
    """Ternary values per tensor: max|x| * sign(x) * Bernoulli(|x| / max|x|), five to a byte. clip: values
    beyond so many standard deviations are cut off first (which biases them), None: none."""

    clip: float | None = 2.5
    source: str = (
        "TernGrad, Wen et al. 2017 (arXiv 1705.07878): 3.1 ternarising, 3.3 per layer, clipping at 2.5 sigma"
    )

    @property
    def unbiased(self) -> bool:
        return self.clip is None

    def __str__(self) -> str:
        return "TernGrad" if self.clip else "TernGrad, no clipping"

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        rng, out = np.random.default_rng([seed, 1]), b""
        for part in parts(checked(x, shapes), shapes):
            if self.clip is not None:
                bound = np.float32(self.clip * part.astype(np.float64).std())
                part = np.clip(part, -bound, bound) if bound > 0 else part
            scale = np.abs(part).max(initial=np.float32(0))
            trits = 1 + _round(part, scale, 1, rng)
            trits = np.pad(trits, (0, -trits.size % 5), constant_values=1).reshape(-1, 5)
            out += f32(scale) + (trits @ (3 ** np.arange(5))).astype(np.uint8).tobytes()
        return out

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, out = Take(data), []
        for n in sizes(shapes):
            scale, packed = take.scale(), take.array("u1", -(-n // 5)).astype(np.int64)
            if packed.max(initial=0) >= 3**5:
                refuse("a byte that is not five ternary digits")
            trits = (packed[:, None] // (3 ** np.arange(5)) % 3 - 1).reshape(-1)
            if trits[n:].any() or (scale == 0 and trits.any()):
                refuse("digits where there are no values")
            out.append(trits[:n].astype(np.float32) * np.float32(scale))
        take.end()
        return np.concatenate(out)
