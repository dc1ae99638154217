"""A rival's whole run over real links: quantfl's rounds, frames and ledger, with boards whose deltas a rival codes."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantfl.bench.rivals.base import Quantiser, Sender, Shapes, sizes
from quantfl.bench.rivals.board import PACKAGE, UNHURRIED_MS, RivalBoard, Turns, uplink_seed
from quantfl.bench.rivals.schemes import Rival
from quantfl.bench.rivals.simple import Float
from quantfl.core.codec import Codec, decode
from quantfl.core.head import Head, Score, head_hash
from quantfl.core.link import Link
from quantfl.core.nn import Engine
from quantfl.device import Delta, Device, DeviceInfo, config_bytes
from quantfl.fleet.config import RunConfig
from quantfl.fleet.member import Member
from quantfl.fleet.prepare import client_seed, load_package, shards
from quantfl.fleet.rounds import Federation, Rounds, Silent
from quantfl.link.session import Session
from quantfl.package.program import grid
from quantfl.strategy.downlink import KEPT, Chain, Lattice, Update
from quantfl.strategy.fedavg import Contribution, FedAvg
from quantfl.strategy.rate import Rate


@dataclass(frozen=True)
class Setting:
    """What all schemes of a comparison share. clients: (features int8 [n, F], labels [n]) each; test: the same at the host."""

    config: RunConfig
    head: Head
    params: np.ndarray
    clients: list[tuple[np.ndarray, np.ndarray]]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def shapes(self) -> Shapes:
        dims = self.head.dims
        return tuple(s for i, o in zip(dims, dims[1:], strict=False) for s in ((i, o), (o,)))


def setting(config: RunConfig, base: Path) -> Setting:
    """The clients' cached features, computed once by the boards' own engine."""
    calibrate = base / config.model.calibrate if config.model.calibrate else None
    package = load_package(base / config.model.path, cut=config.model.cut, calibrate=calibrate)
    data, engine = shards(config, package, base), Engine(package.data)
    clients = [(engine.run_batch(x), y) for x, y in data.clients]
    head = package.head
    return Setting(config, head, package.params, clients, (engine.run_batch(data.x_test), data.y_test))


class RivalChain(Chain):
    """Chain whose updates a rival codes; the hash of the head they change is the randomness both ends share.

    feedback: what coding loses goes out with a later round; else the global head becomes what the boards hold.
    """

    def __init__(self, head: Head, quantiser: Quantiser, shapes: Shapes, origin: np.ndarray, feedback: bool):
        super().__init__(head, Codec("fp32"), origin)
        self.quantiser, self.shapes, self.feedback = quantiser, shapes, feedback
        self.memory: dict = {}

    def advance(self, params: np.ndarray, steps: float) -> None:
        base, before = head_hash(self.shared), self.shared
        data = self.quantiser.encode(params - before, self.shapes, self.memory, base)
        self.shared = (before + self.quantiser.decode(data, self.shapes, base)).astype(np.float32)
        self.updates = [*self.updates[-(KEPT - 1) :], Update(base, head_hash(self.shared), data)]


@dataclass
class RivalStrategy(FedAvg):
    """FedAvg on what a rival decodes. Deltas come with the four bytes of their seed in front, put there at the host (RivalMember)."""

    quantiser: Quantiser | None = None
    shapes: Shapes = ()

    def _decode(self, data: bytes) -> np.ndarray:
        return self.quantiser.decode(data[4:], self.shapes, int.from_bytes(data[:4], "little"))

    def read(self, data: bytes, samples: int, *, agreed: int = 0, loss: float | None = None) -> Contribution:
        return Contribution(samples, data, 0, 0, loss, float(np.linalg.norm(self._decode(data).astype(np.float64))))

    def mean(self, contributions) -> np.ndarray | None:
        total, weight = np.zeros(self.params.size, np.float64), 0
        for c in contributions:
            total += float(c.samples) * self._decode(c.data)
            weight += c.samples
        return total / weight if weight else None

    def step(self, round_: int, contributions: list[Contribution]) -> bool:
        moved = super().step(round_, contributions)
        if isinstance(self.downlink, RivalChain) and not self.downlink.feedback:
            self.params = self.downlink.shared.copy()
        return moved


class RivalDevice(Device):
    """Its board is in this process and need not be asked what it is."""

    def __init__(self, board: RivalBoard):
        super().__init__(board.url, session=Session(board, Link(rto_ms=UNHURRIED_MS, rto_min_ms=UNHURRIED_MS)))
        self.board = board

    async def hello(self, timeout: float = 0.0) -> DeviceInfo:
        self.info = self.board.describe()
        return self.info


@dataclass(eq=False)
class RivalMember(Member):
    """run_seed: of the randomness that a board and the host share."""

    run_seed: int = 0

    async def contribute(self, round_: int, strategy: FedAvg, *, timeout: float) -> Delta:
        delta = await super().contribute(round_, strategy, timeout=timeout)
        seed = uplink_seed(self.run_seed, round_ & 0xFF, self.index)
        return replace(delta, data=seed.to_bytes(4, "little") + delta.data)


TAG = 4  # bytes that the host puts in front of a delta (RivalStrategy); never on the wire
Watch = Callable[[int, int, np.ndarray], None]


def federation(s: Setting, rival: Rival, watch: Watch | None = None) -> Federation:
    """Everything a run needs; inside a running event loop."""
    config, head, shapes, run = s.config, s.head, s.shapes, s.config.run
    down = Float(32) if rival.down == "fp32" else rival.down
    absence = config.fleet.size / max(1, round(run.fraction * config.fleet.size))
    span = config.downlink
    rate = Rate(run.rounds, config.uplink.rate(), span.rate(), config.uplink.step, window=max(5, math.ceil(absence)))
    if rival.down == "ours":
        chain: Chain | Lattice = Lattice(head, s.params, unit=grid(s.params), absence=absence, dither=span.dither, seed=run.seed)
    else:
        chain = RivalChain(head, down, shapes, s.params, rival.down_feedback)
    strategy = RivalStrategy(head, s.params, chain, rate, rival.server_lr, rival.up, shapes)

    def apply(data: bytes, base: int) -> np.ndarray:
        return decode(data, sizes(shapes)) if rival.down == "ours" else down.decode(data, shapes, base)

    turns, members = Turns(), []
    for index, (features, labels) in enumerate(s.clients):
        fit = replace(config.train.fit(), seed=client_seed(run.seed, index))
        board = RivalBoard(index, head, s.params, shapes, features, labels, fit, Sender(rival.up, rival.feedback), apply, run.seed,
                           turns, watch)  # fmt: skip
        message = config_bytes(config.train.fit(), Codec("fp32"), run_id=0, seed=fit.seed)
        members.append(RivalMember(index, f"board-{index:02}", RivalDevice(board), message, run_seed=run.seed))

    def evaluate(params: np.ndarray) -> Score:
        return head.evaluate(params, *s.test)

    return Federation(config, PACKAGE, hashlib.sha256(PACKAGE).hexdigest(), strategy, members, evaluate, None, Silent())


async def _run(s: Setting, rival: Rival, watch: Watch | None) -> Rounds:
    start = s.config.start.model_copy(update={"how": "none"})
    s = replace(s, config=s.config.model_copy(update={"start": start}))
    f = federation(s, rival, watch)
    rounds = Rounds(f)
    try:
        await rounds.set_up()
        rounds.score_start()
        await rounds.run()
    finally:
        await asyncio.gather(*(m.device.close() for m in f.members), return_exceptions=True)
    return rounds


def history(s: Setting, rival: Rival, watch: Watch | None = None) -> list[dict]:
    """One run's history, as quantfl.fleet.api.history gives it. watch: called with (round, board, delta float32 [params])."""
    return asyncio.run(_run(s, rival, watch)).history
