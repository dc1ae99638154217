"""FedAvg (McMahan et al. 2017, algorithm 1) on coded deltas, with the remainder of a coded downlink kept at the host.

The boards' global head is only ever changed by a coded delta that every board applies with the same code, so host and
boards hold the same bytes. What the coding of the downlink loses stays in `residual` and goes out with a later round
(error feedback at the server, as in DoubleSqueeze, Tang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from quantfl.core.codec import Codec, CodecError, decode, decode_add
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError


@dataclass(frozen=True)
class Contribution:
    """A client's share of a round: samples it trained on and its decoded delta float32 [params]."""

    samples: int
    delta: np.ndarray


@dataclass(frozen=True)
class Update:
    """A step of the global head: the coded delta that leads from head `base` to head `result` (hashes)."""

    base: int
    result: int
    data: bytes


@dataclass
class FedAvg:
    """Global head float32 [params] as the boards hold it, and the host's residual [params].

    server_lr scales the averaged delta. downlink codes the step that boards apply.
    """

    head: Head
    params: np.ndarray
    downlink: Codec
    server_lr: float = 1.0
    residual: np.ndarray = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.params = np.ascontiguousarray(self.params, np.float32).copy()
        if self.residual is None:
            self.residual = np.zeros_like(self.params)

    @property
    def hash(self) -> int:
        return head_hash(self.params)

    def read(self, data: bytes, samples: int) -> Contribution:
        """A client's coded delta, checked. CodecError when it is malformed or of another shape."""
        delta = decode(data, self.head.tensors)
        if samples < 1:
            raise CodecError("a delta trained on no samples", 0)
        return Contribution(samples, delta)

    def step(self, contributions: Iterable[Contribution]) -> Update | None:
        """Average the contributions, weighted by samples, in the order given; None when there are none.

        Sums run in float64 over the clients in their order, so the result does not depend on who answered first.
        """
        total, weight = np.zeros(self.params.size, np.float64), 0
        for c in contributions:
            total += float(c.samples) * c.delta
            weight += c.samples
        if weight == 0:
            return None
        wanted = (self.residual + self.server_lr * (total / weight)).astype(np.float32)
        if not np.isfinite(wanted).all():
            raise RunError("the aggregated head is not finite; lower train.lr or strategy.server_lr")
        base = self.hash
        data = self.downlink.encode(wanted, self.head.tensors)
        before = self.params.copy()
        decode_add(data, self.head.tensors, self.params)
        # What the boards did not get, measured on the very floats they now hold.
        self.residual = (wanted.astype(np.float64) - (self.params.astype(np.float64) - before)).astype(np.float32)
        return Update(base, self.hash, data)
