"""`quantfl run`: federated rounds over a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from quantfl.cli import complete
from quantfl.cli.serve import HOST, PORT

if TYPE_CHECKING:
    from quantfl.fleet.api import Watch
    from quantfl.fleet.config import RunConfig
    from quantfl.fleet.observers import Progress
    from quantfl.fleet.rounds import Rounds
    from quantfl.report.live import LiveTable


def command(
    description: Path = typer.Argument(
        Path("FLEET.toml"), help="The description: fleet, data, rounds, hyper-parameters (docs/FLEET.md)."
    ),
    out: Path = typer.Option(None, "--out", help="Folder of the run; default: run.out or runs/NAME."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in the folder."),
    compare: bool = typer.Option(
        False, "--compare", help="Repeat the rounds over plain float32 in-process, for the bytes."
    ),
    board: str = typer.Option(
        None,
        "--board",
        help="Emulated boards of this kind (docs/BOARDS.md).",
        autocompletion=complete.kinds,
    ),
    chaos: str = typer.Option(
        None, "--chaos", help="Faults, e.g. 'flip=1e-5,drop=0.01; board-03: lie=nan' (docs/CHAOS.md)."
    ),
    trace: Path = typer.Option(
        None, "--trace", help="Write every frame to this file (quantfl trace, Wireshark)."
    ),
    live: bool = typer.Option(
        False, "--live", help="Show the run as a page in a browser, and steer it from there (extra [live])."
    ),
    host: str = HOST,
    port: int = PORT,
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
            page=(host, port) if live else None,
        )


def on_virtual_time(conf: RunConfig, board: str | None) -> bool:
    """Whether a run needs no clock of the machine: all its boards are in this process, so that no time-out
    can fire early."""
    from quantfl.emulation import INSIDE

    return (board or conf.fleet.emulate) in INSIDE


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
    again: str | None = None,
    page: tuple[str, int] | None = None,
) -> int:
    """Run a loaded description with a live table and print its summary; shared with `quantfl demo`.

    again: the command that goes on after Ctrl-C; None: this one with --resume. page: address and port of the
    live page, None: there is none.
    """
    from quantfl.cli.output import console, print_json, stderr_console
    from quantfl.errors import Interrupted, UsageError
    from quantfl.fleet import api
    from quantfl.fleet.checkpoint import RunFolder
    from quantfl.link.clock import run_virtual
    from quantfl.report.live import LiveTable
    from quantfl.report.summary import print_summary

    if board is not None and conf.fleet.emulate is None:
        raise UsageError("--board is for descriptions with fleet.emulate; this one names boards at ports")
    from quantfl.fleet.config import read_text
    from quantfl.link.chaos import parse

    spec = None if chaos is None else parse(chaos)
    text = read_text(description)
    again = again or _resuming(description, folder, board, chaos)
    show = stderr_console() if as_json else console()
    with contextlib.ExitStack() as shown:
        live = shown.enter_context(LiveTable(show, title=conf.run.name, rounds=conf.run.rounds))
        progress, watch = (live, None) if page is None else _page(shown, live, conf, *page)
        run = run_virtual if on_virtual_time(conf, board) else asyncio.run
        work = api.run(
            conf,
            base=api.base_of(description),
            folder=folder,
            resume=resume,
            compare=compare,
            progress=progress,
            kind=board,
            text=text,
            chaos=spec,
            watch=watch,
        )
        try:
            outcome = run(work)
        except KeyboardInterrupt:
            kept = "its complete rounds are kept" if RunFolder(folder).exists else "nothing of it is kept"
            then = again if RunFolder(folder).exists else "start it again"
            raise Interrupted(f"interrupted; {kept}: {then}") from None
    if as_json:
        print_json(outcome.summary)
    else:
        print_summary(outcome.summary)
    if outcome.interrupted:
        done, of = outcome.summary["rounds"], outcome.summary["rounds_asked"]
        raise Interrupted(f"stopped after round {done} of {of}; go on with: {again}")
    return 0


def _page(
    shown: contextlib.ExitStack, live: LiveTable, conf: RunConfig, host: str, port: int
) -> tuple[Progress, Watch]:
    """Start the live page beside the table; returns who is told of the run, and who gets to steer it."""
    from quantfl.fleet.observers import Several
    from quantfl.fleet.steering import Steering
    from quantfl.report.page.server import PageServer
    from quantfl.report.page.state import RunState

    state = RunState(conf.run.name, conf.run.rounds)
    steering = Steering()
    server = shown.enter_context(PageServer(state, host=host, port=port, steering=steering))
    live.console.print(f"live page: {server.url}", highlight=False, soft_wrap=True)

    def watch(rounds: Rounds) -> Steering:
        state.follow(rounds.ledger, rounds.history)
        return steering

    shown.callback(state.end)
    return Several(live, state), watch


def _resuming(description: Path, folder: Path, board: str | None, chaos: str | None) -> str:
    """The command line that goes on with an interrupted run."""
    words = ["quantfl", "run", str(description), "--out", str(folder), "--resume"]
    words += [] if board is None else ["--board", board]
    return shlex.join(words + ([] if chaos is None else ["--chaos", chaos]))
