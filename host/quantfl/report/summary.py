"""The closing summary of a run, from its summary.json."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from quantfl.link.ledger import SENT_CATEGORIES
from quantfl.report.ledger import category_column
from quantfl.report.live import kib
from quantfl.report.tables import Column, FittedTable, number


def late_answers(history: list[dict[str, Any]]) -> dict[str, int]:
    """Answers to earlier requests, by board, that came when nobody waited for them any more: counted and not
    used."""
    found: dict[str, int] = {}
    for record in history:
        for name, board in record.get("boards", {}).items():
            if board.get("late"):
                found[name] = found.get(name, 0) + board["late"]
    return found


def print_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy before and after, bytes per link and category, the same for plain float32, where all was
    written."""
    console = console or Console()
    before, after = summary["accuracy_before"], summary["accuracy"]
    console.print(
        f"\n[bold]{escape(summary['name'])}[/]: accuracy {before:.4f} → [bold green]{after:.4f}[/] on "
        f"{summary['test_samples']} test samples in {summary['rounds']} rounds on {summary['boards_used']}",
        highlight=False,
    )
    if "exported_accuracy" in summary and summary["exported_accuracy"] is not None:
        console.print(
            f"exported int8 model in {summary['interpreter']}: accuracy {summary['exported_accuracy']:.4f}",
            highlight=False,
        )
    if own := summary.get("personalised_heads"):
        held = max(1, sum(b["held"] for b in own.values()))
        console.print(
            f"personalised heads: {sum(b['own'] for b in own.values())} of {len(own)} boards; of the "
            "samples held back "
            f"{sum(b['global'] for b in own.values()) / held:.1%} right by the global head, "
            f"{sum(b['in_use'] for b in own.values()) / held:.1%} by those in use",
            highlight=False,
        )
    ledger = summary["ledger"]
    categories = [p for p in SENT_CATEGORIES if p != "security" or any(ledger[w][p] for w in ("up", "down"))]
    table = FittedTable(
        [Column("link", name=True), Column(""), *map(category_column, categories), number("total")],
        title="bytes on the wire, by link and category",
        repeat=True,
    )
    for name, board in ledger["boards"].items():
        for direction in ("up", "down"):
            row = board[direction]
            table.add(
                name if direction == "up" else "",
                direction,
                *(f"{row[p]:,}" for p in categories),
                f"{board[direction + '_total']:,}",
            )
    table.section()
    for direction in ("up", "down"):
        row = ledger[direction]
        table.add(
            "all" if direction == "up" else "",
            direction,
            *(f"{row[p]:,}" for p in categories),
            f"{ledger[direction + '_total']:,}",
        )
    table.section()
    for direction in ("up", "down"):
        row = ledger["rounds_" + direction]
        total = ledger[f"rounds_{direction}_total"]
        table.add(
            "rounds only" if direction == "up" else "",
            direction,
            *(f"{row[p]:,}" for p in categories),
            f"{total:,}",
        )
    console.print(table)
    if summary.get("fp32"):
        plain = summary["fp32"]
        mine = ledger["rounds_up_total"] + ledger["rounds_down_total"]
        theirs = plain["rounds_up_total"] + plain["rounds_down_total"]
        console.print(
            "plain float32 exchange, same rounds and boards, measured in-process: accuracy "
            f"{plain['accuracy']:.4f}, "
            f"{kib(plain['rounds_up_total'])} up + {kib(plain['rounds_down_total'])} down; "
            f"here {kib(ledger['rounds_up_total'])} + {kib(ledger['rounds_down_total'])}: "
            f"[bold]{theirs / mine:.1f}×[/] fewer bytes",
            highlight=False,
        )
    if ledger["samples_fed"]:
        fed = sum(ledger["samples_fed"].values())
        console.print(f"samples fed to emulated boards (not federated traffic): {kib(fed)}", highlight=False)
    console.print(
        "traffic counters of both ends: "
        + (
            "agree on every link"
            if not ledger["notes"]
            else "[red]differ without a counted fault[/]"
            if ledger["imbalances"]
            else "agree, but for counted faults"
        ),
        highlight=False,
    )
    for note in ledger["notes"][:8]:
        console.print(f"  {note}", highlight=False, soft_wrap=True, markup=False)
    if len(ledger["notes"]) > 8:
        console.print(f"  … {len(ledger['notes']) - 8} more: quantfl ledger", highlight=False)
    if late := summary.get("late"):
        who = ", ".join(f"{name} {count}" for name, count in late.items())
        console.print(
            f"late answers, counted and not used: {sum(late.values())} ({who})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for what, path in summary["files"].items():
        console.print(f"  {what:<10} {path}", highlight=False, markup=False, soft_wrap=True)
