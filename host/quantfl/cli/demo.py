"""`quantfl demo`: the whole road in a few minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    board: str = typer.Option(
        None,
        "--board",
        help="Kind of emulated board (docs/BOARDS.md); default: the best that can be booted.",
        autocompletion=complete.kinds,
    ),
    out: Path = typer.Option(
        Path("demo"), "--out", help="Folder for everything that is written; emptied first."
    ),
    rounds: int = typer.Option(None, min=1, help="Rounds; default: those of models/digits/demo.toml."),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> int:
    """Eight emulated boards learn digits: convert, push, train, aggregate, export, with every byte
    counted."""
    from quantfl.cli.output import console, stderr_console
    from quantfl.cli.run import execute
    from quantfl.emulation import BOARD_KINDS, available, best_kind
    from quantfl.emulation.base import ROOT
    from quantfl.emulation.qemu import MACHINES
    from quantfl.errors import ToolError, UsageError
    from quantfl.fleet import config
    from quantfl.suggest import meant

    places = (ROOT / "models" / "digits", Path(__file__).resolve().parents[1] / "demo")
    description = next((p / "demo.toml" for p in places if (p / "demo.toml").exists()), None)
    if description is None:
        raise ToolError("the demo's model is missing: install quantfl from a wheel, or run it from a clone")
    if board is not None and board not in BOARD_KINDS:
        raise UsageError(f"--board {board}: known are {', '.join(BOARD_KINDS)}{meant(board, BOARD_KINDS)}")
    say = stderr_console() if as_json else console()
    kind = board or best_kind()
    what = {
        "native": "native processes running the same C",
        "inproc": "boards inside this process running the same C",
        "nucleo_l476rg": "Nucleo-L476RG images on a model of their chip (QEMU 10)",
        "twin": "boards inside this process running the same C, many at a time",
    }.get(kind)
    if what is None:
        what = f"emulated {MACHINES[kind].core} boards (QEMU, the firmware PlatformIO built)"
    say.print(f"boards: {what}", highlight=False)
    for better in ("qemu_m4", "native"):
        if better == kind:
            break
        if (reason := available(better)) is not None:
            say.print(f"  not {better}: {reason}", highlight=False)
    conf = config.load(description)
    if rounds is not None:
        conf = conf.model_copy(update={"run": conf.run.model_copy(update={"rounds": rounds})})
    if (out / "checkpoint.npz").exists():
        shutil.rmtree(out)  # a folder of an earlier demo, and only such a one
    return execute(
        conf,
        description,
        out,
        resume=False,
        compare=True,
        board=kind,
        as_json=as_json,
        again="`quantfl demo`, which begins anew",
    )
