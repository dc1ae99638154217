"""What reports and comparisons need of a run's folder, read once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantfl.fleet.checkpoint import RunFolder, State
from quantfl.fleet.observers import ledger_summary
from quantfl.report.summary import late_answers
from quantfl.report.words import scheme_in_words


@dataclass(frozen=True)
class FinishedRun:
    """A run, finished or not. summary: as summary.json has it."""

    folder: RunFolder
    state: State
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name, as its description gives it."""
        return str(self.state.config["run"]["name"])

    @property
    def links(self) -> int:
        """Boards of the run."""
        return max(1, len(self.state.ledger.per_board()))

    @property
    def scheme(self) -> str:
        """How it exchanges deltas, in words."""
        return scheme_in_words(self.state.config)

    def curve(self, key: str, *, by_bytes: bool = False) -> list[tuple[float, float]]:
        """(round, value) of every round that has the key; by_bytes: (bytes per link since the set-up,
        value)."""
        history = self.state.history
        base = history[0]["up_bytes"] + history[0]["down_bytes"] if history else 0
        return [
            ((r["up_bytes"] + r["down_bytes"] - base) / self.links if by_bytes else r["round"], r[key])
            for r in history
            if r.get(key) is not None
        ]

    def bytes_to(self, accuracy: float) -> float | None:
        """Bytes per link until an accuracy was reached first, the set-up left out; None: it never was."""
        return next((b for b, a in self.curve("accuracy", by_bytes=True) if a >= accuracy), None)


def read(path: Path) -> FinishedRun:
    """Read a run's folder. RunError: no run is there."""
    folder = RunFolder(path).required()
    state = folder.load()
    if folder.summary.exists():
        return FinishedRun(folder, state, json.loads(folder.summary.read_text()))
    scored = [r for r in state.history if "accuracy" in r]
    summary = {
        "name": state.config["run"]["name"],
        "boards_used": f"{len(state.ledger.per_board())} boards",
        "rounds": state.round,
        "accuracy_before": scored[0]["accuracy"],
        "accuracy": scored[-1]["accuracy"],
        "test_samples": scored[-1]["test_samples"],
        "ledger": ledger_summary(state.ledger),
        "counters_differ": {},
        "fp32": None,
        "late": late_answers(state.history),
        "files": {"history": str(folder.history)},
        "unfinished": True,
    }
    return FinishedRun(folder, state, summary)
