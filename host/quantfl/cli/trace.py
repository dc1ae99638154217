"""`quantfl trace`: what went over the links, frame by frame."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import typer


def command(
    file: Path = typer.Argument(..., help="A trace written with --trace FILE."),
    link: str = typer.Option(None, "--link", help="Only links whose name contains this."),
    kind: str = typer.Option(
        None, "--type", help="Only this type: DATA, ACK, SYN, SYNACK, RST, sealed or noise."
    ),
    limit: int = typer.Option(None, "--limit", min=1, help="At most so many frames."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object per line."),
) -> int:
    """Print a trace: time, link, direction as the host sees it, frame, message.

    The file is pcapng: Wireshark opens it, and tools/wireshark/quantfl.lua names its fields.
    """
    from quantfl.errors import UsageError
    from quantfl.link.trace import TYPES, read

    types = (*TYPES.values(), "sealed", "noise")
    if kind is not None and kind not in types:
        raise UsageError(f"--type {kind}: it must be one of {', '.join(types)}")
    frames = (f for f in read(file) if (link is None or link in f.link) and kind in (None, f.type))
    start = None
    for frame in islice(frames, limit):
        start = frame.time if start is None else start
        typer.echo(json.dumps(frame.to_json()) if as_json else frame.line(start))
    return 0
