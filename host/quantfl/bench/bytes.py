"""`quantfl bench bytes`: bytes on the wire to an accuracy, by scheme.

Whole runs over in-process boards: the boards' own code, frames, acknowledgements and ledger, so the counts are those of an
emulated fleet (tests/emulated/test_same_bytes.py proves it). Counted: all bytes of the rounds, up and down, given per link
(the mean over all of the fleet's); pushing the package, the same for all schemes, is left out. Target: the final accuracy
of fp32 (mean of its last five rounds over all seeds) minus half a point.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantfl.emulate.base import ROOT
from quantfl.errors import DataError
from quantfl.fleet import api, config
from quantfl.fleet.config import DownlinkTable, RunConfig, StartTable, UplinkTable


@dataclass(frozen=True)
class Scheme:
    """How both directions are coded; a start in closed form only where it is named."""

    name: str
    uplink: UplinkTable
    downlink: DownlinkTable
    start: StartTable = StartTable(how="none")


def _scheme(name: str, up: dict, down: dict, **start: object) -> Scheme:
    return Scheme(name, UplinkTable(**up), DownlinkTable(**down), StartTable(**({"how": "none"} | start)))


FP32 = {"codec": "fp32"}


def _bu(levels: int, **options: bool) -> dict:
    return {"codec": "bu", "levels": levels} | options


def _dz(step: float, end: float | None = None) -> dict:
    return {"codec": "dz", "step": step, "step_end": step if end is None else end}


SCHEMES = (
    _scheme("fp32", FP32, FP32),
    _scheme("BU(64) up, fp32 down", _bu(64), FP32),
    _scheme("BU(64)", _bu(64), _bu(64)),
    _scheme("BU(64) coded", _bu(64, coded=True), _bu(64, coded=True)),
    _scheme("BU(8) means", _bu(8, means=True), _bu(8, means=True)),
    _scheme("DZ(3)", _dz(3), _dz(3)),
    _scheme("DZ(8..2)/DZ(8..3)", _dz(8, 2), _dz(8, 3)),
    _scheme("DZ(8..2)/DZ(8..3), closed-form start", _dz(8, 2), _dz(8, 3), how="closed-form"),
)


@dataclass(frozen=True)
class Task:
    """A description and the folder its paths start from."""

    name: str
    config: RunConfig
    base: Path


def tasks(quick: bool) -> list[Task]:
    """digits always; mnist where MNIST and the model are."""
    found = [_task("digits", ROOT / "models" / "digits" / "demo.toml", {})]
    path = ROOT / "models" / "femnist_mnist" / "mnist.toml"
    try:
        from quantfl.data.idx import find

        find("mnist", None)
    except DataError:
        return found
    change = {"run": {"rounds": 30}, "data": {"test_samples": 4000}} if quick else {}
    return [*found, _task("mnist", path, change)]


def _task(name: str, path: Path, change: dict[str, dict]) -> Task:
    loaded = config.load(path)
    update = {k: type(getattr(loaded, k)).model_validate(getattr(loaded, k).model_dump() | v) for k, v in change.items()}
    return Task(name, loaded.model_copy(update=update), path.parent)


def history_of(task: Task, scheme: Scheme, seed: int) -> list[dict]:
    """One run's history on in-process boards."""
    changed = task.config.model_copy(
        update={
            "run": task.config.run.model_copy(update={"seed": seed}),
            "fleet": task.config.fleet.model_copy(update={"emulate": "inproc"}),
            "uplink": scheme.uplink,
            "downlink": scheme.downlink,
            "start": scheme.start,
        }
    )
    return asyncio.run(api.history(changed, base=task.base))


def _final(history: list[dict]) -> float:
    return float(np.mean([r["accuracy"] for r in history[-5:]]))


def _moved(record: dict, start: dict) -> tuple[int, int]:
    return record["up_bytes"] - start["up_bytes"], record["down_bytes"] - start["down_bytes"]


def _to_target(history: list[dict], target: float) -> int | None:
    """Bytes moved when the accuracy first reaches the target; None when it never does."""
    for record in history[1:]:
        if record["accuracy"] >= target:
            return sum(_moved(record, history[0]))
    return None


def run(quick: bool = False) -> list[dict]:
    """One row per task and scheme. bytes_to_target and ratio_to_fp32: None when a seed does not reach the target."""
    rows, seeds = [], (1,) if quick else (1, 2, 3)
    for task in tasks(quick):
        runs = {s.name: [history_of(task, s, seed) for seed in seeds] for s in SCHEMES}
        target = float(np.mean([_final(h) for h in runs["fp32"]])) - 0.005
        links = task.config.fleet.size
        plain = [_to_target(h, target) for h in runs["fp32"]]
        for scheme in SCHEMES:
            histories = runs[scheme.name]
            reached = [_to_target(h, target) for h in histories]
            moved = np.mean([_moved(h[-1], h[0]) for h in histories], axis=0)
            complete = None not in reached and None not in plain
            rows.append({
                "task": task.name, "split": task.config.data.split, "participation": task.config.run.fraction,
                "scheme": scheme.name, "seeds": len(seeds), "links": links,
                "accuracy": float(np.mean([_final(h) for h in histories])),
                "accuracy_sd": float(np.std([_final(h) for h in histories])),
                "rounds": task.config.run.rounds,
                "up_bytes": round(moved[0] / links), "down_bytes": round(moved[1] / links),
                "total_bytes": round(moved.sum() / links),
                "bytes_to_target": round(np.mean(reached) / links) if None not in reached else None,
                "ratio_to_fp32": float(np.mean([p / r for p, r in zip(plain, reached, strict=True)])) if complete else None,
            })  # fmt: skip
    return rows
