"""`quantfl ledger`: every byte of a run, from its SQLite file."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from pathlib import Path

import typer

from quantfl.cli import complete


class By(StrEnum):
    link = "link"
    round = "round"
    kind = "kind"
    category = "category"
    all = "all"


def command(
    run: Path = typer.Argument(..., help="Folder of a run, finished or not.", autocompletion=complete.runs),
    by: By = typer.Option(
        None, "--by", help="One table only; all: one row per link, round, direction and kind."
    ),
    rounds_only: bool = typer.Option(False, "--rounds-only", help="Leave the set-up out (round 0)."),
    radio: str = typer.Option(
        None,
        "--radio",
        help="Energy as if all links were of this radio (docs/LEDGER.md).",
        autocompletion=complete.radios,
    ),
    nj_per_bit: float = typer.Option(
        None, "--nj-per-bit", min=0.0, help="Energy per bit in nJ: a figure of your own."
    ),
    as_csv: bool = typer.Option(False, "--csv", help="Every row as CSV."),
    as_json: bool = typer.Option(False, "--json", help="Tables, energy and notes as JSON."),
) -> int:
    """Print the bytes of RUN by link, round and kind of message, energy per link, and where both ends'
    counters differed."""
    from dataclasses import asdict

    from quantfl.cli.output import console, print_json
    from quantfl.errors import UsageError
    from quantfl.fleet import ledger_store
    from quantfl.fleet.checkpoint import RunFolder
    from quantfl.link.energy import RADIOS
    from quantfl.report.ledger import energies, print_energy, print_notes, print_table, rows, table
    from quantfl.suggest import meant

    if radio is not None and radio not in RADIOS:
        raise UsageError(f"--radio: must be one of {', '.join(RADIOS)} (got {radio!r}){meant(radio, RADIOS)}")
    ledger = ledger_store.load(RunFolder(run).required("ledger").ledger)
    first = int(rounds_only)
    if as_csv:
        found = rows(ledger, first=first)
        writer = csv.DictWriter(
            sys.stdout, list(found[0]) if found else ["round", "link", "direction", "kind"]
        )
        writer.writeheader()
        writer.writerows(found)
        return 0
    energy = energies(ledger, radio=radio, nj_per_bit=nj_per_bit, first=first)
    if as_json:
        print_json(
            {
                **{f"by_{b}": table(ledger, b, first=first) for b in ("link", "round", "kind", "category")},
                "rows": rows(ledger, first=first),
                "energy": energy,
                "samples_fed": ledger.samples,
                "carried": [
                    k._asdict() | v._asdict() for k, v in sorted(ledger.carried.items()) if k.round >= first
                ],
                "notes": [n._asdict() for n in ledger.notes],
                "total": {
                    w: asdict(t) for w, t in zip(("up", "down"), ledger.total(first=first), strict=True)
                },
            }
        )
        return 0
    c = console()
    for which in ("link", "round", "kind") if by is None else (by.value,):
        print_table(ledger, which, c, first=first)
    if by in (None, By.link):
        print_energy(energy, ledger, c)
        print_notes(ledger, c)
    return 0
