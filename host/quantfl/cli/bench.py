"""`quantfl bench`: every figure the project claims."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import typer

BENCHES = {
    "engine": "instructions of an inference on an emulated Cortex-M4F",
    "bytes": "bytes on the wire to an accuracy, by scheme",
    "quantisers": "what one message loses against its bits, ours and rivals",
    "ablations": "levels, initialisation and error feedback",
}


def command(
    name: str = typer.Argument(..., help="; ".join(f"{k}: {v}" for k, v in BENCHES.items()) + "."),
    quick: bool = typer.Option(False, "--quick", help="Fewer inputs, seeds and rounds."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
    out: Path = typer.Option(Path("runs/bench"), "--out", help="Folder for the pictures, of benches that draw some."),
) -> int:
    """Measure what the project claims; docs/BENCH.md says how."""
    from importlib import import_module

    from quantfl.cli.output import console, print_json
    from quantfl.errors import ToolError, UsageError

    if name not in BENCHES:
        raise UsageError(f"no bench {name!r}; there are {', '.join(BENCHES)}")
    module = import_module(f"quantfl.bench.{name}")
    rows = module.run(quick=quick)
    if hasattr(module, "plots"):
        try:
            for path in module.plots(rows, out):
                typer.echo(f"wrote {path}", err=True)
        except ToolError as error:
            typer.echo(f"no pictures: {error}", err=True)
    if as_json:
        print_json(rows)
        return 0
    from rich.table import Table

    for _, part in groupby(rows, key=list):
        some, table = list(part), Table()
        for column in some[0]:
            table.add_column(column, justify="left" if isinstance(some[0][column], str) else "right")
        for row in some:
            table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" if type(v) is int else str(v) for v in row.values()))
        console().print(table)
    return 0
