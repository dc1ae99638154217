"""What all schemes of a comparison share: a description, the clients' cached features, the host's test set.

Features are computed once per model and data set by the boards' own engine and kept on disk (QUANTFL_CACHE,
else ~/.cache/quantfl).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from quantfl.core.board import InprocBoard
from quantfl.core.head import Head
from quantfl.core.link import Link
from quantfl.core.nn import Engine
from quantfl.data import load, split
from quantfl.data.quantise import to_int8
from quantfl.device import Device
from quantfl.errors import UsageError
from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.config import RunConfig
from quantfl.fleet.rounds import Federation, Rounds, Silent
from quantfl.fleet.setup import client_seed, evaluator, load_package, make_strategy, run_id
from quantfl.link.clock import run_virtual
from quantfl.link.session import Session
from quantfl.link.transport import Transport
from quantfl.messages import config_bytes
from quantfl.package.program import Package
from quantfl_lab.bench.headless import head_of, head_only

UNHURRIED_MS = 60_000  # a time-out: no bytes get lost in this process, and fits hold up the loop
FLASH = 256 << 10  # of a board that holds a head alone
POLL_BYTES = 2048  # that a board reads per turn (qfl_device.c)


def cache_folder() -> Path:
    """Where features and finished runs are kept between calls."""
    return Path(os.environ.get("QUANTFL_CACHE") or Path.home() / ".cache" / "quantfl") / "bench"


@dataclass(frozen=True)
class Features:
    """A data set behind a backbone: x int8 [n, F], y int64 [n], groups int64 [n] or None, for boards and for
    testing."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray


def features(package: Package, name: str, path: Path | None, train: int | None, test: int | None) -> Features:
    """Of the first `train` and `test` samples of a data set (None: all)."""
    model = hashlib.sha256(
        package.original
    ).hexdigest()  # how it is compiled does not change what it computes
    key = hashlib.sha256(f"{model}/{package.cut_op}/{name}/{path}/{train}/{test}".encode()).hexdigest()[:24]
    kept = cache_folder() / f"features-{key}.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as z:
            return Features(z["x"], z["y"], z.get("groups"), z["x_test"], z["y_test"])
    ds, engine = load(name, path), Engine(package.data)

    def through(x: np.ndarray) -> np.ndarray:
        q = to_int8(
            x,
            scale=package.input_scale,
            zero_point=package.input_zero_point,
            size=package.input_size,
            source=name,
        )
        return engine.run_batch(q)

    found = Features(
        through(ds.x_train[:train]),
        ds.y_train[:train],
        None if ds.groups_train is None else ds.groups_train[:train],
        through(ds.x_test[:test]),
        ds.y_test[:test],
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: v for k, v in vars(found).items() if v is not None}
    part = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez(part, **arrays)
    os.replace(part, kept)
    return found


@dataclass(frozen=True)
class Setting:
    """head, params: the first head, float32 [params]. clients: (features int8 [n, F], labels uint16 [n])
    each; test: the same at the host. package: of the head alone (quantfl_lab.bench.headless), which boards
    need; None: the run has no boards but rivals'."""

    config: RunConfig
    head: Head
    params: np.ndarray
    clients: list[tuple[np.ndarray, np.ndarray]]
    test: tuple[np.ndarray, np.ndarray]
    package: Package | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the head's tensors: kernel and bias per layer."""
        dims = self.head.dims
        return tuple(s for i, o in itertools.pairwise(dims) for s in ((i, o), (o,)))


def setting(config: RunConfig, base: Path, train: int | None = None) -> Setting:
    """train: how many of the data set's samples there are to be split between the boards, None: all."""
    calibrate = base / config.model.calibrate if config.model.calibrate else None
    package, data = (
        load_package(base / config.model.path, cut=config.model.cut, calibrate=calibrate),
        config.data,
    )
    f = features(
        package, data.name, None if data.path is None else base / data.path, train, data.test_samples
    )
    parts = split(
        data.split, f.y, f.groups, config.fleet.size, config.run.seed, per_client=data.samples_per_board
    )
    clients = [(f.x[p], f.y[p].astype(np.uint16)) for p in parts]
    alone = head_only(package)
    return Setting(config, head_of(alone), alone.params, clients, (f.x_test, f.y_test), alone)


class DirectTransport(Transport):
    """Bytes to and from an in-process board without threads and time: the board works in the turns of the
    event loop."""

    def __init__(self, url: str, board: InprocBoard):
        self.url, self.board = url, board
        self._out = bytearray()
        self._on_bytes: Callable[[bytes], None] | None = None
        self._due = False
        self._unread = 0  # bytes in the board's ring, of which it takes POLL_BYTES a turn

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        self._on_bytes = on_bytes
        self._later()

    def write(self, data: bytes) -> None:
        self._out += data
        self._later()

    def _later(self) -> None:
        if not self._due and self._on_bytes is not None:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self._on_bytes is None:
            return
        took = self.board.write(bytes(self._out[:8192])) if self._out else 0
        del self._out[:took]
        self._unread = max(0, self._unread + took - POLL_BYTES)
        wait = self.board.poll(0, slices=1)
        data = self.board.read()
        if data:
            self._on_bytes(data)
        if data or self._out or self._unread or wait == 0:
            self._later()

    async def close(self) -> None:
        self._on_bytes = None


def _feed(board: InprocBoard, x: np.ndarray, y: np.ndarray) -> int:
    """Give a board its samples and let it take them in."""
    given = board.set_samples(x, y)
    while board.samples < len(y) and board.poll(0, slices=64) == 0:
        pass
    return given


def federation(s: Setting) -> Federation:
    """All of a run but its rounds, over boards in this process; call it inside a running event loop."""
    config, run, package = s.config, s.config.run, s.package
    if package is None:
        raise UsageError("boards need a package of the head; this setting has none")
    clients = []
    for index, (x, y) in enumerate(s.clients):
        name = f"board-{index:02d}"
        board = InprocBoard(name.encode(), flash=FLASH)
        session = Session(
            DirectTransport(f"direct://{name}", board),
            Link(rto_ms=UNHURRIED_MS, rto_min_ms=UNHURRIED_MS),
            nonce_seed=index,
        )  # so that a run is the same to the byte however often it is made
        message = config_bytes(
            config.train.fit(),
            config.uplink.make(),
            run_id=run_id(config, package),
            seed=client_seed(run.seed, index),
            residual_decay=config.uplink.residual_decay,
        )
        clients.append(
            BoardClient(
                index,
                name,
                Device(name, session=session),
                message,
                partial(_feed, board, x, y),
                len(y),
                board,
                agreed_steps=config.uplink.codec == "dz",
            )
        )
    strategy = make_strategy(config, s.head, s.params)
    return Federation(
        config,
        package.data,
        package.sha256,
        strategy,
        clients,
        evaluator(package, *s.test),
        None,
        Silent(),
    )


async def _rounds(s: Setting) -> list[dict]:
    f = federation(s)
    rounds = Rounds(f)
    try:
        await rounds.set_up()
        rounds.score_start()
        await rounds.run()
    finally:
        await asyncio.gather(*(m.device.close() for m in f.clients), return_exceptions=True)
    return rounds.history


def history(s: Setting) -> list[dict]:
    """A whole run's history, as quantfl.fleet.api.history gives it; on virtual time, so that it depends on
    the setting alone."""
    return run_virtual(_rounds(s))
