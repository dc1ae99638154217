"""`quantfl bench bytes`: bytes on the wire to an accuracy, by task and scheme.

Whole runs over in-process boards: the boards' own code, frames, acknowledgements and ledger, so the counts
are those of an emulated fleet (tests/emulated/test_bench_bytes.py proves it). Counted: all bytes of the
rounds, up and down, given per link (the mean over all of the fleet's); pushing the package, the same for all
schemes, is left out. Target: the final accuracy of fp32 (mean of its last five rounds over all seeds) minus
half a point. Finished runs are kept (QUANTFL_CACHE), so a bench that was broken off goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import quantfl
import quantfl_lab
from quantfl.link.energy import RADIOS, joules
from quantfl_lab.bench.plots import draw, name_of
from quantfl_lab.bench.scheme import FP32, KEY_SCHEMES, OWN, Scheme, all_schemes
from quantfl_lab.bench.setting import cache_folder, setting
from quantfl_lab.bench.tasks import Task, tasks

QUICK_SCHEMES = OWN
SEEDS = (1, 2, 3, 4, 5)
LAST = 5  # rounds whose mean accuracy is the final one
SLACK = 0.005
#: What a run is made of, beside both packages' folders; a rival's own code is in its key. The C is in the
#: extension.
_CODE = (
    "quantfl/core",
    "quantfl/data",
    "quantfl/device.py",
    "quantfl/fleet",
    "quantfl/link",
    "quantfl/messages.py",
    "quantfl/package",
    "quantfl/strategy",
    "quantfl_lab/bench/headless.py",
    "quantfl_lab/bench/setting.py",
)


@dataclass(frozen=True)
class Curve:
    """One run: accuracy before the first round and after each, and bytes moved on all links till then,
    [rounds + 1] each."""

    accuracy: tuple[float, ...]
    up: tuple[int, ...]
    down: tuple[int, ...]
    links: int

    @property
    def final(self) -> float:
        return float(np.mean(self.accuracy[-LAST:]))

    def to_target(self, target: float) -> tuple[int, int] | None:
        """(up, down) per link, unrounded sum over links, when the accuracy first reaches the target; None:
        never."""
        for accuracy, up, down in zip(self.accuracy[1:], self.up[1:], self.down[1:], strict=True):
            if accuracy >= target:
                return up, down
        return None


@cache
def code_version() -> str:
    """Changes with whatever can change a run's bytes: the extension, the Python beside it, numpy."""
    h = hashlib.sha256(np.__version__.encode())
    folders = {
        name: Path(module.__file__).parent
        for name, module in (("quantfl", quantfl), ("quantfl_lab", quantfl_lab))
    }
    for part in _CODE:
        name, _, rest = part.partition("/")
        base = folders[name]
        path = base / rest
        for file in sorted([*path.rglob("*.py"), *path.rglob("*.so")]) if path.is_dir() else [path]:
            h.update(f"{file.relative_to(base)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return h.hexdigest()[:16]


def _kept_at(task: Task, scheme: Scheme, seed: int) -> Path:
    text = f"{code_version()}/{task.config.model_dump_json()}/{task.source}/{scheme.name}/{scheme.key}/{seed}"
    return cache_folder() / "runs" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def one_run(task: Task, scheme: Scheme, seed: int, fresh: bool = False) -> Curve:
    """A run from the cache, or made now. fresh: made now, whatever was kept."""
    kept = _kept_at(task, scheme, seed)
    if kept.exists() and not fresh:
        raw = json.loads(kept.read_text())
        return Curve(tuple(raw["accuracy"]), tuple(raw["up"]), tuple(raw["down"]), raw["links"])
    config = task.config.model_copy(update={"run": task.config.run.model_copy(update={"seed": seed})})
    h = scheme.history(setting(config, task.source.file.parent, task.source.train))
    start = h[0]
    curve = Curve(
        tuple(r["accuracy"] for r in h),
        tuple(r["up_bytes"] - start["up_bytes"] for r in h),
        tuple(r["down_bytes"] - start["down_bytes"] for r in h),
        config.fleet.size,
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"task": task.label, "scheme": scheme.name, "seed": seed} | vars(curve)))
    os.replace(part, kept)
    return curve


def all_runs(
    jobs: Sequence[tuple[Task, Scheme, int]],
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    fresh: bool = False,
) -> dict[tuple[str, str, int], Curve]:
    """(task's label, scheme, seed) -> run, in as many processes as there are cores; features are computed
    before they part. Runs kept from before are not made again unless `fresh`."""
    missing = [job for job in jobs if fresh or not _kept_at(*job).exists()]
    if progress is not None and len(missing) < len(jobs):
        kept = len(jobs) - len(missing)
        progress(0, len(jobs), f"{kept} of {len(jobs)} runs are kept from before; --fresh makes them anew")
    for task, _, _ in {
        (task.name, task.source.path): (task, scheme, seed) for task, scheme, seed in missing
    }.values():
        setting(task.config, task.source.file.parent, task.source.train)
    done: dict[tuple[str, str, int], Curve] = {}
    with ProcessPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        # The central settings first, so that the main tables are there early when a bench is broken off.
        waiting = {
            pool.submit(one_run, *job, fresh): job for job in sorted(jobs, key=lambda job: not job[0].central)
        }
        for future in as_completed(waiting):
            task, scheme, seed = waiting[future]
            if future.exception() is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            done[task.label, scheme.name, seed] = future.result()
            if progress is not None:
                text = f"{len(done)} of {len(jobs)}: {task.label}, {scheme.name}, seed {seed}"
                progress(len(done), len(jobs), text)
    return done


def target_of(plain: Sequence[Curve]) -> float:
    """The accuracy to reach: fp32's final one less half a point."""
    return float(np.mean([c.final for c in plain])) - SLACK


def row(task: Task, scheme: Scheme, curves: Sequence[Curve], plain: Sequence[Curve]) -> dict:
    """One line of the table. bytes_to_target, ratio_to_fp32: None when a seed does not reach the target."""
    target = target_of(plain)
    links = curves[0].links
    reached, theirs = [c.to_target(target) for c in curves], [c.to_target(target) for c in plain]
    whole = None not in reached and None not in theirs
    up, down = (float(np.mean([getattr(c, way)[-1] for c in curves])) / links for way in ("up", "down"))
    to_target = float(np.mean([sum(r) for r in reached])) / links if None not in reached else None
    return {
        "task": task.name,
        "split": task.split,
        "participation": task.participation,
        "scheme": scheme.name,
        "seeds": len(curves),
        "links": links,
        "accuracy": float(np.mean([c.final for c in curves])),
        "accuracy_sd": float(np.std([c.final for c in curves])),
        "rounds": len(curves[0].accuracy) - 1,
        "up_bytes": round(up),
        "down_bytes": round(down),
        "total_bytes": round(up + down),
        "seeds_at_target": sum(r is not None for r in reached),
        "bytes_to_target": None if to_target is None else round(to_target),
        "ratio_to_fp32": float(np.mean([sum(p) / sum(r) for p, r in zip(theirs, reached, strict=True)]))
        if whole
        else None,
        "joules": {radio: joules(up + down, radio) for radio in RADIOS},
        "joules_to_target": None
        if to_target is None
        else {radio: joules(to_target, radio) for radio in RADIOS},
        "target": target,
        "backbone": task.source.backbone,
    }


def schemes_of(task: Task, quick: bool) -> tuple[Scheme, ...]:
    if quick:
        return QUICK_SCHEMES if task.central else KEY_SCHEMES
    return all_schemes() if task.central else KEY_SCHEMES


def run(
    quick: bool = False,
    *,
    only: Iterable[str] = (),
    out: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    fresh: bool = False,
) -> list[dict]:
    """One row per task and scheme. only: names of tasks, all when empty. out: a folder for one PNG per task.
    fresh: nothing that was kept from an earlier call is used."""
    found = [t for t in tasks(quick) if not only or t.name in only]
    seeds = SEEDS[:1] if quick else SEEDS
    jobs = [(t, s, seed) for t in found for seed in seeds for s in schemes_of(t, quick)]
    done = all_runs(jobs, progress=progress, fresh=fresh)
    rows = []
    for t in found:
        plain = [done[t.label, FP32.name, seed] for seed in seeds]
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            curves = {s.name: [done[t.label, s.name, seed] for seed in seeds] for s in schemes_of(t, quick)}
            draw(
                curves, f"{t.label}; backbone: {t.source.backbone}", target_of(plain), out / name_of(t.label)
            )
        rows += [
            row(t, s, [done[t.label, s.name, seed] for seed in seeds], plain) for s in schemes_of(t, quick)
        ]
    return rows
