"""A strategy composed of the four parts of `quantfl.strategy.base`. FedAvg (McMahan et al. 2017) is its
plainest form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError, decode, dz_value, is_dz
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError
from quantfl.strategy.aggregators import WeightedMean
from quantfl.strategy.base import (
    Aggregator,
    Contribution,
    Downlink,
    RateControl,
    ServerOptimizer,
    Snapshot,
    SyncPlan,
)
from quantfl.strategy.decoded import Decoded
from quantfl.strategy.downlink import BatchPlan
from quantfl.strategy.rate_control import update_similarity
from quantfl.strategy.server_optimizers import ServerSgd


class ComposedStrategy:
    """The global head, float32 [params], unrounded, and the four parts that move it."""

    def __init__(
        self,
        head: Head,
        params: np.ndarray,
        downlink: Downlink,
        rate: RateControl,
        *,
        aggregator: Aggregator | None = None,
        optimizer: ServerOptimizer | None = None,
    ):
        self.head, self.downlink, self.rate = head, downlink, rate
        self.params = np.ascontiguousarray(params, np.float32).copy()
        self.aggregator: Aggregator = aggregator or WeightedMean(head)
        self.optimizer: ServerOptimizer = optimizer or ServerSgd()
        #: Deltas of this round that are decoded already, by their bytes and the step agreed on.
        self.decoded: Mapping[tuple[bytes, int], Decoded] = {}

    @property
    def hash(self) -> int:
        """Hash of the global head."""
        return head_hash(self.params)

    @property
    def needs(self) -> Literal["sums", "each"]:
        """What the aggregator needs of a round's deltas."""
        return self.aggregator.needs

    def plan_many(self, indices: Sequence[int], held: Sequence[int | None]) -> BatchPlan | None:
        """As `plan`, for several clients at once. None: the downlink plans them one by one."""
        many = getattr(self.downlink, "plan_many", None)
        return None if many is None else many(indices, held)

    def plan(self, index: int, held: int | None) -> SyncPlan:
        """How client `index` gets from the head `held` (its hash) to the one to train from."""
        return self.downlink.plan(index, held)

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
        """The coded delta of client `client` in round `round_`, checked.

        CodecError: it is malformed or of another shape.
        """
        if samples < 1:
            raise CodecError("a delta trained on no samples", 0)
        if not is_dz(data):
            norm = float(np.linalg.norm(decode(data, self.head.tensors).astype(np.float64)))
            return Contribution(samples, data, 0, 0, loss, norm, client, round_)
        found = self.decoded.get((data, agreed))
        _, form, length = found or Decoded.of(data, self.head.tensors, agreed)
        norm = length * (dz_value(form.code) if form.code else 0.0)
        told = form.code and (
            not form.agreed or lib.QFL_CODEC_DZ_FINER < form.offset < lib.QFL_CODEC_DZ_COARSER
        )
        own = form.code + form.offset if told else 0  # at the offset's ends it is saturated
        named = agreed if form.agreed else 0
        return Contribution(samples, data, named, own, loss, norm, client, round_, found)

    def centre(self, mean: np.ndarray, contributions: Sequence[Contribution]) -> None:
        """Take out of `mean` [params], in place, what coding added to all classes alike: boards take the mean
        over classes out of the last layer's delta."""
        if self.head.centred is not None and any(is_dz(c.data) for c in contributions):
            first, classes = self.head.centred
            rows = mean[first:].reshape(-1, classes)
            rows -= rows.mean(axis=1, keepdims=True)

    def step(self, round_: int, contributions: list[Contribution]) -> bool:
        """Aggregate round `round_` and take the step; False when there is nothing to aggregate."""
        mean = self.aggregator.mean(contributions)
        if mean is None:
            return False
        similarity = self._similarity(mean, contributions)
        self.centre(mean, contributions)
        before = self.optimizer.state()
        with np.errstate(over="ignore", invalid="ignore"):
            params = self.optimizer.step(self.params, mean)
        if not np.isfinite(params).all():
            self.optimizer.restore(before)
            raise RunError("the aggregated head is not finite; lower train.lr or strategy.server_lr")
        losses = [(c.samples, c.loss) for c in contributions if c.loss is not None]
        loss = sum(n * v for n, v in losses) / sum(n for n, _ in losses) if losses else None
        self.rate.observe([c.own_code for c in contributions if c.own_code], loss, similarity)
        self.params = params
        self.downlink.publish(params, self.rate.downlink_steps(round_))
        return True

    def _similarity(self, mean: np.ndarray, contributions: Sequence[Contribution]) -> float | None:
        """Of the clients' deltas, from their weighted mean. Those that lead elsewhere are left out: liars
        must not choose the steps. None: the aggregator's is another mean."""
        if self.needs == "each":
            return None
        agreeing = [c for c in contributions if c.agrees]
        if len(agreeing) < len(contributions):
            known = None if self.rate.similarity is not None else self.aggregator.mean(agreeing)
            if known is None:
                return None
            mean, contributions = known, agreeing
        return update_similarity(mean, [c.samples for c in contributions], [c.norm for c in contributions])

    def reset(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params` [params], whatever it was; clients may miss it by `step` in each
        parameter."""
        self.params = np.ascontiguousarray(params, np.float32).copy()
        self.downlink.reset(self.params, step)

    def state(self) -> Snapshot:
        """The head and the state of all parts."""
        parts = {
            "head": Snapshot({"params": self.params}),
            "aggregator": self.aggregator.state(),
            "optimizer": self.optimizer.state(),
            "downlink": self.downlink.state(),
            "rate": self.rate.state(),
        }
        return Snapshot.joined(parts)

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned."""
        self.params = snapshot.part("head").arrays["params"].copy()
        self.aggregator.restore(snapshot.part("aggregator"))
        self.optimizer.restore(snapshot.part("optimizer"))
        self.downlink.restore(snapshot.part("downlink"))
        self.rate.restore(snapshot.part("rate"))
