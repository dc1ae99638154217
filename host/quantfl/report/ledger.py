"""Tables of a run's ledger: by link, by round, by kind of message; energy per link; where both ends' counters
differed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from quantfl.link.energy import RADIOS, joules
from quantfl.link.ledger import Key, Ledger, Traffic
from quantfl.link.message_kinds import category_of
from quantfl.report.tables import Column, FittedTable, number

COLUMNS = ("payload", "framing", "acknowledgement", "retransmission", "handshake", "security", "noise")
_SHORT = {"acknowledgement": "ack", "retransmission": "retrans."}
_BY: dict[str, Callable[[Key], str | int]] = {
    "link": lambda k: k.board,
    "round": lambda k: k.round,
    "kind": lambda k: k.kind,
    "category": lambda k: category_of(k.kind),
}


def category_column(category: str) -> Column:
    """The column of a byte category; on a narrow terminal the last ones are left out first."""
    return number(_SHORT.get(category, category), drop=1 + COLUMNS.index(category))


def rows(ledger: Ledger, *, first: int = 0) -> list[dict[str, Any]]:
    """Every row: round, link, direction, kind, bytes by category, total."""
    return [
        {
            "round": k.round,
            "link": k.board,
            "direction": k.direction,
            "kind": k.kind,
            **asdict(t),
            "total": t.total,
        }
        for k, t in sorted(ledger.rows.items())
        if k.round >= first
    ]


def table(ledger: Ledger, by: str, *, first: int = 0) -> list[dict[str, Any]]:
    """Rows summed by "link", "round", "kind" or traffic "category", one per direction."""
    if by == "all":
        return rows(ledger, first=first)
    name = _BY[by]
    found = ledger.grouped(lambda k: (name(k), k.direction), first=first)
    ordered = sorted(found.items(), key=lambda i: (i[0][0], i[0][1] == "down"))
    return [{by: of, "direction": direction, **asdict(t), "total": t.total} for (of, direction), t in ordered]


def print_table(ledger: Ledger, by: str, console: Console, *, first: int = 0) -> None:
    """One table; categories of which there is not a byte are left out."""
    found = table(ledger, by, first=first)
    keys = [k for k in ("round", "link", "kind", "category", "direction") if found and k in found[0]]
    total = sum(ledger.total(first=first), Traffic())
    columns = [c for c in COLUMNS if getattr(total, c) or c in ("payload", "framing")]
    shown = FittedTable(
        [
            *(Column("" if key == "direction" else key, name=key == "link") for key in keys),
            *(category_column(c) for c in columns),
            number("total"),
        ],
        title="every row" if by == "all" else f"bytes on the wire by {by}",
        repeat=by != "all",
    )
    last = None
    for row in found:
        lead = [str(row[k]) for k in keys]
        if by != "all" and row[by] == last:
            lead[0] = ""
        last = row.get(by)
        shown.add(*lead, *(f"{row[c]:,}" for c in columns), f"{row['total']:,}")
    shown.section()
    shown.add(
        "all", *[""] * (len(keys) - 1), *(f"{getattr(total, c):,}" for c in columns), f"{total.total:,}"
    )
    console.print(shown)


def energies(
    ledger: Ledger, *, radio: str | None = None, nj_per_bit: float | None = None, first: int = 0
) -> dict[str, dict[str, Any]]:
    """link -> radio, nJ per bit, joules up and down, at the board's end. radio, nj_per_bit: instead of the
    link's own."""
    out = {}
    for name, (up, down) in ledger.per_board(rounds_only=bool(first)).items():
        kind = radio or ledger.radios.get(name, "ble")
        out[name] = {
            "radio": kind,
            "nj_per_bit": RADIOS[kind].nj_per_bit if nj_per_bit is None else nj_per_bit,
            "joules_up": joules(up.total, kind, nj_per_bit),
            "joules_down": joules(down.total, kind, nj_per_bit),
        }
    return out


def print_energy(energy: dict[str, dict[str, Any]], ledger: Ledger, console: Console) -> None:
    shown = FittedTable(
        [
            Column("link", name=True),
            Column("radio", drop=1),
            number("nJ/bit", drop=2),
            number("up mJ"),
            number("down mJ"),
            number("total mJ"),
        ],
        title="energy at the board's end of each link (estimate, docs/LEDGER.md)",
    )
    for name, e in energy.items():
        up, down = 1000 * e["joules_up"], 1000 * e["joules_down"]
        shown.add(
            name,
            e["radio"],
            f"{e['nj_per_bit']:,g}",
            f"{up:,.3f}",
            f"{down:,.3f}",
            f"{up + down:,.3f}",
        )
    console.print(shown)
    layers = sorted({(k.kind, k.direction, c.modelled) for k, c in ledger.carried.items()})
    for layer, direction, modelled in layers:
        total = sum(
            c.bytes
            for k, c in ledger.carried.items()
            if (k.kind, k.direction, c.modelled) == (layer, direction, modelled)
        )
        console.print(
            f"{layer} {direction}: {total:,} bytes{' (modelled)' if modelled else ''}", highlight=False
        )
    if ledger.samples:
        fed = sum(ledger.samples.values())
        console.print(
            f"samples fed to emulated boards (not federated traffic): {fed:,} bytes", highlight=False
        )


def print_notes(ledger: Ledger, console: Console) -> None:
    """Where both ends' counters differed, and why."""
    if not ledger.notes:
        console.print("traffic counters of both ends agree on every link", highlight=False)
        return
    console.print("traffic counters of both ends:", highlight=False)
    for n in ledger.notes:
        console.print(
            f"  {'' if n.explained else '[red]not explained[/]: '}{escape(str(n))}",
            highlight=False,
            soft_wrap=True,
        )
