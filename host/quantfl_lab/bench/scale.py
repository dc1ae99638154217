"""What a fleet of virtual boards costs the host: CPU and time of a round, start-up, memory, by kind and size,
and Flower's simulation beside it.

Every fleet runs in a process of its own: MNIST features of the model in models/femnist_mnist, 20 samples a
board, 2 epochs of SGD, 1,290 weights. Flower (`pip install "flwr[simulation]"`) trains the same layer on the
same features and split, in numpy. Where it is installed in another virtual environment, QUANTFL_FLOWER names
that one's python.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.emulation.base import ROOT
from quantfl.errors import DataError, ToolError
from quantfl.fleet.config import FleetTable, RunConfig, parse
from quantfl.fleet.rounds import Rounds, Silent
from quantfl.fleet.setup import load_package, set_up_run, shards
from quantfl.link.clock import run_virtual
from quantfl.package.program import Package

MODEL = ROOT / "models" / "femnist_mnist" / "femnist_mnist_int8.tflite"
SAMPLES = 20
#: kind, boards, share that takes part, rounds
QUICK = (("twin", 100, 1.0, 6), ("inproc", 100, 0.5, 6), ("inproc", 500, 0.1, 6))
FULL = (
    ("inproc", 100, 1.0, 20),
    ("inproc", 1000, 1.0, 50),
    ("inproc", 1000, 0.1, 20),
    ("inproc", 10_000, 0.01, 20),
    ("twin", 100, 1.0, 50),
    ("twin", 1000, 1.0, 50),
    ("twin", 10_000, 1.0, 100),
)


def description(kind: str, boards: int, participation: float, rounds: int) -> RunConfig:
    """MNIST over this fleet."""
    return parse(
        f'[run]\nname = "scale"\nrounds = {rounds}\nseed = 1\nparticipation = {participation}\n'
        f'evaluate_every = {rounds}\n[model]\npath = "{MODEL}"\n'
        f'[fleet]\nemulate = "{kind}"\nboards = {boards}\n'
        f'[data]\nname = "mnist"\nsplit = "iid"\nsamples_per_board = {SAMPLES}\ntest_samples = 1000\n'
        '[train]\nlr = 0.001\nepochs = 2\nbatch = 10\n[start]\nhow = "none"\n',
        "bench scale",
    )


def memory() -> int:
    """Bytes of memory that are this process's alone; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0


async def _measure(config: RunConfig) -> dict[str, Any]:
    few = set_up_run(
        config.model_copy(update={"fleet": FleetTable(emulate="inproc", boards=2)}),
        base=Path(),
        folder=None,
        progress=Silent(),
    )  # so that libraries and data, which every fleet needs once, are not counted
    await few.close()
    del few
    gc.collect()
    before, began = memory(), time.perf_counter()
    prepared = set_up_run(config, base=Path(), folder=None, progress=Silent())
    rounds = Rounds(prepared.federation)
    took: list[tuple[float, float]] = []
    real = rounds._whole_round

    async def timed(*args: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        record = await real(*args)
        took.append((time.process_time() - cpu, time.perf_counter() - wall))
        return record

    rounds._whole_round = timed  # type: ignore[method-assign]
    try:
        await rounds.set_up()
        rounds.score_start()
        start = time.perf_counter() - began
        board = (memory() - before) / len(rounds.clients)
        await rounds.run()
    finally:
        await prepared.close()
    asked = len(rounds.history[-1]["boards"])
    cpu, wall = (float(np.median([t[i] for t in took[1:]])) for i in (0, 1))
    return {
        "contributed": min(len(r["contributors"]) for r in rounds.history[1:]),
        "round_s": wall,
        "round_cpu_s": cpu,
        "cpu_us_per_board_round": 1e6 * cpu / asked,
        "start_s": start,
        "whole_s": time.perf_counter() - began,
        "kb_per_board": board / 1024,
        "accuracy": rounds.history[-1]["accuracy"],
    }


def _package(config: RunConfig) -> Package:
    return load_package(Path(config.model.path))


def _row(fleet: str, boards: int, participation: float, rounds: int, **found: Any) -> dict[str, Any]:
    return {
        "fleet": fleet,
        "boards": boards,
        "participation": participation,
        "rounds": rounds,
    } | found


def _inside(kind: str, boards: int, participation: float, rounds: int) -> dict[str, Any]:
    """One fleet in a process of its own."""
    words = [kind, str(boards), str(participation), str(rounds)]
    done = subprocess.run([sys.executable, "-m", __name__, *words], capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ToolError(f"bench scale: {boards} boards of kind {kind} failed: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return _row(kind, boards, participation, rounds, **found)


def flower_python() -> str | None:
    """The interpreter that has Flower; None: there is none."""
    named = os.environ.get("QUANTFL_FLOWER")
    if named:
        return named
    return sys.executable if find_spec("flwr") and find_spec("ray") else None


def _flower(python: str, boards: int, rounds: int) -> dict[str, Any]:
    """Flower's simulation on the features, split and first head of the twin fleet of this size."""
    from quantfl.core.nn import Engine

    config = description("twin", boards, 1.0, rounds)
    package = _package(config)
    data, engine = shards(config, package, Path()), Engine(package.data)
    x = [(engine.run_batch(x) - package.feature_zero_point) * package.feature_scale for x, _ in data.clients]
    at = np.cumsum([0, *(len(rows) for rows in x)])
    w = package.params[: package.dims[0] * package.dims[1]].reshape(package.dims)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npz"
        labels = np.concatenate([y for _, y in data.clients]).astype(np.int64)
        bias, features = package.params[w.size :], np.concatenate(x).astype(np.float32)
        np.savez(file, x=features, y=labels, at=at, w=w, b=bias)
        script = Path(__file__).with_name("flower_rival.py")
        env = os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": folder}
        command = [python, str(script), str(file), str(boards), str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ToolError(f"bench scale: Flower's simulation of {boards} clients failed: {lines[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return _row(
        "flower",
        boards,
        1.0,
        rounds,
        contributed=boards,
        round_s=found["round_s"],
        start_s=found["first_round_s"] - found["round_s"],
        kb_per_board=found["peak_mb"] * 1024 / boards,
    )


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row per fleet; `times_flower`: by how much its round is shorter than Flower's of the same size."""
    try:
        rows = [_inside(*fleet) for fleet in (QUICK if quick else FULL)]
    except DataError as error:
        raise ToolError(f"bench scale needs MNIST: {error}") from None
    python = flower_python()
    if python is not None:
        sizes = (100,) if quick else (100, 1000)
        flower = {n: _flower(python, n, 3 if n > 100 else 5) for n in sizes}
        for row in rows:
            peer = flower.get(row["boards"])
            if row["participation"] == 1.0 and peer is not None:
                row["times_flower"] = peer["round_s"] / row["round_s"]
        rows += flower.values()
    return rows


def parts(rows: list[dict[str, Any]]) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """One table; what a row has not is left empty."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return [(None, [{key: row.get(key, "") for key in columns} for row in rows])]


if __name__ == "__main__":
    kind_, boards_, share_, rounds_ = sys.argv[1:]
    print(json.dumps(run_virtual(_measure(description(kind_, int(boards_), float(share_), int(rounds_))))))
