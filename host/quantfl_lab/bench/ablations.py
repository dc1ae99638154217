"""`quantfl bench ablations`: the paper's ablations, measured here: levels, initialisation, error feedback.

QuantFL (arXiv 2603.17507) reports ablations of the number of levels and of the initialisation; what we could
read of it (abstract, introduction) does not give model, clients, rounds, range or rounding, so the setting is
ours: tasks as in `quantfl bench bytes`, head trained on packaged features (levels, feedback), or a whole MLP
(initialisation: quantfl_lab.bench.starts). Uplink coded, downlink float32, as in the paper's main setting; no
error feedback unless said. Bytes are of the wire, per link, all overhead counted. Finished runs are kept, as
those of `quantfl bench bytes` are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from quantfl.core.codec import LEVELS, Codec, CodecError
from quantfl.errors import RunError
from quantfl_lab.bench import starts
from quantfl_lab.bench.bytes import code_version
from quantfl_lab.bench.pictures import Axis, Series, draw
from quantfl_lab.bench.setting import Setting, cache_folder
from quantfl_lab.rivals import fleet
from quantfl_lab.rivals.base import Quantiser
from quantfl_lab.rivals.buckets import Ours
from quantfl_lab.rivals.schemes import Rival
from quantfl_lab.rivals.simple import Float
from quantfl_lab.rivals.tasks import tasks

STEPS = (0.5, 1, 2, 3, 4, 6, 8)
QUICK_ROUNDS = 15
FEW_TESTS = 1000
TARGET = 0.005


def tolerance(tests: int) -> float:
    """How far below fp32's accuracy still counts as equal in the feedback ablation: 0.3 points, or a whole
    one where there are too few test samples to tell less apart."""
    return 0.003 if tests >= FEW_TESTS else 0.01


@dataclass(frozen=True)
class Outcome:
    """One run. accuracy: mean of its last five rounds, 0 when it diverged. bits: per weight of its coded
    deltas. up, down: bytes per link. curve: per round (bytes per link so far, accuracy). spread: means over
    all deltas of rms, excess kurtosis, range / rms, entropies of BU(64) and BU(16), bits per weight of
    DZ(4)."""

    accuracy: float
    bits: float
    up: float
    down: float
    curve: tuple[tuple[float, float], ...]
    spread: tuple[float, ...]
    diverged: bool = False

    def bytes_to(self, target: float) -> float | None:
        return next((b for b, a in self.curve if a >= target), None)

    def rounds_to(self, target: float) -> int | None:
        return next((i + 1 for i, (_, a) in enumerate(self.curve) if a >= target), None)


NAN = float("nan")
DIVERGED = Outcome(0.0, NAN, NAN, NAN, (), (), True)
Make = Callable[[], Setting]


def outcome(s: Setting, rival: Rival) -> Outcome:
    """Run a scheme in a setting."""
    spread: list[tuple[float, ...]] = []

    def watch(round_: int, board: int, d: np.ndarray) -> None:
        if d.any() and np.isfinite(d).all():
            coded = 8 * len(Codec("dz", step=4.0).encode(d, [d.size])) / d.size
            rms = float(np.sqrt(np.mean(d.astype(np.float64) ** 2)))
            spread.append(
                (
                    rms,
                    starts.kurtosis(d),
                    starts.spread(d),
                    starts.entropy(d, 64),
                    starts.entropy(d, 16),
                    coded,
                )
            )

    try:
        h = fleet.history(s, rival, watch if rival == FP32 else None)
    except (RunError, CodecError):  # the head or a delta is no longer finite
        return DIVERGED
    links, weights = len(s.clients), s.params.size
    moved = [(r["up_bytes"] - h[0]["up_bytes"], r["down_bytes"] - h[0]["down_bytes"]) for r in h[1:]]
    coded = [b["delta_bytes"] for r in h[1:] for b in r["boards"].values()]
    curve = tuple(((u + d) / links, r["accuracy"]) for (u, d), r in zip(moved, h[1:], strict=True))
    return Outcome(
        float(np.mean([r["accuracy"] for r in h[-5:]])),
        8 * float(np.mean(coded)) / weights,
        moved[-1][0] / links,
        moved[-1][1] / links,
        curve,
        tuple(map(float, np.mean(spread, axis=0))) if spread else (),
    )


def _one(job: tuple[Make, Rival]) -> Outcome:
    """A run from the cache (quantfl_lab.bench.setting.cache_folder), or made now."""
    make, rival = job
    s = make()
    start = hashlib.sha256(s.params.tobytes()).hexdigest()
    text = f"{code_version()}/{s.config.model_dump_json()}/{start}/{rival.key}"
    kept = cache_folder() / "ablations" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if kept.exists():
        raw = json.loads(kept.read_text())
        return Outcome(**raw | {"curve": tuple(map(tuple, raw["curve"])), "spread": tuple(raw["spread"])})
    found = outcome(s, rival)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(vars(found)))
    os.replace(part, kept)
    return found


def outcomes(makes: list[Make], rivals: Iterable[Rival]) -> dict[str, list[Outcome]]:
    """Runs of every rival, by name, in every setting, in as many processes as there are cores."""
    rivals = list(rivals)
    jobs = [(make, rival) for rival in rivals for make in makes]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        done = list(pool.map(_one, jobs))
    return {r.name: done[i * len(makes) : (i + 1) * len(makes)] for i, r in enumerate(rivals)}


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _all(quick: bool) -> list[tuple[str, list[Make], int]]:
    """(task, settings of every seed, test samples)."""
    rounds, seeds = (QUICK_ROUNDS, (1,)) if quick else (None, (1, 2, 3))
    found = []
    for task in tasks(quick):
        makes: list[Make] = [partial(task.setting, seed, rounds) for seed in seeds]
        found.append((task.name, makes, len(makes[0]().test[1])))
    return found


FP32 = Rival("fp32", Float(32))


def summary(runs: list[Outcome], plain: list[Outcome]) -> dict:
    """Means over seeds beside fp32's."""
    target = float(np.mean([p.accuracy for p in plain])) - TARGET
    reached, base = [r.bytes_to(target) for r in runs], [p.bytes_to(target) for p in plain]
    up = float(np.mean([r.up for r in runs]))
    total, whole = up + float(np.mean([r.down for r in runs])), float(np.mean([p.up + p.down for p in plain]))
    known = None not in reached and None not in base
    return {
        "accuracy": float(np.mean([r.accuracy for r in runs])),
        "accuracy_sd": float(np.std([r.accuracy for r in runs])),
        "bits_per_weight": float(np.mean([r.bits for r in runs])),
        "uplink_saved": 1 - up / float(np.mean([p.up for p in plain])),
        "total_saved": 1 - total / whole,
        "bytes_to_target": _mean(reached),
        "ratio_to_fp32": float(np.mean([b / r for b, r in zip(base, reached, strict=True)]))
        if known
        else None,
    }


def levels(quick: bool) -> list[dict]:
    """BU and BQ by number of levels, fixed length and with coded indices."""
    rows = []
    codecs = [
        (kind.upper(), n, coded, Ours(Codec(kind, n, coded=coded)))
        for kind in ("bu", "bq")
        for coded in (False, True)
        for n in LEVELS
        if n <= 64 or not coded
    ]
    codecs += [("BU, means", n, True, Ours(Codec("bu", n, means=True, coded=True))) for n in (4, 8, 16)]
    for task, makes, _ in _all(quick):
        done = outcomes(makes, [FP32, *(Rival(str(q), q) for *_, q in codecs)])
        for name, n, coded, q in [("fp32", None, False, "fp32"), *codecs]:
            rows.append(
                {
                    "ablation": "levels",
                    "task": task,
                    "codec": name,
                    "levels": n,
                    "coded": coded,
                    "seeds": len(makes),
                }
                | summary(done[str(q)], done["fp32"])
            )
    return rows


def _families() -> list[tuple[str, str, Quantiser]]:
    """(family, setting, quantiser), from fine to coarse."""
    return [
        *(("BU, coded", f"L = {n}", Ours(Codec("bu", n, coded=True))) for n in (64, 32, 16, 8, 4)),
        *(("DZ", f"step {k:g} rms", Ours(Codec("dz", step=k))) for k in STEPS),
    ]


def feedback(quick: bool) -> list[dict]:
    """Error feedback on and off, from 5 bits per weight to a tenth; residuals in float32."""
    rows = []
    for task, makes, tests in _all(quick):
        rivals = [Rival(f"{q}, {on}", q, feedback=on) for *_, q in _families() for on in (False, True)]
        done = outcomes(makes, [FP32, *rivals])
        plain = float(np.mean([r.accuracy for r in done["fp32"]]))
        for family, name, q in _families():
            for on in (False, True):
                runs = done[f"{q}, {on}"]
                rows.append(
                    {
                        "ablation": "feedback",
                        "task": task,
                        "codec": family,
                        "setting": name,
                        "feedback": on,
                        "seeds": len(makes),
                        "bits_per_weight": float(np.mean([r.bits for r in runs])),
                        "accuracy": float(np.mean([r.accuracy for r in runs])),
                        "accuracy_sd": float(np.std([r.accuracy for r in runs])),
                        "below_fp32": plain - float(np.mean([r.accuracy for r in runs])),
                        "tolerance": tolerance(tests),
                        "diverged": sum(r.diverged for r in runs),
                    }
                )
    return rows


def fewest_bits(rows: list[dict]) -> list[dict]:
    """Where feedback stops being dispensable: the fewest bits per weight that keep fp32's accuracy (to
    `tolerance`), with and without it, from the fine end on."""
    out = []
    for task, family in dict.fromkeys((r["task"], r["codec"]) for r in rows):
        within = next(r["tolerance"] for r in rows if r["task"] == task)
        row = {"ablation": "feedback limit", "task": task, "codec": family, "tolerance": within}
        for on in (False, True):
            mine = [r for r in rows if (r["task"], r["codec"], r["feedback"]) == (task, family, on)]
            good = []
            for r in mine:  # from fine to coarse, up to the first that falls short
                if not r["below_fp32"] <= r["tolerance"]:
                    break
                good.append(r)
            key = "with" if on else "without"
            last = good[-1] if good else {"bits_per_weight": None, "setting": None}
            row |= {f"bits_{key}": last["bits_per_weight"], f"setting_{key}": last["setting"]}
        out.append(row)
    return out


def initialisation(quick: bool) -> list[dict]:
    """How concentrated updates are, and what BU costs, from a pre-trained and from a random start; all layers
    trained.

    Each start has the learning rate that serves float32 best, so that neither is held back by the other's.
    """
    rows, seeds, rounds = [], (1,) if quick else (1, 2, 3), QUICK_ROUNDS if quick else None
    for task in starts.tasks(quick):
        for start in starts.STARTS:
            tried = {
                rate: outcomes([partial(starts.setting, task, start, 1, rate, rounds)], [FP32])["fp32"][
                    0
                ].accuracy
                for rate in starts.RATES
            }
            rate = max(tried, key=tried.get)
            makes: list[Make] = [partial(starts.setting, task, start, seed, rate, rounds) for seed in seeds]
            done = outcomes(makes, [FP32, *(Rival(f"BU({n})", Ours(Codec("bu", n))) for n in (64, 16, 8, 4))])
            rms, kurt, width, e64, e16, dz = np.mean([r.spread for r in done["fp32"]], axis=0)
            target = float(np.mean([r.accuracy for r in done["fp32"]])) - TARGET
            for name, runs in done.items():
                rows.append(
                    {
                        "ablation": "initialisation",
                        "task": task,
                        "start": start,
                        "weights": makes[0]().params.size,
                        "lr": rate,
                        "codec": name,
                        "seeds": len(seeds),
                        "delta_rms": float(rms),
                        "kurtosis": float(kurt),
                        "range_over_rms": float(width),
                        "entropy_bu64": float(e64),
                        "entropy_bu16": float(e16),
                        "dz4_bits": float(dz),
                        "rounds_to_target": _mean([r.rounds_to(target) for r in runs]),
                    }
                    | summary(runs, done["fp32"])
                )
    return rows


def run(quick: bool = False) -> list[dict]:
    """Rows of all ablations; `ablation` says of which."""
    fed = feedback(quick)
    return [*levels(quick), *initialisation(quick), *fed, *fewest_bits(fed)]


def plots(rows: list[dict], folder: Path) -> list[Path]:
    """One picture per ablation and task."""
    written = []
    for task in dict.fromkeys(r["task"] for r in rows):
        here = [r for r in rows if r["task"] == task]
        curves = [r for r in here if r["ablation"] == "levels" and r["levels"]]
        series = [
            Series(
                name + (", coded" if coded else ", fixed length"),
                [
                    (r["bits_per_weight"], r["accuracy"])
                    for r in curves
                    if (r["codec"], r["coded"]) == (name, coded)
                ],
            )
            for name, coded in dict.fromkeys((r["codec"], r["coded"]) for r in curves)
        ]
        if series:
            fp32 = next(r["accuracy"] for r in here if r["codec"] == "fp32" and r["ablation"] == "levels")
            written.append(
                draw(
                    folder / f"ablation-levels-{task}.png",
                    series,
                    Axis("bits per weight, uplink", log=True),
                    Axis("accuracy"),
                    title=f"Number of levels, {task}, no error feedback",
                    bound=Series("fp32", [(0.7, fp32), (10, fp32)]),
                )
            )
        fed = [r for r in here if r["ablation"] == "feedback" and not r["diverged"]]
        series = [
            Series(
                f"{name}, {'with' if on else 'without'} feedback",
                [
                    (r["bits_per_weight"], r["accuracy"])
                    for r in fed
                    if (r["codec"], r["feedback"]) == (name, on)
                ],
                emphasis=on,
            )
            for name, on in dict.fromkeys((r["codec"], r["feedback"]) for r in fed)
        ]
        if series:
            top = max(r["accuracy"] + r["below_fp32"] for r in fed)
            written.append(
                draw(
                    folder / f"ablation-feedback-{task}.png",
                    series,
                    Axis("bits per weight, uplink", log=True),
                    Axis("accuracy"),
                    title=f"Error feedback, {task}",
                    bound=Series("fp32", [(0.05, top), (6, top)]),
                )
            )
        begun = [r for r in here if r["ablation"] == "initialisation"]
        series = [
            Series(
                f"{start} start",
                [(r["bits_per_weight"], r["accuracy"]) for r in begun if r["start"] == start],
            )
            for start in dict.fromkeys(r["start"] for r in begun)
        ]
        if series:
            written.append(
                draw(
                    folder / f"ablation-start-{task}.png",
                    series,
                    Axis("bits per weight, uplink: BU(4) to BU(64), fp32", log=True),
                    Axis("accuracy"),
                    title=f"Initialisation, {task}, all layers trained, no error feedback",
                )
            )
    return written
