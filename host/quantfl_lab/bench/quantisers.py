"""`quantfl bench quantisers`: what a code loses against what it costs, for one message.

NMSE = |x - decoded|^2 / |x|^2 against bits per weight of the coded message (all of it: scales, steps,
positions), on independent normal and Laplace values and on deltas of a real round. No error feedback: one
message alone. `excess_bits`, on normal values: bits per weight beyond the rate-distortion bound log2(1 /
NMSE) / 2 for the same loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantfl.core.codec import LEVELS, Codec
from quantfl_lab.bench.pictures import Axis, Series, draw
from quantfl_lab.rivals import fleet
from quantfl_lab.rivals.base import Quantiser, Shapes
from quantfl_lab.rivals.buckets import Compressed, Ours
from quantfl_lab.rivals.rotated import Eden
from quantfl_lab.rivals.schemes import Rival
from quantfl_lab.rivals.simple import Float, Int8
from quantfl_lab.rivals.sparse import PowerSgd, Sign, Stc
from quantfl_lab.rivals.stochastic import FedPaq, Qsgd, TernGrad
from quantfl_lab.rivals.tasks import tasks

STEPS = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Family:
    """Settings of one code, from coarse to fine. ours: one that boards have."""

    name: str
    members: tuple[Quantiser, ...]
    ours: bool = False


def _codec(kind: str, values=LEVELS, **options) -> tuple[Quantiser, ...]:
    return tuple(Ours(Codec(kind, n, **options)) for n in values)


FAMILIES = (
    Family("DZ", tuple(Ours(Codec("dz", step=s)) for s in reversed(STEPS)), True),
    Family("BU, coded", _codec("bu", LEVELS[:-1], coded=True), True),
    Family("BU, bucket means, coded", _codec("bu", LEVELS[:-1], means=True, coded=True), True),
    Family("BU", _codec("bu"), True),
    Family("BQ", _codec("bq"), True),
    Family("BU + zlib/lzma/bzip2", tuple(Compressed(n) for n in LEVELS)),
    Family("EDEN", tuple(Eden(b) for b in (1, 2, 3, 4, 6))),
    Family("QSGD, max-norm, bucket 512", tuple(Qsgd(s, 512, "max") for s in (1, 3, 7, 15, 127))),
    Family("QSGD, l2, whole message", tuple(Qsgd(s, None, "l2") for s in (1, 8, 36, 128))),
    Family("FedPAQ", tuple(FedPaq(s) for s in (1, 5, 10))),
    Family("TernGrad", (TernGrad(),)),
    Family("STC", tuple(Stc(p) for p in (0.01, 0.05, 0.1, 0.2))),
    Family("sign", (Sign(),)),
    Family("PowerSGD", tuple(PowerSgd(r) for r in (1, 2, 4))),
    Family("int8, fp16", (Int8(), Float(16))),
)


@dataclass(frozen=True)
class Sample:
    """Vectors float32 [n] of one kind, made of tensors `shapes`."""

    name: str
    shapes: Shapes
    vectors: list[np.ndarray]


def samples(quick: bool) -> list[Sample]:
    """Normal and Laplace values, and deltas of the first and the fifth round of every task that can be had
    here."""
    shapes, count = ((128, 32) if quick else (256, 64),), 3
    rng = np.random.default_rng(1)
    n = math.prod(shapes[0])
    found = [
        Sample("normal", shapes, [rng.standard_normal(n).astype(np.float32) for _ in range(count)]),
        Sample("Laplace", shapes, [rng.laplace(size=n).astype(np.float32) for _ in range(count)]),
    ]
    for task in tasks(quick):
        s = task.setting(seed=1, rounds=5)
        seen: dict[int, list[np.ndarray]] = {1: [], 5: []}
        fleet.history(s, Rival("fp32", Float(32)), lambda r, i, d, seen=seen: seen.get(r, []).append(d))
        found += [
            Sample(f"{task.name}, round {r}", s.shapes, deltas[: 4 if quick else 10])
            for r, deltas in seen.items()
        ]
    return found


def measure(q: Quantiser, sample: Sample) -> tuple[float, float]:
    """(bits per weight, NMSE), means over the vectors."""
    bits, losses = [], []
    for seed, x in enumerate(sample.vectors):
        memory: dict = {}
        for _ in range(4 if isinstance(q, PowerSgd) else 1):  # a warm start, as after some rounds
            data = q.encode(x, sample.shapes, memory, seed)
        error = q.decode(data, sample.shapes, seed).astype(np.float64) - x
        bits.append(8 * len(data) / x.size)
        losses.append(float(error @ error) / float(x.astype(np.float64) @ x))
    return float(np.mean(bits)), float(np.mean(losses))


def run(quick: bool = False) -> list[dict]:
    """One row per data, family and setting."""
    rows = []
    for sample in samples(quick):
        for family in FAMILIES:
            for q in family.members:
                bits, loss = measure(q, sample)
                rows.append(
                    {
                        "data": sample.name,
                        "weights": sample.vectors[0].size,
                        "family": family.name,
                        "quantiser": str(q),
                        "ours": family.ours,
                        "unbiased": q.unbiased,
                        "bits_per_weight": bits,
                        "nmse": loss,
                        "excess_bits": bits - 0.5 * math.log2(1 / loss)
                        if sample.name == "normal" and 0 < loss < 1
                        else None,
                    }
                )
    return rows


def plots(rows: list[dict], folder: Path) -> list[Path]:
    """One picture per kind of data."""
    written = []
    for data in dict.fromkeys(r["data"] for r in rows):
        mine = [r for r in rows if r["data"] == data]
        series = [
            Series(
                f,
                [(r["bits_per_weight"], r["nmse"]) for r in mine if r["family"] == f],
                emphasis=f in ("DZ", "BU, coded"),
            )
            for f in dict.fromkeys(r["family"] for r in mine)
        ]
        bound = (
            Series("rate-distortion bound", [(b / 10, 2.0 ** (-b / 5)) for b in range(1, 81)])
            if data == "normal"
            else None
        )
        name = data.replace(", round ", "-").lower()
        written.append(
            draw(
                folder / f"quantisers-{name}.png",
                series,
                Axis("bits per weight", log=True, limits=(0.08, 10)),
                Axis("NMSE", log=True, limits=(1e-4, 30)),
                title=f"What one message loses: {data}",
                bound=bound,
            )
        )
    return written
