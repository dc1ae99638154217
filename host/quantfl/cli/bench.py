"""`quantfl bench`: every figure the project claims."""

from __future__ import annotations

import typer


def command(
    name: str = typer.Argument(..., help="engine or bytes."),
    quick: bool = typer.Option(False, "--quick", help="Fewer inputs, seeds and rounds."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Measure: `engine` counts instructions on an emulated Cortex-M4F, `bytes` the bytes to an accuracy by scheme."""
    from importlib import import_module

    from quantfl.cli.output import console, print_json
    from quantfl.errors import UsageError

    if name not in ("engine", "bytes"):
        raise UsageError(f"no bench {name!r}; there are engine and bytes")
    rows = import_module(f"quantfl.bench.{name}").run(quick=quick)
    if as_json:
        print_json(rows)
        return 0
    from rich.table import Table

    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" if type(v) is int else str(v) for v in row.values()))
    console().print(table)
    return 0
