"""What the page shows: the state of one run, as plain data, and what of it has changed since a moment.

`RunState` is a Progress: the round loop tells it what it tells every observer. `FolderState` reads the same
of a run's folder. Methods may be called from any thread, where they do not say otherwise.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from quantfl.core.link import BYTE_CATEGORIES
from quantfl.errors import RunError
from quantfl.fleet.checkpoint import RunFolder
from quantfl.link.ledger import Ledger

LOG_MAX = 2000  # entries kept; older ones are in the run's files
# A count of all bytes takes time of the run's own thread. The pause after it is so many times as long.
BYTES_PAUSE = 20
ROUND_KEYS = ("round", "accuracy", "loss", "train_loss", "up_bytes", "down_bytes", "seconds", "similarity")


class RunState:
    """State of a run. `revision` grows with every change.

    title: of the page. rounds_asked: as the description says, 0: not known.
    """

    def __init__(self, title: str, rounds_asked: int = 0):
        self._guard = threading.Lock()
        self._revision = 1
        self._run: dict[str, Any] = {
            "name": title,
            "rounds_asked": rounds_asked,
            "phase": "",
            "began": time.time(),
            "ended": False,
            "paused": False,
            "controllable": False,
        }
        self._run_at = 1
        self._rounds: list[tuple[int, dict[str, Any]]] = []
        self._boards: dict[str, tuple[int, dict[str, Any]]] = {}
        self._log: list[tuple[int, dict[str, Any]]] = []
        self.history: list[dict[str, Any]] = []  # that of the run, which the run itself writes to
        self._ledger: Ledger | None = None  # read in the thread that writes to it only
        self._bytes = _bytes_by_board(None)
        self._bytes_due = 0.0  # time.monotonic()

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision

    @property
    def boards(self) -> list[str]:
        """Names of the boards seen so far."""
        with self._guard:
            return list(self._boards)

    def set(self, **fields: Any) -> None:
        """Change facts of the run: phase, ended, paused, controllable."""
        with self._guard:
            self._run |= fields
            self._revision += 1
            self._run_at = self._revision

    def follow(self, ledger: Ledger, history: list[dict[str, Any]]) -> None:
        """Show these books, which the run goes on writing to. Call it in the thread that writes to them."""
        self._ledger, self.history = ledger, history
        self._count_bytes()
        for record in history:
            self.replay(record)

    def end(self) -> None:
        """The run has ended: nothing writes to its books any more."""
        self._count_bytes()
        self.set(ended=True)

    def _count_bytes(self) -> None:
        began = time.monotonic()
        self._bytes = _bytes_by_board(self._ledger)
        done = time.monotonic()
        self._bytes_due = done + BYTES_PAUSE * (done - began)

    # Progress
    def phase(self, text: str) -> None:
        self.set(phase=text)

    def board(self, name: str, **fields: Any) -> None:
        with self._guard:
            self._revision += 1
            _, row = self._boards.get(name, (0, {"name": name, "up": 0, "down": 0, "rounds": 0, "missed": 0}))
            row = dict(row)
            for key, value in fields.items():
                row[key] = row[key] + value if key in ("up", "down") else value
            if fields.get("state") in ("done", "ready"):
                row.pop("reason", None)
            self._boards[name] = self._revision, row
            if fields.get("state") in ("failed", "refused") and fields.get("reason"):
                self._say("fault", f"{name}: {fields['reason']}")

    def warn(self, text: str) -> None:
        with self._guard:
            self._revision += 1
            self._say("warning", text)

    def note(self, text: str) -> None:
        """An entry of the log that is no warning."""
        with self._guard:
            self._revision += 1
            self._say("note", text)

    def round_done(self, record: dict[str, Any]) -> None:
        """A round of this run; what its boards have moved has been told by `board` already. Call it in the
        thread that writes to the ledger: the bytes of all links are counted here."""
        if time.monotonic() >= self._bytes_due:
            self._count_bytes()
        if not self._rounds and self.history and self.history[0]["round"] < record["round"]:
            self.replay(self.history[0])  # the score before the first round
        self._round(record, moved=False)

    def replay(self, record: dict[str, Any]) -> None:
        """A round of earlier, from the history."""
        self._round(record, moved=True)

    def _round(self, record: dict[str, Any], *, moved: bool) -> None:
        with self._guard:
            self._revision += 1
            row = {key: record[key] for key in ROUND_KEYS if record.get(key) is not None}
            row |= {"boards": len(record.get("contributors", ())), "failed": len(record.get("failed", {}))}
            self._rounds.append((self._revision, row))
            self._book(record, moved)
            for name, why in record.get("refused", {}).items():
                self._say("admission", f"round {record['round']}: the delta of {name} was refused: {why}")

    def _book(self, record: dict[str, Any], moved: bool) -> None:
        contributed = set(record.get("contributors", ()))
        for name, told in record.get("boards", {}).items():
            _, row = self._boards.get(name, (0, {"name": name, "up": 0, "down": 0, "rounds": 0, "missed": 0}))
            row = dict(row)
            row["rounds" if name in contributed else "missed"] += 1
            if moved:
                row |= {way: row[way] + told[f"{way}_bytes"] for way in ("up", "down")}
            row |= {k: told[k] for k in ("state", "samples", "loss", "seconds", "delta_bytes") if k in told}
            if reason := record.get("failed", {}).get(name):
                row["reason"] = reason
            past = [*row.get("past", ()), [record["round"], told.get("loss"), name in contributed]]
            row["past"] = past[-200:]
            self._boards[name] = self._revision, row

    def _say(self, kind: str, text: str) -> None:
        entry = {"time": time.time(), "kind": kind, "text": text}
        self._log.append((self._revision, entry))
        del self._log[:-LOG_MAX]

    def since(self, revision: int) -> dict[str, Any]:
        """What has changed after `revision`; 0: everything. `revision` of the answer is where to go on."""
        with self._guard:
            return {
                "revision": self._revision,
                "run": dict(self._run) if self._run_at > revision else None,
                "rounds": [row for at, row in self._rounds if at > revision],
                "boards": [row for at, row in self._boards.values() if at > revision],
                "log": [row for at, row in self._log if at > revision],
            }

    def bytes_of(self) -> dict[str, Any]:
        """Bytes by board, direction and category, as counted last; not to be changed.

        {"categories": [...], "boards": {name: {"up": [...], "down": [...]}}}
        """
        return self._bytes


class FolderState(RunState):
    """The state of a run as its folder tells it; `refresh` reads what is new. RunError: no run is there."""

    def __init__(self, folder: Path):
        self.folder = RunFolder(folder).required()
        state = self.folder.load()
        super().__init__(state.config["run"]["name"], state.config["run"]["rounds"])
        self._reading = threading.Lock()  # every open page asks for what is new, each in a thread of its own
        self._stamp = 0
        self.refresh()

    def refresh(self) -> bool:
        """Read new rounds. True: there were some, or the run has ended."""
        with self._reading:
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            stamp = self.folder.checkpoint.stat().st_mtime_ns
            if stamp == self._stamp:
                return False
            state = self.folder.load()
        except (OSError, RunError):  # between two writes; the next look finds it whole
            return False
        self._stamp, self._ledger, self.history = stamp, state.ledger, state.history
        self._count_bytes()
        seen = {row["round"] for _, row in self._rounds}
        for record in state.history:
            if record["round"] not in seen:
                self.replay(record)
                for name, why in record.get("failed", {}).items():
                    self.note(f"round {record['round']}, {name}: {why}")
        asked = state.config["run"]["rounds"]  # a run that is resumed may ask for more
        ended = self.folder.summary.exists() and state.round >= asked
        phase = "finished" if ended else f"round {state.round} of {asked} is complete"
        self.set(phase=phase, ended=ended, rounds_asked=asked)
        return True


def _bytes_by_board(ledger: Ledger | None) -> dict[str, Any]:
    boards = {
        name: {
            way: [getattr(traffic, category) for category in BYTE_CATEGORIES]
            for way, traffic in zip(("up", "down"), ways, strict=True)
        }
        for name, ways in ({} if ledger is None else ledger.per_board()).items()
    }
    return {"categories": list(BYTE_CATEGORIES), "boards": boards}


def to_text(value: Any) -> str:
    """JSON without line breaks, for one event; NaN and infinity become null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
