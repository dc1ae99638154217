"""`quantfl bench alternatives`: what else might code a delta in fewer bits than DZ, tried on deltas of real
rounds.

Messages are the deltas, with what error feedback adds, that boards send in runs whose ends both use DZ.
`known` is what a board and the host both have: the last update of the global head. Every way is told in ideal
bits (quantfl_lab.bench.ideal), and set against DZ's contexts at the same loss: `saved` is the share of DZ's
bits it would save, at the NMSE it has; DZ's bits at that loss come from a curve over its steps. Only a
message's own loss is seen there, not what later rounds make of it: where error feedback sends later what is
left out now, a message may look cheap that is not. So what changes the symbols alone is also run to the end,
in bytes of the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from quantfl.core.codec import Codec, Form, dz_read, dz_step, dz_value, dz_write
from quantfl.fleet.config import DownlinkTable
from quantfl_lab.bench import ideal, trellis
from quantfl_lab.bench.ablations import FP32, QUICK_ROUNDS, outcomes, summary
from quantfl_lab.bench.setting import Setting
from quantfl_lab.bench.tasks import SOURCES, present
from quantfl_lab.rivals import base, fleet
from quantfl_lab.rivals.base import Quantiser, Shapes, checked, sizes
from quantfl_lab.rivals.buckets import Ours
from quantfl_lab.rivals.rotated import hadamard
from quantfl_lab.rivals.schemes import Rival
from quantfl_lab.rivals.tasks import RivalTask, tasks

STEPS = (8.0, 4.0)
BETAS = (0.125, 0.25, 0.5, 1.0)
DEAD = (0.55, 0.6, 0.65, 0.7)
ROUNDS, KEPT_ROUNDS, MESSAGES = 20, 10, 40


@dataclass(frozen=True)
class Sample:
    """Of one task and step. x: float64 [messages, n], residual included; known: the same shape; step: float64
    [messages]; coded: bytes that DZ took in all."""

    task: str
    steps: float
    shapes: Shapes
    x: np.ndarray
    known: np.ndarray
    step: np.ndarray
    coded: int

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(log NMSE ascending, bits per weight) of DZ's contexts by step."""
        points = []
        for e in np.arange(-8, 17):
            s = _round(self.x / (self.step * 2.0 ** (e / 4))[:, None])
            points.append(
                (math.log(max(self.nmse(s * (self.step * 2.0 ** (e / 4))[:, None]), 1e-12)), self.bits(s))
            )
        points.sort()
        return np.array([p[0] for p in points]), np.array([p[1] for p in points])

    def nmse(self, decoded: np.ndarray) -> float:
        return float(((self.x - decoded) ** 2).sum() / (self.x**2).sum())

    def bits(
        self,
        symbols: np.ndarray,
        zero: np.ndarray | None = None,
        sign: np.ndarray | None = None,
        near: bool = True,
    ) -> float:
        """Ideal bits per weight of symbols int [messages, n]."""
        told = [
            ideal.decisions(
                s,
                self.shapes,
                near=near,
                zero=None if zero is None else zero[i],
                sign=None if sign is None else sign[i],
            )
            for i, s in enumerate(symbols)
        ]
        return float(ideal.bits(told).sum()) / self.x.size

    def saved(self, bits: float, nmse: float) -> float | None:
        """Share of DZ's bits at this loss; None where the loss is beyond all of DZ's steps."""
        losses, lengths = self.curve
        if not losses[0] <= math.log(nmse) <= losses[-1]:
            return None
        return 1 - bits / float(np.interp(math.log(nmse), losses, lengths))


def _round(x: np.ndarray, dead: float = 0.5) -> np.ndarray:
    """Symbols of x / step; zero up to `dead` steps, then as wide as ever."""
    return (np.sign(x) * np.floor(np.abs(x) + 1 - dead)).astype(int)


class _Tap:
    """A quantiser that keeps what it is given: (name, x, coded)."""

    def __init__(self, inner: Quantiser, name: str, events: list):
        self.inner, self.name, self.events, self.source, self.unbiased = (
            inner,
            name,
            events,
            inner.source,
            inner.unbiased,
        )

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        data = self.inner.encode(x, shapes, memory, seed)
        self.events.append((self.name, x.copy(), data))
        return data

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        return self.inner.decode(data, shapes, seed)


def capture(task: RivalTask, steps: float, quick: bool) -> Sample:
    """Run a task with DZ at a fixed step and take messages of its last rounds, as evenly as they come."""
    s, events = task.setting(seed=1, rounds=ROUNDS // 2 if quick else ROUNDS), []
    codec = Ours(Codec("dz", step=steps))
    fleet.history(s, Rival("DZ", _Tap(codec, "up", events), _Tap(codec, "down", events), feedback=True))
    known, found = np.zeros(s.params.size), []
    for name, x, data in events:
        symbols, form = dz_read(data, sizes(s.shapes))
        if name == "down":
            known = symbols * dz_value(form.code)
        elif form.code:
            found.append((x, known, dz_value(form.code), len(data)))
    found = found[len(found) // 2 :]
    found = found[:: max(1, len(found) // (12 if quick else MESSAGES))]
    x, before, step, coded = zip(*found, strict=True)
    return Sample(
        task.name,
        steps,
        s.shapes,
        np.array(x, float),
        np.array(before, float),
        np.array(step, float),
        sum(coded),
    )


Way = tuple[str, str, float, float]  # family, setting, bits per weight, NMSE


def _contexts(s: Sample) -> list[Way]:
    symbols = _round(s.x / s.step[:, None])
    loss = s.nmse(symbols * s.step[:, None])
    scale = np.sqrt((s.known**2).mean(1, keepdims=True))
    size = np.where(s.known == 0, 0, np.where(np.abs(s.known) <= 2 * scale, 1, 2))
    sign = np.where(s.known == 0, 0, np.where(s.known > 0, 1, 2))
    return [
        ("DZ as coded", "", 8 * s.coded / s.x.size, loss),
        ("no contexts", "", s.bits(symbols, near=False), loss),
        ("DZ's contexts", "", s.bits(symbols), loss),
        ("and magnitude of the last update", "", s.bits(symbols, zero=size), loss),
        ("and sign of the last update", "", s.bits(symbols, sign=sign), loss),
        ("and both", "", s.bits(symbols, zero=size, sign=sign), loss),
    ]


def _predictions(s: Sample) -> list[Way]:
    found = []
    for beta in BETAS:
        expected, step = beta * s.known, s.step[:, None]
        symbols = _round((s.x - expected) / step)
        found.append(
            (
                "prediction from the last update",
                f"times {beta:g}",
                s.bits(symbols),
                s.nmse(symbols * step + expected),
            )
        )
    return found


def _layers(s: Sample) -> list[Way]:
    """Steps that follow each tensor's root mean square, by a power of it."""
    found = []
    for power in (0.25, 0.5, 1.0):
        factor = np.concatenate(
            [
                np.repeat((np.sqrt((p**2).mean(1, keepdims=True)) + 1e-30), n, axis=1)
                for p, n in zip(
                    np.split(s.x, np.cumsum(sizes(s.shapes))[:-1], axis=1), sizes(s.shapes), strict=True
                )
            ],
            axis=1,
        )
        step = s.step[:, None] * (factor / np.sqrt((s.x**2).mean(1, keepdims=True))) ** power
        symbols = _round(s.x / step)
        found.append(
            ("a step per tensor", f"its rms to the {power:g}", s.bits(symbols), s.nmse(symbols * step))
        )
    return found


def _dead_zones(s: Sample) -> list[Way]:
    found, step = [], s.step[:, None]
    for dead in DEAD:
        symbols = _round(s.x / step, dead)
        found.append(
            ("wider dead zone", f"zero up to {dead:g} steps", s.bits(symbols), s.nmse(symbols * step))
        )
    symbols = _round(s.x / step)
    for back in (0.03, 0.06, 0.1):
        value = (symbols - back * np.sign(symbols)) * step
        found.append(("reconstruction nearer to zero", f"by {back:g} steps", s.bits(symbols), s.nmse(value)))
    return found


def _trellis(s: Sample) -> list[Way]:
    """Dependent quantisation; a bit's worth as of a uniform quantiser at high rate (6 dB a bit), and half and
    twice that."""
    found, unit = [], s.step[:, None]
    x = s.x / unit
    for step in (0.5, 0.65):
        for worth in (0.5, 1.0, 2.0):
            lam = worth * 2 * math.log(2) * (2 * step) ** 2 / 12
            cost = np.array([[0.3, *(3.0 + m for m in range(8))]] * 2)
            for _ in range(2):
                k = trellis.encode(x, step, lam, cost)
                decoded, odd = trellis.decode(k, step)
                counts = np.array(
                    [
                        np.bincount(np.minimum(np.abs(k[odd == o]), 8), minlength=9) + 0.5
                        for o in (False, True)
                    ]
                )
                cost = -np.log2(counts / counts.sum(1, keepdims=True)) + (np.arange(9) > 0)
            bits = s.bits(k, zero=odd.astype(int))
            found.append(
                ("trellis, 4 states", f"step {step:g}, worth {worth:g}", bits, s.nmse(decoded * unit))
            )
    return found


def _low_rank(s: Sample) -> list[Way]:
    """The kernels' best approximation of a rank, factors of 8 bits a value, biases as float32: a bound for
    PowerSGD and its kin."""
    found = []
    for rank in (1, 2, 4):
        decoded, bits = np.zeros_like(s.x), 0
        for i, x in enumerate(s.x):
            out = []
            for part, shape in zip(base.parts(x, s.shapes), s.shapes, strict=True):
                if len(shape) == 1:
                    out.append(part)
                    bits += 32 * part.size
                    continue
                u, v, w = np.linalg.svd(part.reshape(shape), full_matrices=False)
                out.append(((u[:, :rank] * v[:rank]) @ w[:rank]).reshape(-1))
                bits += 8 * rank * sum(shape)
            decoded[i] = np.concatenate(out)
        found.append(("low rank, best", f"rank {rank}", bits / s.x.size, s.nmse(decoded)))
    return found


def _subspaces(s: Sample) -> list[Way]:
    """Seeded random subspace (signs, Hadamard, a choice of coordinates), DZ within it at fine steps."""
    n, found, rng = s.x.shape[1], [], np.random.default_rng(1)
    size = 1 << (n - 1).bit_length()
    for share in (4, 2):
        kept = rng.choice(size, size // share, replace=False)
        flips = rng.choice((-1.0, 1.0), size)
        decoded, told = np.zeros_like(s.x), []
        for i, x in enumerate(s.x):
            y = hadamard(np.pad(x, (0, size - n)) * flips)[kept]
            step = float(np.sqrt((y**2).mean()))
            symbols = _round(y / step)
            told.append(ideal.decisions(symbols, ((symbols.size,),), near=False))
            back = np.zeros(size)
            back[kept] = symbols * step
            decoded[i] = (hadamard(back) * flips)[:n]
        found.append(
            (
                "seeded subspace",
                f"1/{share} of the dimensions",
                float(ideal.bits(told).sum()) / s.x.size,
                s.nmse(decoded),
            )
        )
    return found


WAYS: Sequence[Callable[[Sample], list[Way]]] = (
    _contexts,
    _predictions,
    _layers,
    _dead_zones,
    _trellis,
    _low_rank,
    _subspaces,
)


@dataclass(frozen=True)
class DeadZone:
    """DZ with a dead zone of `dead` steps (DZ: a half), decoded `back` steps nearer to zero, symbols of at
    most `most` (boards: 2; 0: of any size); the step is `steps` times the rms of the delta without its
    residual."""

    steps: float
    dead: float = 0.5
    back: float = 0.0
    most: int = 0
    source: str = "docs/CODEC.md; Sullivan 1996 (dead zones and reconstruction points)"
    unbiased: bool = False

    def __str__(self) -> str:
        return (
            f"step {self.steps:g} rms, zero up to {self.dead:g} steps, {self.back:g} nearer to zero, at "
            f"most {self.most or 'any'}"
        )

    def encode(self, x: np.ndarray, shapes: Shapes, memory: dict, seed: int) -> bytes:
        form = Form(dz_step(memory.get("fresh", x), self.steps))
        symbols = _round(checked(x, shapes).astype(float) / dz_value(form.code), self.dead)
        if self.most:
            symbols = symbols.clip(-self.most, self.most)
        return dz_write(symbols, form, sizes(shapes))

    def decode(self, data: bytes, shapes: Shapes, seed: int) -> np.ndarray:
        symbols, form = dz_read(data, sizes(shapes))
        return ((symbols - self.back * np.sign(symbols)) * dz_value(form.code)).astype(np.float32)


DOWN = DownlinkTable(step=8.0, step_end=2.0, dither=0.6)


def _led(task: RivalTask, seed: int, rounds: int | None) -> Setting:
    """A task whose boards are led as DOWN says, whatever the default is."""
    s = task.setting(seed, rounds)
    return replace(s, config=s.config.model_copy(update={"downlink": DOWN}))


def _runs(some: list[RivalTask], quick: bool) -> list[dict]:
    """Whole runs with error feedback in float32, one step from begin to end, DOWN down."""
    plain, dead = [(0.5, 0.0, most) for most in (0, 1, 2, 4)], [(zero, 0.0, 0) for zero in (0.6, 0.75, 1.0)]
    codes = [
        DeadZone(steps, *shape)
        for steps in (4.0, 3.0)
        for shape in (*plain, *dead, (0.5, 0.06, 0), (0.75, 0.1, 0))
    ]
    seeds, rows = (1,) if quick else (1, 2, 3), []
    for task in some:
        makes = [partial(_led, task, seed, QUICK_ROUNDS if quick else None) for seed in seeds]
        done = outcomes(makes, [FP32, *(Rival(str(q), q, "ours", feedback=True) for q in codes)])
        for q in codes:
            runs, end = done[str(q)], summary(done[str(q)], done[FP32.name])
            rows.append(
                {
                    "task": task.name,
                    "steps": q.steps,
                    "dead_zone": q.dead,
                    "nearer": q.back,
                    "most": q.most,
                    "seeds": len(seeds),
                    "accuracy": end["accuracy"],
                    "fp32_accuracy": float(np.mean([r.accuracy for r in done[FP32.name]])),
                    "up_bytes": round(float(np.mean([r.up for r in runs]))),
                    "down_bytes": round(float(np.mean([r.down for r in runs]))),
                    "bytes_to_target": end["bytes_to_target"],
                }
            )
    return rows


def run(quick: bool = False) -> list[dict]:
    """One row per task, step of the run, family and setting; then those of whole runs."""
    rows = []
    some = tasks(quick) + [
        RivalTask(s.name) for s in SOURCES if not quick and s.name == "cifar100" and present(s)
    ]
    for task in some:
        for steps in STEPS[:1] if quick else STEPS:
            sample = capture(task, steps, quick)
            for way in WAYS:
                for family, setting, bits, loss in way(sample):
                    rows.append(
                        {
                            "task": task.name,
                            "weights": sample.x.shape[1],
                            "messages": len(sample.x),
                            "step": steps,
                            "family": family,
                            "setting": setting,
                            "bits_per_weight": bits,
                            "nmse": loss,
                            "saved": sample.saved(bits, loss),
                        }
                    )
    return rows + _runs(some, quick)
