"""FedAvg (McMahan et al. 2017, algorithm 1) on coded deltas.

Deltas whose step is known are summed as integers: the sum does not depend on the order of the clients, and takes one vector of
integers per step in use, however many clients there are. Others (fp32, bu, bq) are decoded one at a time, in the clients' order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError, decode, dz_read, dz_value, is_dz
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError
from quantfl.strategy.downlink import Chain, Lattice, Lead
from quantfl.strategy.rate import Rate, likeness


@dataclass(frozen=True)
class Contribution:
    """A client's share of a round: samples it trained on, its coded delta, the code of the step agreed on (0: none), code of the
    step it would have chosen (0: not told), its training loss, the delta's l2 norm."""

    samples: int
    data: bytes
    agreed: int = 0
    own_code: int = 0
    loss: float | None = None
    norm: float = 0.0


@dataclass
class FedAvg:
    """Global head float32 [params], unrounded, and how boards are led to it. server_lr scales the averaged delta."""

    head: Head
    params: np.ndarray
    downlink: Chain | Lattice
    rate: Rate
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        self.params = np.ascontiguousarray(self.params, np.float32).copy()

    @property
    def hash(self) -> int:
        return head_hash(self.params)

    def lead(self, index: int, held: int | None) -> Lead:
        """The way for board `index` from head `held` (its hash) to the one to train from."""
        return self.downlink.lead(index, held)

    def read(self, data: bytes, samples: int, *, agreed: int = 0, loss: float | None = None) -> Contribution:
        """A client's coded delta, checked. CodecError when it is malformed or of another shape."""
        if samples < 1:
            raise CodecError("a delta trained on no samples", 0)
        if not is_dz(data):
            norm = float(np.linalg.norm(decode(data, self.head.tensors).astype(np.float64)))
            return Contribution(samples, data, 0, 0, loss, norm)
        symbols, form = dz_read(data, self.head.tensors, agreed)
        norm = float(np.linalg.norm(symbols.astype(np.float64))) * (dz_value(form.code) if form.code else 0.0)
        told = form.code and (
            not form.agreed or lib.QFL_CODEC_DZ_FINER < form.offset < lib.QFL_CODEC_DZ_COARSER
        )
        own = form.code + form.offset if told else 0  # at the offset's ends it is saturated
        return Contribution(samples, data, agreed if form.agreed else 0, own, loss, norm)

    def mean(self, contributions: Iterable[Contribution]) -> np.ndarray | None:
        """The mean delta float64 [params], weighted by samples; None when there are no contributions."""
        sums: dict[int, np.ndarray] = {}
        plain, weight = np.zeros(self.params.size, np.float64), 0
        for c in contributions:
            weight += c.samples
            if is_dz(c.data):
                symbols, form = dz_read(c.data, self.head.tensors, c.agreed)
                if symbols.any():
                    total = sums.setdefault(form.code, np.zeros(self.params.size, np.int64))
                    total += c.samples * symbols.astype(np.int64)
            else:
                plain += float(c.samples) * decode(c.data, self.head.tensors)
        if weight == 0:
            return None
        for code in sorted(sums):
            plain += sums[code] * dz_value(code)
        return plain / weight

    def step(self, round_: int, contributions: list[Contribution]) -> bool:
        """Aggregate round `round_` and take the step; False when there is nothing to aggregate."""
        mean = self.mean(contributions)
        if mean is None:
            return False
        alike = likeness(mean, [c.samples for c in contributions], [c.norm for c in contributions])
        if self.head.centred is not None and any(is_dz(c.data) for c in contributions):
            first, classes = (
                self.head.centred
            )  # what coding added to all classes alike; the boards took theirs out before it
            rows = mean[first:].reshape(-1, classes)
            rows -= rows.mean(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            params = (self.params + self.server_lr * mean).astype(np.float32)
        if not np.isfinite(params).all():
            raise RunError("the aggregated head is not finite; lower train.lr or strategy.server_lr")
        losses = [(c.samples, c.loss) for c in contributions if c.loss is not None]
        loss = sum(n * v for n, v in losses) / sum(n for n, _ in losses) if losses else None
        self.rate.observe([c.own_code for c in contributions if c.own_code], loss, alike)
        self.params = params
        self.downlink.advance(params, self.rate.downlink_steps(round_))
        return True

    def jump(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params` [params], whatever it was; boards may miss it by `step` in each parameter."""
        self.params = np.ascontiguousarray(params, np.float32).copy()
        self.downlink.jump(self.params, step)
