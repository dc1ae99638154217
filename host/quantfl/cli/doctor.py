"""`quantfl doctor`: what keeps boards from being built, flashed, found or talked to, each with its remedy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from quantfl.diagnosis import Finding

_STYLE = {"ok": "green", "note": "yellow", "fault": "red"}


def command(
    urls: list[str] = typer.Argument(
        None, help="Ports of boards to ask; without them every USB serial port is asked."
    ),
    baud: int = typer.Option(921_600, min=300, help="Bits per second on a serial port."),
    timeout: float = typer.Option(5.0, min=0.1, help="Seconds to wait for each board."),
    ble: bool = typer.Option(True, "--ble/--no-ble", help="Also look whether Bluetooth works."),
    keys: Path = typer.Option(
        None, "--keys", envvar="QUANTFL_KEYS", help="Key file: talk to boards that hold its keys only."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Check tools, serial ports, Bluetooth and boards. Every line says what was found; a line that begins
    with "fault" or "note" says what to do. Exit code: 0 without faults, else that of the first fault."""
    from dataclasses import asdict

    from quantfl import diagnosis
    from quantfl.cli.output import print_json
    from quantfl.link import ports
    from quantfl.link.keys import KeyRing

    ring = KeyRing.load(keys) if keys else None
    found = [*diagnosis.tools(), *diagnosis.serial()]
    if ble:
        found += asyncio.run(diagnosis.bluetooth())
    asked = urls or ports.candidates()
    found += asyncio.run(diagnosis.boards(asked, baud=baud, timeout=timeout, keys=ring, named=bool(urls)))
    if as_json:
        print_json([asdict(f) for f in found])
    else:
        _print(found)
    return next((f.exit_code for f in found if f.state == "fault"), 0)


def _print(found: list[Finding]) -> None:
    from quantfl.cli.output import console

    for f in found:
        remedy = f": {f.remedy}" if f.remedy else ""
        line = f"{f.state:5}  {f.what}{remedy}"
        console().print(line, style=_STYLE[f.state], highlight=False, markup=False, soft_wrap=True)
