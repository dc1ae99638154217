"""The live table of a run: round, accuracy, loss; per board state, samples, bytes up and down, time."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from quantfl.report.progress import DELAY_S
from quantfl.report.tables import Column, FittedTable, number

_STYLE = {
    "done": "green",
    "ready": "green",
    "training": "cyan",
    "failed": "red",
    "refused": "red",
    "pushing": "yellow",
    "sampling": "yellow",
}


def kib(n: int) -> str:
    """Bytes for people: exact below 10 kB."""
    return f"{n:,} B" if n < 10_000 else f"{n / 1024:,.1f} KiB"


class LiveTable:
    """A Progress that redraws a table on a terminal, and prints one line per round where there is none."""

    def __init__(self, console: Console | None = None, *, title: str = "", rounds: int = 0):
        self.console = console or Console()
        self.title, self.asked = title, rounds
        self.boards: dict[str, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self.text = ""
        self._started = time.monotonic()
        self._set_up: float | None = None  # when setting up began
        self._first: tuple[float, int] | None = None  # when the first round of this call began, and which
        self._live: Live | None = None

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=8)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exc)
            self._live = None

    def phase(self, text: str) -> None:
        self.text = text
        if self._set_up is None and text.startswith("setting"):
            self._set_up = time.monotonic()
        if self._first is None and (number := re.match(r"round (\d+)", text)):
            self._first = time.monotonic(), int(number[1])
        if self._live is None:
            self.console.print(f"· {text}", highlight=False, markup=False)

    def board(self, name: str, **fields: Any) -> None:
        row = self.boards.setdefault(name, {"up": 0, "down": 0})
        for key, value in fields.items():
            if key in ("up", "down"):
                row[key] += value
            else:
                row[key] = value

    def warn(self, text: str) -> None:
        self.console.print(Text.assemble(("warning:", "yellow"), f" {text}"))

    def round_done(self, record: dict[str, Any]) -> None:
        self.rounds.append(record)
        if self._live is None:
            accuracy = f"{record['accuracy']:.4f}" if "accuracy" in record else "-"
            self.console.print(
                f"  round {record['round']:>3}  accuracy {accuracy}  loss "
                f"{record.get('loss', float('nan')):.4f}  "
                f"{len(record['contributors'])} boards  up so far {kib(record['up_bytes'])}  "
                f"down so far {kib(record['down_bytes'])}  {record['seconds']:.1f} s",
                highlight=False,
            )
            for name, reason in record["failed"].items():
                self.console.print(f"    {name}: {reason}", highlight=False, markup=False)

    def render(self) -> Group:
        rounds = FittedTable(
            [
                number("round"),
                number("accuracy"),
                number("loss", drop=1),
                Column("boards", right=True, drop=2),
                number("up so far"),
                number("down so far"),
                number("time", drop=3),
            ],
            title="rounds; bytes are sums since the run began",
        )
        for r in self.rounds[-6:]:
            rounds.add(
                str(r["round"]),
                f"{r['accuracy']:.4f}" if "accuracy" in r else "",
                f"{r['loss']:.4f}" if "loss" in r else "",
                Text.assemble(
                    f"{len(r['contributors'])}", (f" -{len(r['failed'])}" if r["failed"] else "", "red")
                ),
                kib(r["up_bytes"]),
                kib(r["down_bytes"]),
                f"{r['seconds']:.1f} s",
            )
        boards = FittedTable(
            [
                Column("board", name=True),
                Column("state"),
                number("samples", drop=3),
                number("loss", drop=1),
                number("up so far"),
                number("down so far"),
                number("time", drop=2),
            ],
            title="boards",
        )
        shown = list(self.boards.items())
        for name, b in shown[:24]:
            state = b.get("state", "")
            boards.add(
                name,
                Text(state, style=_STYLE.get(state.split(" ")[0], "")),
                str(b.get("samples", "")),
                f"{b['loss']:.3f}" if "loss" in b else "",
                kib(b["up"]),
                kib(b["down"]),
                f"{b['seconds']:.2f} s" if "seconds" in b else "",
            )
        if len(shown) > 24:
            boards.add(f"… {len(shown) - 24} more")
        head = Text(f"{self.title}  {self.text}  {time.monotonic() - self._started:.0f} s", style="bold")
        return Group(head, *self._bar(), *([rounds] if self.rounds else []), boards)

    def _bar(self) -> list[RenderableType]:
        """How far the set-up or the rounds are, and the time left; nothing in the first two seconds."""
        if self._first is not None:
            began, first = self._first
            done, of = (self.rounds[-1]["round"] if self.rounds else first - 1), self.asked
            share, text = (done - first + 1) / max(1, of - first + 1), f"{done} of {of} rounds"
        elif self._set_up is not None and self.boards:
            began, shares = self._set_up, [_share(b.get("state", "")) for b in self.boards.values()]
            share, text = sum(shares) / len(shares), f"{shares.count(1.0)} of {len(shares)} boards ready"
        else:
            return []
        spent = time.monotonic() - began
        if spent < DELAY_S or share >= 1:
            return []
        left = f"about {timedelta(seconds=round(spent * (1 - share) / share))} left" if share > 0 else ""
        return [Columns([ProgressBar(total=1.0, completed=share, width=30), text, left])]


def _share(state: str) -> float:
    """How much of a board's set-up is done, by its state."""
    if found := re.match(r"pushing (\d+) %", state):
        return 0.8 * int(found[1]) / 100
    return {"sampling": 0.8, "ready": 1.0, "training": 1.0, "done": 1.0, "failed": 1.0}.get(state, 0.0)
