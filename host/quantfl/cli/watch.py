"""`quantfl watch`: a run as it goes on, in this terminal, from its folder."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    run: Path = typer.Argument(..., help="Folder of a run, finished or not.", autocompletion=complete.runs),
    once: bool = typer.Option(False, "--once", help="Print the state once and end."),
    every: float = typer.Option(1.0, "--every", min=0.1, help="Seconds between two looks."),
) -> int:
    """Show RUN in the terminal while another process runs it: rounds, boards, bytes. Ctrl-C ends the
    watching, not the run."""
    from quantfl.cli.output import console
    from quantfl.report.live import LiveTable
    from quantfl.report.page.state import FolderState

    state = FolderState(run)
    facts = state.since(0)["run"]
    with LiveTable(console(), title=facts["name"], rounds=facts["rounds_asked"]) as table:
        seen: set[int] = set()
        while True:
            for record in state.history:
                if record["round"] not in seen and record["round"] > 0:
                    seen.add(record["round"])
                    for name, told in record["boards"].items():
                        moved = {way: told[f"{way}_bytes"] for way in ("up", "down")}
                        more = {k: told[k] for k in ("state", "samples", "loss", "seconds") if k in told}
                        table.board(name, **more, **moved)
                    table.round_done(record)
            facts = state.since(0)["run"]
            table.asked = facts["rounds_asked"]
            if table.text != facts["phase"]:
                table.phase(facts["phase"])
            if once or facts["ended"]:
                if table.console.is_terminal:
                    break
                table.console.print(table.render())
                break
            time.sleep(every)
            state.refresh()
    return 0
