"""Logs of a run for other tools, behind one interface: told of the description, of every round, of the end.

`quantfl report RUN --log KIND:PLACE` writes them from a run's history. A RunLog of one's own may also be told
while a run goes on: `quantfl.run(..., progress=)` takes an observer, and `row_of` makes its rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

from quantfl.errors import RunError, ToolError, UsageError
from quantfl.suggest import meant

#: Numbers of a round, as logs name them, and the history's keys that they are from.
NUMBERS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "train_loss": "train_loss",
    "up_bytes": "up_bytes",
    "down_bytes": "down_bytes",
    "seconds": "seconds",
    "similarity": "similarity",
}
COLUMNS = ("round", *NUMBERS, "contributors", "failed")


class RunLog(Protocol):
    """What another tool is told. Rounds come in order, round 0 (before training) first."""

    def begin(self, name: str, config: dict[str, Any]) -> None:
        """A run begins or goes on. config: its description."""

    def round_done(self, row: dict[str, Any]) -> None:
        """A round is complete. row: COLUMNS; None where a round has no such number."""

    def end(self) -> None:
        """Nothing more comes."""


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the history as a row of COLUMNS; bytes are sums since the run began."""
    row = {"round": record["round"], **{name: record.get(key) for name, key in NUMBERS.items()}}
    counts = {key: len(record.get(key, ())) for key in ("contributors", "failed")}
    return {name: (row | counts)[name] for name in COLUMNS}


class CsvLog:
    """A CSV file: one line per round, written as it comes. An existing file is replaced."""

    def __init__(self, place: Path):
        try:
            self._file: TextIO = place.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{place}: cannot be written: {error.strerror or error}") from None
        self._place, self._writer = place, csv.DictWriter(self._file, COLUMNS)

    def begin(self, name: str, config: dict[str, Any]) -> None:
        self._writer.writeheader()

    def round_done(self, row: dict[str, Any]) -> None:
        try:
            self._writer.writerow(row)
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._place}: cannot be written: {error.strerror or error}") from None

    def end(self) -> None:
        self._file.close()


class TensorBoardLog:
    """Event files for TensorBoard (extra [tensorboard]); the step is the round."""

    def __init__(self, place: Path):
        try:
            writer: Callable[..., Any] = import_module("tensorboardX").SummaryWriter
        except ImportError:
            raise ToolError("tensorboardX is missing: pip install 'quantfl[tensorboard]'") from None
        self._writer = writer(str(place))

    def begin(self, name: str, config: dict[str, Any]) -> None:
        lines = [f"    {t}.{k} = {v}" for t, table in config.items() for k, v in dict(table).items()]
        self._writer.add_text("description", "\n".join(lines))

    def round_done(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "round" and value is not None:
                self._writer.add_scalar(name, value, row["round"])
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


KINDS: dict[str, Callable[[Path], RunLog]] = {"csv": CsvLog, "tensorboard": TensorBoardLog}


def make(spec: str) -> RunLog:
    """A log from KIND:PLACE. UsageError: no such kind; ToolError: its package is missing; RunError: the place
    cannot be written."""
    kind, colon, place = spec.partition(":")
    if kind not in KINDS or not colon or not place:
        known = ", ".join(f"{name}:PLACE" for name in KINDS)
        raise UsageError(f"--log {spec}: there are {known}{meant(kind, KINDS)}")
    return KINDS[kind](Path(place))


def replay(log: RunLog, name: str, config: dict[str, Any], history: Iterable[dict[str, Any]]) -> None:
    """Tell a log of a run that has been."""
    log.begin(name, config)
    for record in history:
        log.round_done(row_of(record))
    log.end()
