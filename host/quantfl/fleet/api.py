"""One call for a whole run: what `quantfl run` and `quantfl demo` do, and what a script may do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantfl.errors import RunError
from quantfl.fleet.checkpoint import RunFolder, State, write_atomic
from quantfl.fleet.config import (
    BudgetTable,
    DownlinkTable,
    FleetTable,
    KeysTable,
    RunConfig,
    StartTable,
    UplinkTable,
)
from quantfl.fleet.finalise import finalise, plain_summary
from quantfl.fleet.rounds import Progress, Rounds, Silent
from quantfl.fleet.setup import RunSetup, set_up_run
from quantfl.fleet.steering import Steering
from quantfl.link.chaos import Chaos
from quantfl.locks import locked

#: Is shown a run before its set-up begins, and says by what it is steered.
Watch = Callable[[Rounds], Steering]


@dataclass(frozen=True)
class Outcome:
    """summary: as in summary.json. interrupted: ended by Ctrl-C or `stop` before its last round. history: its
    rounds, round 0 first."""

    summary: dict[str, Any]
    interrupted: bool
    history: list[dict[str, Any]] = field(default_factory=list)


def base_of(description: Path) -> Path:
    """The folder that relative paths of a description start from: its own, or for a run's copy the
    original's.
    """
    return RunFolder(description.parent).base


def default_folder(config: RunConfig, base: Path) -> Path:
    return base / config.run.out if config.run.out else Path("runs") / config.run.name


async def run(
    config: RunConfig,
    *,
    base: Path,
    folder: Path | None,
    resume: bool = False,
    compare: bool = False,
    progress: Progress | None = None,
    kind: str | None = None,
    text: str = "",
    chaos: Chaos | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Run a description to its end, or to Ctrl-C, and write everything into `folder` (None: nothing is
    written).

    resume: go on from the folder's checkpoint. compare: repeat the same rounds over plain float32 in-process
    and put their bytes beside. kind: emulated boards of another kind than the description names. chaos:
    faults on purpose (docs/CHAOS.md). watch: is shown the run, and gives what steers it. RunError when the
    folder already holds a run and resume is not asked for.
    """
    progress = progress or Silent()
    with contextlib.ExitStack() as held:
        if folder is not None:
            RunFolder(folder).create()
            held.enter_context(locked(folder / "run.lock", f"the run's folder {folder}", RunError))
        return await _run(
            config,
            base=base,
            folder=folder,
            resume=resume,
            compare=compare,
            progress=progress,
            kind=kind,
            text=text,
            chaos=chaos,
            watch=watch,
        )


async def _run(
    config: RunConfig,
    *,
    base: Path,
    folder: Path | None,
    resume: bool,
    compare: bool,
    progress: Progress,
    kind: str | None,
    text: str,
    chaos: Chaos | None,
    watch: Watch | None,
) -> Outcome:
    """`run`, once the folder is ours."""
    place, state = None, None
    if folder is not None:
        place = RunFolder(folder)
        place.create()
        if place.exists and not resume:
            raise RunError(
                f"{folder} already holds a run: go on with --resume, or choose another folder with --out"
            )
        if not resume:
            for suffix in ("", "-wal", "-shm"):  # of a run that died before its first checkpoint
                place.ledger.with_name(place.ledger.name + suffix).unlink(missing_ok=True)
        if resume:
            state = place.load()
            _check_same(state, config, place)
            place.summary.unlink(missing_ok=True)  # of fewer rounds; a new one comes at the end
            if text:  # it may ask for more rounds than before
                write_atomic(place.description, text.encode())
    prepared = set_up_run(
        config, base=base, folder=place, progress=progress, state=state, kind=kind, chaos=chaos
    )
    rounds = Rounds(prepared.federation, state)
    if watch is not None:
        prepared.federation.steering = watch(rounds)
    prepared.federation.steering.bind(rounds.stop, config.fleet.size - config.run.min_boards)
    try:
        if place is not None and state is None:
            write_atomic(place.package, prepared.package.data)
            write_atomic(place.description, text.encode())
            place.save_origin(base)
        with _stop_on_interrupt(rounds, progress):
            await rounds.set_up()
            rounds.score_start()
            rounds.checkpoint()
            await rounds.run()
        own = await rounds.personalised_heads()
        differ = await rounds.compare_all()
        rounds.checkpoint()
    finally:
        await prepared.close()
    plain = await plain_run(config, base, progress) if compare and not rounds.stopped else None
    progress.phase("writing the model and the summary")
    summary = finalise(prepared, rounds, differ, plain=plain, own=own)
    return Outcome(summary, rounds.stopped, rounds.history)


def _check_same(state: State, config: RunConfig, place: RunFolder) -> None:
    """RunError: the run was started with another description, but for a number of rounds that is not yet
    done."""
    try:
        before: RunConfig | None = RunConfig.model_validate(state.config)
    except ValueError:
        before = None
    if before is not None:
        run = before.run.model_copy(update={"rounds": config.run.rounds})
        if before.model_copy(update={"run": run}) == config and config.run.rounds >= state.round:
            return
    raise RunError(
        f"{place.path} was started with another description; resume it with the one in it (FLEET.toml), in "
        "which run.rounds may be raised"
    )


async def quiet_run(config: RunConfig, base: Path) -> Rounds:
    """All rounds of a description, with nothing written or shown; the finished Rounds hold history and
    ledger."""
    prepared: RunSetup = set_up_run(config, base=base, folder=None, progress=Silent())
    rounds = Rounds(prepared.federation)
    try:
        await rounds.set_up()
        rounds.score_start()
        await rounds.run()
    finally:
        await prepared.close()
    return rounds


async def history(config: RunConfig, *, base: Path) -> list[dict[str, Any]]:
    """The history of a quiet run."""
    return (await quiet_run(config, base)).history


async def plain_run(config: RunConfig, base: Path, progress: Progress) -> dict[str, Any]:
    """The same run with float32 both ways on in-process boards: measured by the same links and ledger."""
    progress.phase("the same rounds over plain float32, in-process, for comparison")
    fleet = FleetTable(emulate="inproc", boards=config.fleet.size)
    plain = config.model_copy(
        update={
            "fleet": fleet,
            "uplink": UplinkTable(codec="fp32"),
            "downlink": DownlinkTable(codec="fp32"),
            "budget": BudgetTable(),
            "start": StartTable(how="none"),
            "keys": KeysTable(),
        }
    )
    return plain_summary(await quiet_run(plain, base))


@contextlib.contextmanager
def _stop_on_interrupt(rounds: Rounds, progress: Progress) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after what is complete; a second Ctrl-C ends the process."""
    loop = asyncio.get_running_loop()
    handled = []
    for number in (signal.SIGINT, signal.SIGTERM):

        def stop(number: int = number) -> None:
            progress.phase("stopping: complete rounds are kept; Ctrl-C again ends at once")
            rounds.stop()
            loop.remove_signal_handler(number)

        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
