"""`quantfl torture`: runs under random faults, each held against a clean one."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    seed: int = typer.Option(0, "--seed", min=0, help="First schedule of faults."),
    count: int = typer.Option(100, "--count", "-n", min=1, help="How many."),
    board: str = typer.Option(
        "inproc", "--board", help="inproc (virtual time), or emulated boards of another kind."
    ),
    ble: bool = typer.Option(
        False, "--ble", help="native boards over a virtual BLE adapter, with faults in the air besides."
    ),
    boards: int = typer.Option(
        None, "--boards", min=1, help="Boards per fleet; default 4, others than inproc 2."
    ),
    rounds: int = typer.Option(
        None, "--rounds", min=1, help="Rounds per run; default 4, others than inproc 3."
    ),
    jobs: int = typer.Option(
        None, "--jobs", "-j", min=1, help="Schedules at once; default 1, others than inproc 8."
    ),
    chaos: str = typer.Option(
        None, "--chaos", help="These faults instead of those drawn from the seed (docs/CHAOS.md)."
    ),
    model: Path = typer.Option(None, "--model", help="Package to train; default: the demo's."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list, one entry per schedule."),
) -> int:
    """Train small fleets under random faults and check heads, deadlines, lies and counters
    (docs/CHAOS.md). Exit code 1: one failed."""
    from dataclasses import asdict

    from quantfl.cli.output import console, print_json
    from quantfl.emulation import available
    from quantfl.emulation.base import ROOT
    from quantfl.errors import ToolError, UsageError
    from quantfl.link.chaos import parse
    from quantfl_lab.torture.runs import command_of, run_schedules

    if ble:
        from quantfl_lab.ble.adapter import missing

        if board not in ("native", "inproc"):
            raise UsageError(f"--ble: {board} boards have no BLE port; native ones do")
        if jobs not in (None, 1):
            raise UsageError("--ble: one schedule at a time (--jobs 1); the adapter is the process's")
        board, jobs = "native", 1
        if missing() is not None:
            raise ToolError(missing())
    reason = available(board)
    if reason is not None:
        raise ToolError(f"cannot boot {board} boards: {reason}")
    if chaos is not None:
        parse(chaos)
    path = model or ROOT / "models" / "digits" / "digits_int8.tflite"
    if not path.exists():
        raise ToolError(f"{path} is missing: name a package with --model")
    real = board != "inproc"
    size = {"boards": boards or (2 if real else 4), "rounds": rounds or (3 if real else 4)}
    c, outcomes = console(), []
    for outcome in run_schedules(
        seed, count, str(path), jobs=jobs or (8 if real else 1), kind=board, spec=chaos, ble=ble, **size
    ):
        outcomes.append(outcome)
        if outcome.problems and not as_json:
            again = command_of(outcome.seed, board, ble=ble, **size)
            c.print(f"{again}\n  {outcome.spec}", highlight=False, soft_wrap=True, markup=False)
            for problem in outcome.problems:
                c.print(f"  - {problem}", highlight=False, soft_wrap=True, markup=False)
    failed = sum(bool(o.problems) for o in outcomes)
    if as_json:
        print_json([asdict(o) for o in outcomes])
    else:
        struck: dict[str, int] = {}
        for o in outcomes:
            for name, n in o.faults.items():
                struck[name] = struck.get(name, 0) + n
        shown = ", ".join(f"{n:,} {name}" for name, n in sorted(struck.items()))
        c.print(
            f"{count - failed} of {count} schedules held: {sum(o.delivered for o in outcomes):,} of "
            f"{sum(o.asked for o in outcomes):,} deltas delivered, {sum(o.refused for o in outcomes):,} "
            f"refused, {sum(o.notes for o in outcomes):,} "
            f"explained differences of counters; faults: {shown or 'none'}",
            highlight=False,
            soft_wrap=True,
        )
    return 1 if failed else 0
