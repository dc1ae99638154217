"""`quantfl bench`: every figure the project claims."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import typer

BENCHES = {
    "engine": "instructions of an inference on emulated Cortex-M4F and M55",
    "models": "what convert makes of models that others have published",
    "train": "training of the last layers on real data, against float TensorFlow, and its cost on a "
    "Cortex-M4F",
    "bytes": "bytes on the wire to an accuracy, by scheme",
    "codec": "instructions and stack of coding a delta on an emulated Cortex-M4F",
    "link": "what a session makes of a line, by latency and bit errors, and a check in real time",
    "keys": "what keys cost a board: bytes, instructions, code, RAM",
    "flash": "bytes of flash of every firmware that is built here, by part",
    "attacks": "what boards that lie cost, by attack and aggregator, and what each rule costs honest fleets",
    "quantisers": "what one message loses against its bits, ours and rivals",
    "alternatives": "what else might code a delta in fewer bits: contexts, prediction, dead zones, a "
    "trellis, subspaces",
    "scale": "what fleets of virtual boards cost the host, and Flower's simulation beside them",
    "ablations": "levels, initialisation and error feedback",
}


def command(
    name: str = typer.Argument(..., help="; ".join(f"{k}: {v}" for k, v in BENCHES.items()) + "."),
    quick: bool = typer.Option(False, "--quick", help="Fewer inputs, seeds and rounds."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
    out: Path = typer.Option(
        Path("runs/bench"), "--out", help="Folder for the pictures, of benches that draw some."
    ),
    fresh: bool = typer.Option(
        False, "--fresh", help="bytes: make every run anew, also those kept from a call that was broken off."
    ),
    only: list[str] = typer.Option([], "--only", help="bytes: one task instead of all; may be repeated."),
) -> int:
    """Measure what the project claims; docs/BENCH.md says how."""
    from importlib import import_module

    from quantfl.cli.output import console, print_json, stderr_console
    from quantfl.errors import ToolError, UsageError
    from quantfl.report.progress import Bars
    from quantfl.suggest import meant

    if name not in BENCHES:
        raise UsageError(f"no bench {name!r}{meant(name, BENCHES)}; there are {', '.join(BENCHES)}")
    module = import_module(f"quantfl_lab.bench.{name}")
    say = stderr_console()
    with Bars(say) as bars:
        bars.update(name, 0, None)

        def progress(done: int, total: int, text: str) -> None:
            say.print(text, highlight=False)
            bars.update(name, done, total)

        options: dict = {"only": only, "out": out, "fresh": fresh, "progress": progress}
        rows = module.run(quick=quick, **(options if name == "bytes" else {}))
    if hasattr(module, "plots"):
        try:
            for path in module.plots(rows, out):
                typer.echo(f"wrote {path}", err=True)
        except ToolError as error:
            typer.echo(f"no pictures: {error}", err=True)
    if as_json:
        print_json(rows)
        return 0
    for title, part in getattr(module, "parts", _parts)(rows):
        console().print(_table(title, part))
    return 0


def _parts(rows: list[dict]) -> list[tuple[str | None, list[dict]]]:
    """Rows of one kind together; those of bench bytes by task, split and participation, which become
    titles."""
    if "participation" not in rows[0]:
        return [(None, list(part)) for _, part in groupby(rows, key=list)]
    parts: dict[str, list[dict]] = {}
    for row in rows:
        title = (
            f"{row['task']}, {row['split']}, {row['participation']:.0%} of {row['links']} boards a round, "
            f"{row['rounds']} "
            f"rounds, {row['seeds']} seeds; backbone: {row['backbone']}; target {row['target']:.4f}"
        )
        shown = (
            "scheme",
            "accuracy",
            "accuracy_sd",
            "up_bytes",
            "down_bytes",
            "total_bytes",
            "bytes_to_target",
            "ratio_to_fp32",
        )
        parts.setdefault(title, []).append({k: row[k] for k in shown})
    return list(parts.items())


def _table(title: str | None, rows: list[dict]):
    from quantfl.report.tables import Column, FittedTable

    columns = [Column(k, right=not isinstance(v, str), name=isinstance(v, str)) for k, v in rows[0].items()]
    table = FittedTable(columns, title=title)
    for row in rows:
        table.add(
            *(
                f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" if type(v) is int else str(v)
                for v in row.values()
            )
        )
    return table
