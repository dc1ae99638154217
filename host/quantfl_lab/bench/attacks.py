"""`quantfl bench attacks`: what boards that lie cost, by attack, aggregator, number of liars and split of the
data; and what each rule costs a fleet without liars.

Whole runs over in-process boards with the product's own admission, reputation and rules. All rules on a fleet
of ten, the default one on a fleet of a hundred. Final accuracy: the
mean of the last five rounds. What the liars cost is measured against the same fleet without them, the honest
boards alone, with the default aggregator. A fleet of ten on digits, one of a hundred on MNIST where its files
are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.config import RunConfig, StartTable, StrategyTable
from quantfl.fleet.rounds import Rounds
from quantfl.link.clock import run_virtual
from quantfl_lab.bench.bytes import LAST
from quantfl_lab.bench.lying import ATTACKS, Attack, LyingClient, Ring, UnknownSamples, turned
from quantfl_lab.bench.setting import Setting, federation, setting
from quantfl_lab.bench.tasks import DIGITS, SOURCES, Source, present, task

AGGREGATORS = (
    *("mean", "norm_clipped_mean", "geometric_median", "multi_krum", "krum", "bulyan"),
    *("trimmed_mean", "median"),
)
SPLITS = ("iid", "dirichlet:0.3")
SEEDS = (1, 2, 3)
ROUNDS = 25
#: Most that a row may lose against the honest boards alone, in points, with three of ten liars; most that a
#: rule may cost a fleet without liars, against the mean.
BAR, BAR_HONEST = {"iid": 3.0, "dirichlet:0.3": 8.0}, 0.5
BY_NAME = {attack.name: attack for attack in ATTACKS}


@dataclass(frozen=True)
class Job:
    """One run. attack: its name, empty: nobody lies; liars: of `boards`; alone: the honest boards without
    them."""

    source: str
    split: str
    boards: int
    liars: int
    attack: str
    aggregator: str
    seed: int
    rounds: int
    alone: bool = False


def _source(name: str) -> Source:
    return next(s for s in (DIGITS, *SOURCES) if s.name == name)


def _setting(job: Job) -> Setting:
    source, attack = _source(job.source), BY_NAME.get(job.attack)
    config: RunConfig = task(source, job.split, 1.0, central=True, honest=False).config
    start = StartTable(how="closed-form" if attack is not None and attack.start else "none")
    config = config.model_copy(
        update={
            "run": config.run.model_copy(update={"rounds": job.rounds, "seed": job.seed}),
            "fleet": config.fleet.model_copy(update={"boards": job.boards}),
            "strategy": StrategyTable(aggregator=job.aggregator),
            "start": start,
        }
    )
    return setting(config, source.file.parent, source.train)


def liars_of(job: Job) -> set[int]:
    """Which boards lie: the same for every attack and aggregator."""
    rng = np.random.default_rng([job.seed, job.boards, 0x11A5])
    return {int(i) for i in rng.choice(job.boards, job.liars, replace=False)}


async def _run(s: Setting, attack: Attack | None, liars: set[int]) -> list[dict[str, Any]]:
    f = federation(s)
    ring = Ring(len(liars), s.config.admission.times_median)
    clients: list[BoardClient] = []
    for board in f.clients:
        assert isinstance(board, BoardClient)
        if attack is not None and board.index in liars:
            clients.append(LyingClient.lying(board, attack, ring, s.head.tensors))
        else:
            clients.append(UnknownSamples.of(board))
    rounds = Rounds(replace(f, clients=clients))
    try:
        await rounds.set_up()
        rounds.score_start()
        await rounds.run()
    finally:
        await asyncio.gather(*(c.close() for c in clients), return_exceptions=True)
    return rounds.history


def run_job(job: Job) -> dict[str, float]:
    """accuracy: 0..1, of the last rounds; caught: liars left out in the end; wronged: honest boards left out
    in the end."""
    s, liars, attack = _setting(job), liars_of(job), BY_NAME.get(job.attack)
    if job.alone:
        honest = [c for i, c in enumerate(s.clients) if i not in liars]
        fleet = s.config.fleet.model_copy(update={"boards": len(honest)})
        s, liars = replace(s, clients=honest, config=s.config.model_copy(update={"fleet": fleet})), set()
    elif attack is not None and attack.labels:
        clients = [(x, turned(y)) if i in liars else (x, y) for i, (x, y) in enumerate(s.clients)]
        s = replace(s, clients=clients)
    history = run_virtual(_run(s, attack, liars))
    left_out = {name for record in history for name in record.get("left_out", {})}
    named = {f"board-{i:02d}" for i in liars}
    return {
        "accuracy": float(np.mean([r["accuracy"] for r in history[-LAST:]])),
        "caught": len(left_out & named),
        "wronged": len(left_out - named),
    }


def fleets(quick: bool) -> list[tuple[str, int, tuple[int, ...], int]]:
    """(source, boards, numbers of liars, rounds)."""
    if quick:
        return [("digits", 10, (3,), 12)]
    found = [("digits", 10, (1, 2, 3), ROUNDS)]
    mnist = _source("mnist")
    return [*found, ("mnist", 100, (10,), 12)] if present(mnist) else found


def jobs(quick: bool) -> Iterator[Job]:
    """All runs: honest fleets by aggregator, honest boards alone, and every attack."""
    aggregators = ("mean", "multi_krum") if quick else AGGREGATORS
    attacks = [BY_NAME[n] for n in ("labels", "sign", "collusion")] if quick else list(ATTACKS)
    for source, boards, numbers, rounds in fleets(quick):
        rules = aggregators if boards <= 10 else aggregators[:1]  # a run of a hundred takes ten times as long
        for split in SPLITS:
            for seed in SEEDS[:1] if quick else SEEDS:
                for rule in rules:
                    yield Job(source, split, boards, 0, "", rule, seed, rounds)
                for liars in numbers:
                    for attack in attacks:
                        start = Job(source, split, boards, liars, attack.name, "mean", seed, rounds)
                        if attack.start or attack == attacks[0]:
                            yield replace(start, alone=True)
                        for rule in rules if liars == numbers[-1] else rules[:2]:
                            yield replace(start, aggregator=rule)


def run(*, quick: bool = False, workers: int | None = None) -> list[dict[str, Any]]:
    """Rows: one per fleet, split, attack, number of liars and aggregator; see `row`."""
    todo = list(jobs(quick))
    with ProcessPoolExecutor(workers) as pool:
        done = dict(zip(todo, pool.map(run_job, todo), strict=True))
    groups: dict[Job, list[dict[str, float]]] = {}
    for job, found in done.items():
        groups.setdefault(replace(job, seed=0), []).append(found)
    return [row(job, found, groups) for job, found in groups.items() if not job.alone]


def row(job: Job, found: list[dict[str, float]], groups: dict[Job, list[dict[str, float]]]) -> dict[str, Any]:
    """lost: points against the honest boards alone with the mean, or, where nobody lies, against the mean.
    meets: whether that is within the bar; caught, wronged: boards left out per run, liars and honest ones."""
    accuracy = float(np.mean([f["accuracy"] for f in found]))
    base = replace(job, aggregator="mean")
    if job.liars:
        attack = BY_NAME[job.attack]
        first = next(k.attack for k in groups if k.alone and BY_NAME[k.attack].start == attack.start)
        base = replace(base, attack=first, alone=True)
    against = float(np.mean([f["accuracy"] for f in groups[base]]))
    lost = 100 * (against - accuracy)
    return {
        "data": job.source,
        "split": job.split,
        "liars": f"{job.liars} of {job.boards}",
        "attack": job.attack or "none",
        "aggregator": job.aggregator,
        "accuracy": accuracy,
        "lost": lost,
        "meets": lost <= (BAR[job.split] if job.liars else BAR_HONEST),
        "caught": float(np.mean([f["caught"] for f in found])),
        "wronged": float(np.mean([f["wronged"] for f in found])),
        "seeds": len(found),
    }


def parts(rows: list[dict[str, Any]]) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """Tables for people: an attack a row, an aggregator a column, accuracy in it; * where it misses the
    bar."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for r in rows:
        title = f"{r['data']}, {r['split']}: accuracy, * more than the bar below the honest boards alone"
        lines = tables.setdefault(title, {})
        line = lines.setdefault(f"{r['attack']} {r['liars']}", {"attack": r["attack"], "liars": r["liars"]})
        line[r["aggregator"]] = f"{r['accuracy']:.3f}{'' if r['meets'] else ' *'}"
    columns = list(dict.fromkeys(r["aggregator"] for r in rows))
    return [
        (title, [{c: line.get(c, "") for c in ("attack", "liars", *columns)} for line in lines.values()])
        for title, lines in tables.items()
    ]
