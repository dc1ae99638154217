"""`quantfl compare`: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from quantfl.cli import complete

if TYPE_CHECKING:
    from quantfl.report.runs import FinishedRun


def command(
    runs: list[Path] = typer.Argument(..., help="Folders of runs.", autocompletion=complete.runs),
    target: float = typer.Option(
        None, "--target", min=0.0, max=1.0, help="Accuracy to reach; default: the lowest of the runs' best."
    ),
    html: Path = typer.Option(None, "--html", help="Write tables and charts into this one file."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Compare RUNS: accuracy before and after, bytes per link in all and until an accuracy was reached."""
    from quantfl.cli.output import console, print_json
    from quantfl.fleet.checkpoint import write_atomic
    from quantfl.report.runs import read
    from quantfl.report.tables import Column, FittedTable, number

    found = [read(path) for path in runs]
    best = [max((a for _, a in run.curve("accuracy")), default=0.0) for run in found]
    goal = min(best) if target is None else target
    names = _names(found)
    rows = [_row(name, run, goal) for name, run in zip(names, found, strict=True)]
    if html is not None:
        from quantfl.report.html import of_runs

        head = (
            "run",
            "exchange",
            "rounds",
            "accuracy before",
            "accuracy",
            "bytes per link",
            f"bytes to {goal:.4f}",
        )
        page = of_runs(found, names, head, [list(row.values()) for row in rows])
        write_atomic(html, page.encode())
    if as_json:
        print_json([row | {"target": goal} for row in rows])
        return 0
    table = FittedTable(
        [
            Column("run", name=True),
            Column("exchange", name=True, drop=3),
            number("rounds", drop=2),
            number("before", drop=1),
            number("accuracy"),
            number("bytes/link"),
            number(f"to {goal:.4f}"),
        ],
        title="bytes per link, both directions, set-up left out",
    )
    for row in rows:
        reached = row["bytes_to_target"]
        table.add(
            str(row["run"]),
            str(row["exchange"]),
            f"{row['rounds']:,}",
            f"{row['accuracy_before']:.4f}",
            f"{row['accuracy']:.4f}",
            f"{row['bytes_per_link']:,}",
            "not reached" if reached is None else f"{reached:,}",
        )
    console().print(table)
    if html is not None:
        console().print(f"wrote {html}", highlight=False, soft_wrap=True)
    return 0


def _names(runs: list[FinishedRun]) -> list[str]:
    """Names that tell the runs apart: their own, or their folders where two have the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder.path) for run in runs]


def _row(name: str, run: FinishedRun, goal: float) -> dict[str, object]:
    ledger, reached = run.summary["ledger"], run.bytes_to(goal)
    return {
        "run": name,
        "exchange": run.scheme,
        "rounds": run.summary["rounds"],
        "accuracy_before": run.summary["accuracy_before"],
        "accuracy": run.summary["accuracy"],
        "bytes_per_link": round((ledger["rounds_up_total"] + ledger["rounds_down_total"]) / run.links),
        "bytes_to_target": None if reached is None else round(reached),
    }
