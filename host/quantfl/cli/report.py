"""`quantfl report`: what a run did, from its folder."""

from __future__ import annotations

from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    run: Path = typer.Argument(..., help="Folder of a run.", autocompletion=complete.runs),
    rounds: bool = typer.Option(False, "--rounds", help="One line per round too."),
    html: Path = typer.Option(None, "--html", help="Write one self-contained HTML file instead."),
    log: list[str] = typer.Option(
        [], "--log", help="Write the rounds for other tools: csv:FILE, tensorboard:FOLDER; may be repeated."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print summary and history as JSON."),
) -> int:
    """Print the summary of RUN: accuracy, bytes by link and category, failures. Works for unfinished runs
    too."""
    from quantfl.cli.output import console, print_json
    from quantfl.fleet.checkpoint import write_atomic
    from quantfl.report.html import of_run
    from quantfl.report.live import kib
    from quantfl.report.logs import make, replay
    from quantfl.report.runs import read
    from quantfl.report.summary import print_summary

    found = read(run)
    state, summary = found.state, found.summary
    for place in log:
        replay(make(place), found.name, state.config, state.history)
        console().print(f"wrote {place.partition(':')[2]}", highlight=False, soft_wrap=True)
    if log and html is None:
        return 0
    if html is not None:
        write_atomic(html, of_run(found).encode())
        console().print(f"wrote {html}", highlight=False, markup=False, soft_wrap=True)
        return 0
    if as_json:
        print_json(summary | {"history": state.history})
        return 0
    c = console()
    refused = [(r["round"], n, w) for r in state.history for n, w in r.get("refused", {}).items()]
    if refused and not rounds:
        c.print(f"{len(refused)} updates were refused:", highlight=False)
        for number, name, why in refused[:20]:
            c.print(f"  round {number}, {name}: {why}", highlight=False, markup=False, soft_wrap=True)
        if len(refused) > 20:
            c.print(f"  … {len(refused) - 20} more: --rounds", highlight=False)
    if rounds:
        for r in state.history:
            accuracy = f"accuracy {r['accuracy']:.4f}  loss {r['loss']:.4f}" if "accuracy" in r else ""
            failed = (
                "  failed: " + "; ".join(f"{n}: {w}" for n, w in r["failed"].items())
                if r.get("failed")
                else ""
            )
            c.print(
                f"round {r['round']:>3}  {accuracy}  up {kib(r['up_bytes'])}  down "
                f"{kib(r['down_bytes'])}{failed}",
                highlight=False,
            )
    print_summary(summary, c)
    return 0
