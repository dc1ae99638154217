"""Biased codes that need error feedback: STC (top-k, ternary), signs with a scale, low rank (PowerSGD)."""

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
    pack,
    parts,
    refuse,
    sizes,
    to_bytes,
    unpack,
)

GOLDEN = (math.sqrt(5) + 1) / 2


@dataclass(frozen=True)
class Stc:
    """Sparse ternary compression: the share `p` of values largest in magnitude, each as its sign times their
    mean magnitude; gaps between positions in Golomb codes with the paper's parameter."""

    p: float = 0.01
    source: str = (
        "STC, Sattler et al. 2019 (arXiv 1903.02891): algorithm 1 (ternary), section V-C and algorithms 3, "
        "4 (Golomb)"
    )
    unbiased: bool = False

    def __str__(self) -> str:
        return f"STC({self.p:.0%})"

    def _count(self, n: int) -> int:
        return max(1, min(n, round(self.p * n)))

    def _golomb(self, n: int) -> int:
        """Bits of a remainder: b* = 1 + floor(log2(log(golden - 1) / log(1 - p)))."""
        p = min(self._count(n) / n, 0.999)
        return max(0, 1 + math.floor(math.log2(math.log(GOLDEN - 1) / math.log(1 - p))))

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        x = checked(x, shapes)
        k, b = self._count(x.size), self._golomb(x.size)
        at = np.sort(np.argpartition(-np.abs(x), k - 1)[:k])
        mean = np.float32(np.abs(x[at].astype(np.float64)).mean())
        if mean == 0:
            return f32(0)
        gaps = (np.diff(at, prepend=-1) - 1).tolist()
        return f32(mean) + to_bytes(
            "".join(
                "1" * (g >> b) + "0" + (f"{g & ((1 << b) - 1):0{b}b}" if b else "") + "01"[negative]
                for g, negative in zip(gaps, (x[at] < 0).tolist(), strict=True)
            )
        )

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        n, take = sum(sizes(shapes)), Take(data)
        mean, x, at, b = take.scale(), np.zeros(n, np.float32), -1, self._golomb(n)
        if mean == 0:
            take.end()
            return x
        bits = Bits(take.rest())
        for _ in range(self._count(n)):
            at += 1 + (bits.run("1") << b | bits.fixed(b))
            if at >= n:
                refuse("a position beyond the end")
            x[at] = -mean if bits.fixed(1) else mean
        bits.end()
        return x


@dataclass(frozen=True)
class Sign:
    """One bit per value: sign(x) times the tensor's mean magnitude."""

    source: str = (
        "EF-SIGNSGD, Karimireddy et al. 2019 (arXiv 1901.09847), algorithm 1; both ways: Zheng et al. 2019 "
        "(1905.10936)"
    )
    unbiased: bool = False

    def __str__(self) -> str:
        return "sign"

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        x = checked(x, shapes)
        scales = b"".join(f32(np.abs(part.astype(np.float64)).mean()) for part in parts(x, shapes))
        return scales + pack(x < 0, 1)

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, counts = Take(data), sizes(shapes)
        scales = [take.scale() for _ in counts]
        negative = unpack(take.rest(), sum(counts), 1) > 0
        magnitude = np.repeat(np.array(scales, np.float32), counts)
        return np.where(negative, -magnitude, magnitude)


@dataclass(frozen=True)
class PowerSgd:
    """Rank-r factors of every matrix by one step of subspace iteration from the sender's last one (warm
    start); vectors go as float32.

    The paper averages the two factors of all workers in two all-reduces. Here each sender finishes alone and
    sends both factors, so one request and one answer make a round; its approximation is its own, for the same
    bytes as a shared one.
    """

    rank: int = 1
    source: str = (
        "PowerSGD, Vogels et al. 2019 (arXiv 1905.13727): algorithms 1 (rank-r, warm start) and 2 (error "
        "feedback)"
    )
    unbiased: bool = False

    def __str__(self) -> str:
        return f"PowerSGD({self.rank})"

    def _plain(self, shape: tuple[int, ...]) -> bool:
        return len(shape) != 2 or self.rank * sum(shape) >= math.prod(shape)

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        out = b""
        for index, (part, shape) in enumerate(zip(parts(checked(x, shapes), shapes), shapes, strict=True)):
            if self._plain(shape):
                out += part.astype("<f4").tobytes()
                continue
            m = part.reshape(shape).astype(np.float64)
            q = memory.get(index)
            if q is None:
                q = np.random.default_rng([seed, 3, index]).standard_normal((shape[1], self.rank))
            p = np.linalg.qr(m @ q)[0].astype(np.float32)
            q = (m.T @ p).astype(np.float32)
            if np.abs(q).max() > 0:
                memory[index] = q.astype(np.float64)
            out += p.astype("<f4").tobytes() + q.astype("<f4").tobytes()
        return out

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        take, out = Take(data), []
        for shape in shapes:
            if self._plain(shape):
                out.append(take.array("<f4", math.prod(shape)).astype(np.float32))
                continue
            p, q = (take.array("<f4", n * self.rank).reshape(n, self.rank) for n in shape)
            with np.errstate(all="ignore"):
                out.append((p @ q.T).astype(np.float32).reshape(-1))
        take.end()
        x = np.concatenate(out)
        if not np.isfinite(x).all():
            refuse("NaN or infinity")
        return x
