"""EDEN: randomised Hadamard rotation, Lloyd-Max quantiser of the normal distribution, unbiased scale."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quantfl_lab.rivals.base import Shapes, Take, checked, f32, pack, sizes, unpack

SMALLEST = 64  # a rest below this is one chunk, padded


@lru_cache(maxsize=8)
def lloyd_max(bits: int) -> np.ndarray:
    """Centroids float64 [2^bits] of the quantiser of least mean squared error for N(0, 1) (Lloyd 1982; Max
    1960)."""

    def cdf(v: float) -> float:
        return 0.5 * (1 + math.erf(v / math.sqrt(2)))

    def pdf(v: float) -> float:
        return math.exp(-0.5 * v * v) / math.sqrt(2 * math.pi) if math.isfinite(v) else 0.0

    n = 1 << bits
    c = np.linspace(-2, 2, n) if n > 2 else np.array([-0.8, 0.8])
    for _ in range(20000):
        edges = [-math.inf, *((c[1:] + c[:-1]) / 2), math.inf]
        new = np.array([(pdf(a) - pdf(b)) / (cdf(b) - cdf(a)) for a, b in itertools.pairwise(edges)])
        done = np.abs(new - c).max() < 1e-12
        c = new
        if done:
            break
    return (c - c[::-1]) / 2


def hadamard(x: np.ndarray) -> np.ndarray:
    """Orthonormal Walsh-Hadamard transform of x [2^k]; its own inverse."""
    n, y = x.size, x.astype(np.float64)
    other = np.empty_like(y)
    h = 1
    while h < n:
        pairs, out = y.reshape(-1, 2, h), other.reshape(-1, 2, h)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        y, other = other, y
        h *= 2
    return y / math.sqrt(n)


def chunks(n: int) -> list[tuple[int, int]]:
    """(values, padded to a power of two) of the pieces that are rotated apart: whole powers of two, largest
    first, while there are at least SMALLEST values left. One padded vector would cost up to twice the
    bytes."""
    out = []
    while n >= SMALLEST:
        size = 1 << (n.bit_length() - 1)
        out.append((size, size))
        n -= size
    if n:
        out.append((n, 1 << (n - 1).bit_length()))
    return out


@dataclass(frozen=True)
class Eden:
    """bits per coordinate: 1, 2, 4, or any up to 8. The rotation comes from the seed both ends know. Vectors
    are cut into chunks of powers of two, one float32 scale each."""

    bits: int = 4
    source: str = (
        "EDEN, Vargaftik et al. 2022 (arXiv 2108.08842): section 3, algorithm 1, theorem 2.1 (scale); "
        "Hadamard as in its 4.3"
    )
    unbiased: bool = True

    def __str__(self) -> str:
        return f"EDEN({self.bits})"

    @staticmethod
    def _signs(seed: int, index: int, size: int) -> np.ndarray:
        return np.random.default_rng([seed, 2, index]).integers(0, 2, size) * 2.0 - 1.0

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        x, centroids = checked(x, shapes).astype(np.float64), lloyd_max(self.bits)
        edges = (centroids[1:] + centroids[:-1]) / 2
        scales, codes, at = b"", [], 0
        for index, (n, size) in enumerate(chunks(x.size)):
            piece = np.pad(x[at : at + n], (0, size - n))
            square = float(piece @ piece)
            y = hadamard(piece * self._signs(seed, index, size))
            code = (
                np.searchsorted(edges, y * math.sqrt(size / square))
                if square > 0
                else np.zeros(size, np.int64)
            )
            product = float(y @ centroids[code])
            scales += f32(square / product if product > 0 else 0.0)
            codes.append(code)
            at += n
        return scales + pack(np.concatenate(codes), self.bits)

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, pieces = Take(data), chunks(sum(sizes(shapes)))
        scales = [take.scale() for _ in pieces]
        codes, centroids = unpack(take.rest(), sum(s for _, s in pieces), self.bits), lloyd_max(self.bits)
        out, at = [], 0
        for index, (n, size) in enumerate(pieces):
            y = hadamard(centroids[codes[at : at + size]]) * self._signs(seed, index, size)
            out.append(scales[index] * y[:n])
            at += size
        return np.concatenate(out).astype(np.float32)
