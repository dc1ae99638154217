"""Bars with the time left, on a terminal, for work that takes more than two seconds."""

from __future__ import annotations

import threading
from types import TracebackType

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
