"""A rival as a strategy: its codes in both directions, and quantfl's own parts for all else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from quantfl.core.codec import Codec, CodecError
from quantfl.core.head import Head, head_hash
from quantfl.package.program import grid
from quantfl.strategy.base import Contribution, Snapshot, Update
from quantfl.strategy.composed import ComposedStrategy
from quantfl.strategy.downlink import KEPT, DitheredDownlink, SharedDownlink
from quantfl.strategy.rate_control import AdaptiveRate
from quantfl.strategy.server_optimizers import ServerSgd
from quantfl_lab.bench.setting import Setting
from quantfl_lab.rivals.base import Quantiser, Remembered, Shapes, sizes
from quantfl_lab.rivals.board import uplink_seed
from quantfl_lab.rivals.schemes import Rival


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


class RivalMean:
    """The mean of deltas that a rival codes, by samples."""

    needs: Literal["sums", "each"] = "sums"

    def __init__(self, up: Quantiser, shapes: Shapes, seed: int):
        self.up, self.shapes, self.seed = up, shapes, seed

    def decode(self, data: bytes, client: int, round_: int) -> np.ndarray:
        """The delta of a client in a round, float32 [params]. CodecError: nothing that the rival codes."""
        return self.up.decode(data, self.shapes, uplink_seed(self.seed, round_ & 0xFF, client))

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """float64 [params]; None when there is nothing to aggregate."""
        if not contributions:
            return None
        total = np.zeros(sum(sizes(self.shapes)))
        for c in contributions:
            total += float(c.samples) * self.decode(c.data, c.client, c.round)
        mean: np.ndarray = total / sum(c.samples for c in contributions)
        return mean

    def state(self) -> Snapshot:
        """Nothing."""
        return Snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing to take up."""


class RivalStrategy(ComposedStrategy):
    """A rival's two codes, FedAvg's step, quantfl's rate control for a downlink that is quantfl's own."""

    def __init__(self, s: Setting, rival: Rival, up: Remembered, down: Remembered | None):
        """down: codes updates; None: quantfl's own downlink does."""
        config, run = s.config, s.config.run
        clients = max(1, round(run.participation * config.fleet.size))
        absence = config.fleet.size / clients
        rate = AdaptiveRate(
            run.rounds,
            config.uplink.schedule(clients),
            config.downlink.schedule(clients),
            config.uplink.make().step,
            window=max(5, math.ceil(absence)),
        )
        self.rounded = down is not None and not rival.down_feedback  # what the downlink loses is lost
        self.sums = RivalMean(up, s.shapes, run.seed)
        super().__init__(
            s.head,
            s.params,
            RivalDownlink(s.head, down, s.shapes, s.params)
            if down is not None
            else DitheredDownlink(
                s.head,
                s.params,
                unit=grid(s.params),
                rounds_away=absence,
                dither=config.downlink.dither,
                seed=run.seed,
            ),
            rate,
            aggregator=self.sums,
            optimizer=ServerSgd(rival.server_lr),
        )

    def read(
        self,
        data: bytes,
        samples: int,
        *,
        agreed: int = 0,
        loss: float | None = None,
        client: int = 0,
        round_: int = 0,
    ) -> Contribution:
        """A client's coded delta. CodecError: malformed."""
        if samples < 1:
            raise CodecError("a delta trained on no samples", 0)
        delta = self.sums.decode(data, client, round_)
        norm = float(np.linalg.norm(delta.astype(np.float64)))
        return Contribution(samples, data, 0, 0, loss, norm, client, round_)

    def centre(self, mean: np.ndarray, contributions: Sequence[Contribution]) -> None:
        """Rivals' boards do not centre what they send."""

    def step(self, round_: int, contributions: list[Contribution]) -> bool:
        """As of ComposedStrategy; where the downlink's loss is not kept, the global head is what it sent."""
        stepped = super().step(round_, contributions)
        if stepped and self.rounded and isinstance(self.downlink, RivalDownlink):
            self.params = self.downlink.shared.copy()
        return stepped
