"""Bars with the time left: for work that takes more than two seconds on a terminal, and for the rounds of a
run."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

DELAY_S = 2.0  # work that is done by then shows no bar


class Bars:
    """One bar per piece of work, on `console`; nothing where that is no terminal. Bars vanish at the end.

    with Bars(console) as bars: bars.update("board-00", 1024, 24624)
    """

    def __init__(self, console: Console, *, delay_s: float = DELAY_S):
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._timer = threading.Timer(delay_s, self._show)
        self._timer.daemon = True
        self._guard, self._state = threading.Lock(), "waiting"

    def _show(self) -> None:
        with self._guard:
            if self._state == "waiting":
                self._state = "shown"
                self._bars.start()

    def __enter__(self) -> Bars:
        if self._bars.console.is_terminal:
            self._timer.start()
        return self

    def update(self, name: str, done: float, total: float | None) -> None:
        """`done` of `total` is done of the work called `name`; total None: nobody knows how much there is."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._guard:
            shown, self._state = self._state == "shown", "over"
        if shown:
            self._bars.stop()


class RoundBar:
    """A Progress of a run: one bar over its rounds, with the accuracy and the bytes of all links so far.

    It shows in a terminal, and in a notebook where ipywidgets is installed. Elsewhere it is a line per round.
    """

    def __init__(self, rounds: int, console: Console | None = None):
        self.console = console or Console()
        self.rounds, self.bytes, self.accuracy = rounds, 0, ""
        notebook = self.console.is_jupyter and find_spec("ipywidgets") is not None
        self._live = self.console.is_terminal or notebook
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("round {task.completed:.0f} of {task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("starting", total=rounds, told="")

    def __enter__(self) -> RoundBar:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live:
            self._bar.stop()

    def phase(self, text: str) -> None:
        """What the run does now."""
        self._bar.update(self._task, description=text)

    def board(self, name: str, **fields: Any) -> None:
        """What is new of a board. Bytes are added up."""
        self.bytes += fields.get("up", 0) + fields.get("down", 0)

    def warn(self, text: str) -> None:
        """A warning, above the bar."""
        self.console.print(f"warning: {text}", highlight=False, markup=False)

    def round_done(self, record: dict[str, Any]) -> None:
        """A round is over."""
        if "accuracy" in record:
            self.accuracy = f"accuracy {record['accuracy']:.4f}, "
        told = f"{self.accuracy}{self.bytes:,} bytes"
        self._bar.update(self._task, completed=record["round"], told=told)
        if not self._live:
            self.console.print(f"round {record['round']} of {self.rounds}: {told}", highlight=False)
