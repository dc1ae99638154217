"""The public API: models to packages, virtual and real boards, whole federations. `import quantfl` offers all
of it.

Everything here may be called from a plain script and from a notebook, whose event loop runs already. Errors
are those of `quantfl.errors`; each has a message of one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from quantfl.emulation import INSIDE, Board, best_kind, boot_fleet, close_all
from quantfl.errors import ToolError, UsageError
from quantfl.fleet import api as fleet_api
from quantfl.fleet import config as fleet_config
from quantfl.fleet.config import RunConfig
from quantfl.fleet.observers import Progress
from quantfl.link.clock import run_virtual
from quantfl.link.ports import Port, serial_ports
from quantfl.package.convert import convert as _convert
from quantfl.package.program import Package
from quantfl.report.progress import RoundBar

if TYPE_CHECKING:
    import pandas

Result = TypeVar("Result")


def convert(
    model: str | Path,
    out: str | Path | None = None,
    *,
    calibrate: str | Path | None = None,
    cut: str | None = None,
    train: str = "all",
) -> Package:
    """A package from a model: a full int8 .tflite, or a Keras model with calibration inputs.

    out: where the package is written as well. calibrate: .npz (x) or .npy with real inputs. cut: the layer at
    whose input the model is cut. train: `all`, `scales` or `scales+head`. PackageError, UnsupportedError: the
    model cannot be used, and why.
    """
    from quantfl.fleet.checkpoint import write_atomic

    where = None if calibrate is None else Path(calibrate)
    made = _convert(Path(model), cut=cut, calibrate=where, train=train)
    if out is not None:
        write_atomic(Path(out), made.package)
    return made.opened


def discover() -> list[Port]:
    """The serial ports of this machine, USB first, each with a guess of what is plugged in. Nothing is
    opened.
    """
    return serial_ports()


@contextlib.contextmanager
def emulate(count: int = 1, kind: str = "auto", *, seed: int = 1) -> Iterator[list[Board]]:
    """Boot virtual boards, and switch them off at the end of the `with` block.

    kind: `inproc`, `native`, `qemu_m4` and the other emulated cores; `auto`: the best that this machine can
    boot. Every board has a `url` for `Device` and a `feed(x, labels)`. ToolError: they cannot be booted here,
    and why.
    """
    boards = boot_fleet(best_kind() if kind == "auto" else kind, count, seed=seed)
    try:
        yield boards
    finally:
        close_all(boards)


class History(Sequence[dict[str, Any]]):
    """The rounds of a run, one dict each, round 0 first; keys as in history.jsonl (docs/FLEET.md)."""

    def __init__(self, rounds: Sequence[dict[str, Any]]):
        self.rounds = list(rounds)

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, index: Any) -> Any:
        return self.rounds[index]

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """(round, value) of every round that has this key, such as `accuracy` or `up_bytes`."""
        return [(r["round"], r[name]) for r in self.rounds if name in r]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per round, without the tables per board. ToolError: pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise ToolError("pandas is missing: pip install pandas") from None
        plain = [{k: v for k, v in r.items() if not isinstance(v, dict | list)} for r in self.rounds]
        return pandas.DataFrame(plain).set_index("round")


@dataclass(frozen=True)
class Run:
    """What a run leaves. summary: as summary.json has it; folder: where it was written, None: nowhere."""

    summary: dict[str, Any]
    history: History
    folder: Path | None
    interrupted: bool = False

    @property
    def accuracy(self) -> float:
        """Accuracy of the last global head on the host's test data, 0..1."""
        return float(self.summary["accuracy"])


def describe(description: str | Path | Mapping[str, Any] | RunConfig) -> RunConfig:
    """A checked description of a run: from a FLEET.toml, from its text, or from nested dicts with the same
    keys.
    """
    if isinstance(description, RunConfig):
        return description
    if isinstance(description, Mapping):
        return fleet_config.validate(dict(description), "the description")
    text = str(description)
    if "\n" in text:
        return fleet_config.parse(text, "the description")
    return fleet_config.load(Path(text))


def run(
    description: str | Path | Mapping[str, Any] | RunConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | Literal["bar"] | None = None,
    base: str | Path | None = None,
) -> Run:
    """Run a federation to its end.

    description: as for `describe`. out: the run's folder, None: nothing is written. resume: go on from the
    checkpoint there. progress: "bar" shows a bar, in a terminal and in a notebook; an object of your own is
    told of everything that happens. base: folder that relative paths start from; None: that of the file, else
    the present one. RunError, LinkError, DataError and the other errors say what is wrong.
    """
    config = describe(description)
    from_file = isinstance(description, str | Path) and "\n" not in str(description)
    here = fleet_api.base_of(Path(str(description))) if from_file else Path()
    start = Path(base) if base is not None else here
    folder = None if out is None else Path(out)
    if resume and folder is None:
        raise UsageError("resume needs out: the folder of the run that goes on")
    text = Path(str(description)).read_text(encoding="utf-8-sig") if from_file else ""
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(RoundBar(config.run.rounds)) if progress == "bar" else progress
        work = fleet_api.run(config, base=start, folder=folder, resume=resume, progress=told, text=text)
        outcome = _whole(work, virtual=config.fleet.emulate in INSIDE)
    return Run(outcome.summary, History(outcome.history), folder, outcome.interrupted)


def _whole(work: Coroutine[Any, Any, Result], *, virtual: bool) -> Result:
    """Run a coroutine to its end, in a thread of its own where an event loop runs already."""
    runner = run_virtual if virtual else asyncio.run
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        result: Result = runner(work)
        return result
    results: list[Result] = []
    errors: list[BaseException] = []

    def inside() -> None:
        try:
            results.append(runner(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
