"""The live table of a run: round, accuracy, loss; per board state, samples, bytes up and down, time."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

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

    def __init__(self, console: Console | None = None, *, title: str = ""):
        self.console = console or Console()
        self.title = title
        self.boards: dict[str, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self.text = ""
        self._started = time.monotonic()
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
        if self._live is None:
            self.console.print(f"· {text}", highlight=False)

    def board(self, name: str, **fields: Any) -> None:
        row = self.boards.setdefault(name, {"up": 0, "down": 0})
        for key, value in fields.items():
            if key in ("up", "down"):
                row[key] += value
            else:
                row[key] = value

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/] {text}", highlight=False)

    def round_done(self, record: dict[str, Any]) -> None:
        self.rounds.append(record)
        if self._live is None:
            accuracy = f"{record['accuracy']:.4f}" if "accuracy" in record else "-"
            self.console.print(
                f"  round {record['round']:>3}  accuracy {accuracy}  loss "
                f"{record.get('loss', float('nan')):.4f}  "
                f"{len(record['contributors'])} boards  up {kib(record['up_bytes'])}  "
                f"down {kib(record['down_bytes'])}  {record['seconds']:.1f} s",
                highlight=False,
            )
            for name, reason in record["failed"].items():
                self.console.print(f"    {name}: {reason}", highlight=False)

    def render(self) -> Group:
        rounds = Table(title="rounds", expand=False)
        for column in ("round", "accuracy", "loss", "boards", "up", "down", "time"):
            rounds.add_column(column, justify="right")
        for r in self.rounds[-6:]:
            rounds.add_row(
                str(r["round"]),
                f"{r['accuracy']:.4f}" if "accuracy" in r else "",
                f"{r['loss']:.4f}" if "loss" in r else "",
                f"{len(r['contributors'])}" + (f" [red]-{len(r['failed'])}[/]" if r["failed"] else ""),
                kib(r["up_bytes"]),
                kib(r["down_bytes"]),
                f"{r['seconds']:.1f} s",
            )
        boards = Table(title="boards", expand=False)
        justified: tuple[tuple[str, JustifyMethod], ...] = (
            ("board", "left"),
            ("state", "left"),
            ("samples", "right"),
            ("loss", "right"),
            ("up", "right"),
            ("down", "right"),
            ("time", "right"),
        )
        for column, justify in justified:
            boards.add_column(column, justify=justify)
        shown = list(self.boards.items())
        for name, b in shown[:24]:
            state = b.get("state", "")
            boards.add_row(
                name,
                Text(state, style=_STYLE.get(state, "")),
                str(b.get("samples", "")),
                f"{b['loss']:.3f}" if "loss" in b else "",
                kib(b["up"]),
                kib(b["down"]),
                f"{b['seconds']:.2f} s" if "seconds" in b else "",
            )
        if len(shown) > 24:
            boards.add_row(f"… {len(shown) - 24} more", "", "", "", "", "", "")
        head = Text(f"{self.title}  {self.text}  {time.monotonic() - self._started:.0f} s", style="bold")
        return Group(head, rounds, boards) if self.rounds else Group(head, boards)
