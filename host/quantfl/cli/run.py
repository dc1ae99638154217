"""`quantfl run`: federated rounds over a fleet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from quantfl.fleet.config import RunConfig


def command(
    description: Path = typer.Argument(
        ..., help="FLEET.toml: fleet, data, rounds, hyper-parameters (docs/FLEET.md)."
    ),
    out: Path = typer.Option(None, "--out", help="Folder of the run; default: run.out or runs/NAME."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in the folder."),
    compare: bool = typer.Option(
        False, "--compare", help="Repeat the rounds over plain float32 in-process, for the bytes."
    ),
    board: str = typer.Option(None, "--board", help="Emulated boards of this kind (docs/BOARDS.md)."),
    chaos: str = typer.Option(
        None, "--chaos", help="Faults, e.g. 'flip=1e-5,drop=0.01; board-03: lie=nan' (docs/CHAOS.md)."
    ),
    trace: Path = typer.Option(
        None, "--trace", help="Write every frame to this file (quantfl trace, Wireshark)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as JSON; progress goes to stderr."),
) -> int:
    """Run the rounds of DESCRIPTION. Ctrl-C ends the run cleanly with everything so far kept (exit code
    130)."""
    from quantfl.fleet import api, config
    from quantfl.link.trace import tracing

    conf = config.load(description)
    folder = out or api.default_folder(conf, description.parent)
    with tracing(trace):
        return execute(
            conf,
            description,
            folder,
            resume=resume,
            compare=compare,
            board=board,
            as_json=as_json,
            chaos=chaos,
        )


def on_virtual_time(conf: RunConfig, board: str | None) -> bool:
    """Whether a run needs no clock of the machine: all its boards are in this process, so that no time-out
    can fire early."""
    return (board or conf.fleet.emulate) == "inproc"


def execute(
    conf: RunConfig,
    description: Path,
    folder: Path,
    *,
    resume: bool,
    compare: bool,
    board: str | None,
    as_json: bool,
    chaos: str | None = None,
) -> int:
    """Run a loaded description with a live table and print its summary; shared with `quantfl demo`."""
    from quantfl.cli.output import console, print_json, stderr_console
    from quantfl.errors import UsageError
    from quantfl.fleet import api
    from quantfl.link.clock import run_virtual
    from quantfl.report.live import LiveTable
    from quantfl.report.summary import print_summary

    if board is not None and conf.fleet.emulate is None:
        raise UsageError("--board is for descriptions with fleet.emulate; this one names boards at ports")
    from quantfl.fleet.config import read_text
    from quantfl.link.chaos import parse

    spec = None if chaos is None else parse(chaos)
    text = read_text(description)
    with LiveTable(stderr_console() if as_json else console(), title=conf.run.name) as live:
        run = run_virtual if on_virtual_time(conf, board) else asyncio.run
        outcome = run(
            api.run(
                conf,
                base=api.base_of(description),
                folder=folder,
                resume=resume,
                compare=compare,
                progress=live,
                kind=board,
                text=text,
                chaos=spec,
            )
        )
    if as_json:
        print_json(outcome.summary)
    else:
        print_summary(outcome.summary)
    return 130 if outcome.interrupted else 0
