"""From a run's description to a federation ready to run: package, data, boards, clients."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from quantfl.core.head import Head, Score
from quantfl.core.nn import Engine
from quantfl.data import load, split
from quantfl.data.dataset import located
from quantfl.data.quantise import misfit, to_int8
from quantfl.device import Device
from quantfl.emulation import Board, best_kind, boot_fleet, close_all
from quantfl.errors import DataError, RunError
from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.chaos import FaultInjector
from quantfl.fleet.checkpoint import RunFolder, State
from quantfl.fleet.config import RunConfig
from quantfl.fleet.rounds import Federation, Progress
from quantfl.fleet.twin import Twin
from quantfl.link import ble
from quantfl.link.chaos import Chaos
from quantfl.link.keys import KeyRing
from quantfl.link.transport import open_transport
from quantfl.messages import config_bytes
from quantfl.package.convert import convert, convert_bytes
from quantfl.package.flatfile import METADATA_NAME, ModelFile, read_file
from quantfl.package.program import Package, grid, open_package
from quantfl.strategy.aggregators import AggregatorOptions
from quantfl.strategy.base import Downlink, Strategy
from quantfl.strategy.downlink import DitheredDownlink, SharedDownlink
from quantfl.strategy.rate_control import AdaptiveRate
from quantfl.strategy.registry import Parts


@dataclass
class RunSetup:
    """A federation and what has to be cleaned up after it. test: features int8 [n, F] and labels [n] at the
    host."""

    federation: Federation
    package: Package
    kind: str
    test: tuple[np.ndarray, np.ndarray]
    test_inputs: np.ndarray
    boards: list[Board] = field(default_factory=list)

    async def close(self) -> None:
        gc.unfreeze()
        if self.federation.twin is not None:
            self.federation.twin.close()
        await asyncio.gather(*(c.close() for c in self.federation.clients), return_exceptions=True)
        close_all(self.boards)


def load_package(
    path: Path,
    *,
    cut: str | None = None,
    calibrate: Path | None = None,
    train: str | None = None,
    recompute: bool = False,
) -> Package:
    """A package, or a model that is converted now; a package is converted anew when one of the options is
    given."""
    if path.suffix == ".tflite" and path.is_file():
        model = ModelFile(read_file(path), str(path))
        if cut is None and train is None and not recompute and METADATA_NAME in model.metadata:
            return open_package(model, str(path))
        return convert_bytes(
            model, source=str(path), cut=cut, name=path.stem, train=train or "all", recompute=recompute
        ).opened
    return convert(path, cut=cut, calibrate=calibrate, train=train or "all", recompute=recompute).opened


def client_seed(seed: int, index: int) -> int:
    """Seed of a client's order of samples: the same for the same run seed and place in the fleet."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def key_ring(config: RunConfig, base: Path) -> KeyRing | None:
    """The keys of a description. A run that boots its boards makes the file where there is none: they get
    their keys from it."""
    if config.keys.file is None:
        return None
    path = base / config.keys.file
    return KeyRing.make(path) if config.fleet.emulate and not path.exists() else KeyRing.load(path)


def evaluator(package: Package, features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], Score]:
    """A function that scores global parameters float32 [params] on the host's test features."""
    head = package.head

    def evaluate(params: np.ndarray) -> Score:
        return head.evaluate(params, features, labels)

    return evaluate


@dataclass(frozen=True)
class Shards:
    """The data of a run in the model's int8 input: per client (x, labels), and the host's test set."""

    clients: list[tuple[np.ndarray, np.ndarray]]
    x_test: np.ndarray
    y_test: np.ndarray
    warning: str | None = None  # the samples hardly fit the model's input


def shards(config: RunConfig, package: Package, base: Path) -> Shards:
    """Load, quantise and split the run's data. DataError when it does not fit the model."""
    data = config.data
    ds = load(*located(data.name, data.path, base))
    if len(ds.classes) > package.dims[-1]:
        raise DataError(
            f"data.name: {data.name} has {len(ds.classes)} classes, but the model tells {package.dims[-1]}"
        )
    parts = split(
        data.split,
        ds.y_train,
        ds.groups_train,
        config.fleet.size,
        config.run.seed,
        per_client=data.samples_per_board,
    )
    quantise = partial(
        to_int8,
        scale=package.input_scale,
        zero_point=package.input_zero_point,
        size=package.input_size,
        source=data.name,
    )
    keep = slice(None, data.test_samples)
    clients = [(quantise(ds.x_train[p]), ds.y_train[p].astype(np.uint16)) for p in parts]
    warning = misfit(ds.x_test[:500], package.input_scale, package.input_zero_point, data.name)
    return Shards(clients, quantise(ds.x_test[keep]), ds.y_test[keep], warning)


def make_strategy(config: RunConfig, head: Head, params: np.ndarray) -> Strategy:
    """The strategy of a description, from the first head's parameters float32 [params]."""
    run, down = config.run, config.downlink
    per_round = max(1, round(run.participation * config.fleet.size))
    rounds_away = config.fleet.size / per_round
    rate = AdaptiveRate(
        run.rounds,
        config.uplink.schedule(per_round),
        down.schedule(per_round),
        config.uplink.make().step,
        window=max(5, math.ceil(rounds_away)),
        budget=config.budget.limit(),
    )
    downlink: Downlink
    if down.codec == "dz":
        unit = grid(params, head.tensors)
        downlink = DitheredDownlink(
            head, params, unit=unit, rounds_away=rounds_away, dither=down.dither, seed=run.seed
        )
    else:
        downlink = SharedDownlink(head, down.make(), params)
    table = config.strategy
    options = AggregatorOptions(table.weighting, table.liars, table.clip)
    return table.make(Parts(head, params, downlink, rate, table.aggregator, options))


def set_up_run(
    config: RunConfig,
    *,
    base: Path,
    folder: RunFolder | None,
    progress: Progress,
    state: State | None = None,
    kind: str | None = None,
    chaos: Chaos | None = None,
) -> RunSetup:
    """Load, split, boot. base: folder that relative paths in the description start from. state: to go on
    from.

    kind overrides fleet.emulate. chaos: faults between host and boards. Boards are booted here and closed by
    RunSetup.close.
    """
    progress.phase("reading the model")
    if state is not None and folder is not None:
        package = open_package(read_file(folder.package), str(folder.package))
        if package.sha256 != state.package_sha256:
            raise RunError(f"{folder.package} is not the package this run was started with")
    else:
        calibrate = base / config.model.calibrate if config.model.calibrate else None
        package = load_package(
            base / config.model.path,
            cut=config.model.cut,
            calibrate=calibrate,
            train=config.model.train,
            recompute=config.model.recompute,
        )
    if not package.dims:
        raise RunError(f"{config.model.path} has nothing to train; convert it with a head")
    keys = key_ring(config, base)
    to_push = package.data if keys is None else keys.sign(package.data)
    progress.phase("reading the data")
    fed = config.fleet.emulate is not None or any(b.samples for b in config.fleet.board)
    data = shards(config, package, base)
    if data.warning is not None:
        progress.warn(data.warning)
    features = Engine(package.data).run_batch(data.x_test)
    boards: list[Board] = []
    if config.fleet.emulate is not None:
        kind = kind or (best_kind() if config.fleet.emulate == "auto" else config.fleet.emulate)
        progress.phase(f"booting {config.fleet.size} {kind} boards")
        boards = boot_fleet(kind, config.fleet.size, seed=config.run.seed)
    else:
        kind = "ports"
        if any(b.url.startswith("ble://") for b in config.fleet.board):
            ble.configure(config.fleet.ble_connections, config.fleet.ble_packet)
    head = package.head
    strategy = make_strategy(config, head, package.params)
    if state is not None:
        try:
            strategy.restore(state.strategy)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise RunError(
                f"the checkpoint is not one of strategy {config.strategy.name!r} ({error!r})"
            ) from None
    names = [b.name for b in boards] or [t.name or t.url for t in config.fleet.board]
    injector = None
    if chaos is not None:
        chaos.check(names)
        injector = FaultInjector(chaos, head.tensors, config.uplink.make())
    clients = [
        make_client(
            i,
            config,
            boards[i] if boards else None,
            data.clients[i] if fed else None,
            package,
            injector,
            keys,
        )
        for i in range(config.fleet.size)
    ]
    federation = Federation(
        config,
        to_push,
        package.sha256,
        strategy,
        clients,
        evaluator(package, features, data.y_test),
        folder,
        progress,
        injector,
        twin=Twin(clients) if kind == "twin" else None,
    )
    return RunSetup(federation, package, kind, (features, data.y_test), data.x_test, boards)


def make_client(
    index: int,
    config: RunConfig,
    board: Board | None,
    data: tuple[np.ndarray, np.ndarray] | None,
    package: Package,
    chaos: FaultInjector | None = None,
    keys: KeyRing | None = None,
) -> BoardClient:
    """One client of a run: its data, seed and configuration; board: emulated, None: at the port the
    description names."""
    from quantfl.emulation.base import send_samples

    feed: Callable[[], int] | None = None
    expected = 0
    if board is not None:
        assert data is not None  # emulated boards have no sensor of their own
        name, url = board.name, board.url
        feed, expected = partial(board.feed, *data), len(data[1])
    else:
        table = config.fleet.board[index]
        name, url = table.name or table.url, table.url
        if table.samples and data is not None:
            feed, expected = partial(send_samples, table.samples, *data), len(data[1])
    seed = client_seed(config.run.seed, index)
    message = config_bytes(
        config.train.fit(),
        config.uplink.make(),
        run_id=run_id(config, package),
        seed=seed,
        personal=config.train.personal,
        residual_decay=config.uplink.residual_decay,
    )
    session = None
    if chaos is not None:
        session = chaos.session(name, open_transport(url), board.reset if board is not None else None, keys)
    return BoardClient(
        index,
        name,
        Device(url, name=name, session=session, keys=keys),
        message,
        feed,
        expected,
        board,
        agreed_steps=config.uplink.codec == "dz",
        codecs=(config.uplink.codec, config.downlink.codec),
    )


def run_id(config: RunConfig, package: Package) -> int:
    """Tells runs apart on a board: a delta of another run is never taken for one of this."""
    text = f"{config.run.name}/{config.run.seed}/{package.sha256}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
