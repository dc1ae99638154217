"""A rival's whole run over real links: the same selection, fits, frames and catching up as quantfl's own
rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import Codec, decode
from quantfl.core.head import Head, head_hash
from quantfl.errors import DeviceError, RunError
from quantfl.fleet.config import RunConfig
from quantfl.fleet.rounds import select
from quantfl.fleet.setup import client_seed
from quantfl.package.program import grid
from quantfl.strategy.downlink import KEPT, DitheredDownlink, SharedDownlink, Update
from quantfl.strategy.rate_control import AdaptiveRate, update_similarity
from quantfl_lab.rivals.base import Quantiser, Remembered, Sender, Shapes, sizes
from quantfl_lab.rivals.board import Line, RivalBoard, uplink_seed
from quantfl_lab.rivals.schemes import Rival
from quantfl_lab.rivals.simple import Float

Watch = Callable[[int, int, np.ndarray], None]


@dataclass(frozen=True)
class Setting:
    """What all schemes of a comparison share: as quantfl_lab.bench.setting.Setting, without a package.
    clients: (features int8 [n, F], labels [n]) each; test: the same at the host."""

    config: RunConfig
    head: Head
    params: np.ndarray
    clients: list[tuple[np.ndarray, np.ndarray]]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def shapes(self) -> Shapes:
        dims = self.head.dims
        return tuple(s for i, o in itertools.pairwise(dims) for s in ((i, o), (o,)))


class RivalDownlink(SharedDownlink):
    """SharedDownlink whose updates a rival codes; the hash of the head they change is the randomness both
    ends share."""

    def __init__(self, head: Head, quantiser: Quantiser, shapes: Shapes, origin: np.ndarray):
        super().__init__(head, Codec("fp32"), origin)
        self.quantiser, self.shapes = quantiser, shapes
        self.memory: dict = {}

    def publish(self, params: np.ndarray, steps: float) -> None:
        base, before = head_hash(self.shared), self.shared
        data = self.quantiser.encode(params - before, self.shapes, self.memory, base)
        self.shared = (before + self.quantiser.decode(data, self.shapes, base)).astype(np.float32)
        self.updates = [*self.updates[-(KEPT - 1) :], Update(base, head_hash(self.shared), data)]


class Fleet:
    """A host and its boards; `round` is one round."""

    def __init__(self, s: Setting, rival: Rival, watch: Watch | None = None):
        config, run = s.config, s.config.run
        self.s, self.rival = s, rival
        self.params = np.ascontiguousarray(s.params, np.float32).copy()
        self.up, down = (
            Remembered(rival.up),
            Remembered(Float(32) if isinstance(rival.down, str) else rival.down),
        )
        clients = max(1, round(run.participation * config.fleet.size))
        absence = config.fleet.size / clients
        self.rate = AdaptiveRate(
            run.rounds,
            config.uplink.schedule(clients),
            config.downlink.schedule(clients),
            config.uplink.make().step,
            window=max(5, math.ceil(absence)),
        )
        self.downlink: SharedDownlink | DitheredDownlink
        if rival.down == "ours":
            self.downlink = DitheredDownlink(
                s.head,
                s.params,
                unit=grid(s.params),
                rounds_away=absence,
                dither=config.downlink.dither,
                seed=run.seed,
            )
        else:
            self.downlink = RivalDownlink(s.head, down, s.shapes, s.params)

        def apply(data: bytes, base: int) -> np.ndarray:
            return (
                decode(data, sizes(s.shapes)) if rival.down == "ours" else down.decode(data, s.shapes, base)
            )

        fits = [replace(config.train.fit(), seed=client_seed(run.seed, i)) for i in range(len(s.clients))]
        self.lines = [
            Line(
                RivalBoard(
                    i,
                    s.head,
                    self.params.copy(),
                    s.shapes,
                    x,
                    y,
                    fits[i],
                    Sender(self.up, rival.feedback),
                    apply,
                    run.seed,
                    watch,
                )
            )
            for i, (x, y) in enumerate(s.clients)
        ]
        self._held = [head_hash(self.params)] * len(self.lines)

    def _train(self, index: int, round_: int) -> tuple[int, float, bytes]:
        """SyncPlan a board to its head as quantfl.fleet.board_client does, and let it train."""
        line, way = self.lines[index], self.downlink.plan(index, self._held[index])
        update = None
        if way.updates is None:
            line.put(lib.QFL_OBJECT_HEAD, way.params.astype("<f4").tobytes())
        else:
            for i, u in enumerate(way.updates):
                if (
                    i < len(way.updates) - 1
                    or len(u.data) + lib.QFL_UPDATE_HEAD_BYTES > line.host.peer_message_max
                ):
                    line.update(u.result, u.data)
                else:
                    update = u.data
        self._held[index] = way.result
        return line.train(round_, way.result, update)

    def round(self, round_: int) -> dict:
        """One round. RunError when a board or the head is no longer finite."""
        run = self.s.config.run
        total, weight, loss, boards = np.zeros(self.params.size), 0, 0.0, {}
        weights, norms = [], []
        for index in select(run.seed, round_, len(self.lines), run.participation):
            try:
                samples, mine, data = self._train(index, round_)
            except DeviceError as error:
                raise RunError(f"round {round_}: {error}") from None
            seed = uplink_seed(run.seed, round_ & 0xFF, index)
            delta = self.up.decode(data, self.s.shapes, seed)
            total += float(samples) * delta
            weights.append(samples)
            norms.append(float(np.linalg.norm(delta.astype(np.float64))))
            weight, loss = weight + samples, loss + samples * mine
            boards[f"board-{index:02d}"] = {"samples": samples, "delta_bytes": len(data)}
        with np.errstate(over="ignore"):
            params = (self.params + self.rival.server_lr * (total / weight)).astype(np.float32)
        if not np.isfinite(params).all():
            raise RunError(f"round {round_}: the aggregated head is not finite")
        self.rate.observe([], loss / weight, update_similarity(total / weight, weights, norms))
        self.params = params
        self.downlink.publish(params, self.rate.downlink_steps(round_))
        if isinstance(self.downlink, RivalDownlink) and not self.rival.down_feedback:
            self.params = self.downlink.shared.copy()
        return self.record(round_) | {"train_loss": loss / weight, "boards": boards}

    def record(self, round_: int) -> dict:
        """Accuracy of the global head and bytes of all links so far."""
        score, books = (
            self.s.head.evaluate(self.params, *self.s.test),
            [line.counters() for line in self.lines],
        )
        return {
            "round": round_,
            "accuracy": score.accuracy,
            "loss": score.loss,
            "head": head_hash(self.params),
            "up_bytes": sum(c.rx_bytes for c in books),
            "down_bytes": sum(c.tx_bytes for c in books),
        }


def history(s: Setting, rival: Rival, watch: Watch | None = None) -> list[dict]:
    """One run's history, with the main fields of quantfl.fleet.api.history's. watch: called with (round,
    board, delta float32 [params]). RunError, CodecError: the run diverged."""
    fleet = Fleet(s, rival, watch)
    return [fleet.record(0), *(fleet.round(r) for r in range(1, s.config.run.rounds + 1))]
