"""The seam of a strategy: what the round loop asks of one, and the four parts that most strategies are
composed of.

A round goes through the parts in this order. The `RateControl` names the step that clients quantise by. The
`Aggregator` turns the admitted contributions into one mean delta. The `ServerOptimizer` turns the mean delta
into a new global head. The `Downlink` publishes the new head and plans how each client gets to it.
`quantfl.strategy.composed.ComposedStrategy` is that composition; a strategy of your own may replace one part,
or implement `Strategy` as a whole. docs/EXTENDING.md shows both.

Every part keeps its state behind `state` and `restore`. The checkpoint saves what `state` returns without
knowing what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from quantfl.core.codec import Form, dz_read
from quantfl.core.head import Head
from quantfl.strategy.decoded import Decoded


@dataclass(frozen=True)
class Snapshot:
    """The state of a part. arrays: by name, of any dtype and shape; values: what JSON can hold, by name."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Mapping[str, Snapshot]) -> Snapshot:
        """One snapshot of several, each under its name and a slash."""
        arrays = {f"{name}/{key}": a for name, part in parts.items() for key, a in part.arrays.items()}
        values = {f"{name}/{key}": v for name, part in parts.items() for key, v in part.values.items()}
        return cls(arrays, values)

    def part(self, name: str) -> Snapshot:
        """The snapshot that was joined under `name`; empty when there was none."""
        front = f"{name}/"
        return Snapshot(
            {k.removeprefix(front): a for k, a in self.arrays.items() if k.startswith(front)},
            {k.removeprefix(front): v for k, v in self.values.items() if k.startswith(front)},
        )


class Stateful(Protocol):
    """Something a resumed run must find as it was."""

    def state(self) -> Snapshot:
        """All that the next rounds depend on."""

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the state that `state` returned. KeyError, ValueError: it is not of this kind."""


@dataclass(frozen=True)
class Contribution:
    """A client's share of a round.

    samples: its weight, usually the samples it trained on. data: its coded delta. agreed: code of the step
    agreed on, 0: none. own_code: code of the step it would have chosen, 0: not told. loss: its mean training
    loss in nats. norm: l2 norm of the delta. client: index of the client. round: in which it trained.
    decoded: the delta where it has been decoded already. agrees: False where there is evidence that it leads
    elsewhere than the others'.
    """

    samples: int
    data: bytes
    agreed: int = 0
    own_code: int = 0
    loss: float | None = None
    norm: float = 0.0
    client: int = 0
    round: int = 0
    decoded: Decoded | None = field(default=None, compare=False)
    agrees: bool = True

    def symbols_of(self, tensors: Sequence[int]) -> tuple[np.ndarray, Form]:
        """Symbols int32 [params] of a DZ delta, and its form. CodecError: it is malformed."""
        if self.decoded is not None:
            return self.decoded.symbols, self.decoded.form
        return dz_read(self.data, tensors, self.agreed)


@dataclass(frozen=True)
class Update:
    """The coded delta that leads a board from head `base` to head `result` (hashes)."""

    base: int
    result: int
    data: bytes


@dataclass(frozen=True)
class SyncPlan:
    """The cheapest way to a client's next head.

    result: hash of that head. params: its parameters, float32 [params]. updates: to apply in turn; None:
    there is no way but the whole head.
    """

    result: int
    params: np.ndarray
    updates: tuple[Update, ...] | None


class Aggregator(Stateful, Protocol):
    """Contributions to one mean delta. needs: `sums` where weighted sums of contributions are enough, so that
    nobody has to see a single one, and the result is their weighted mean; `each` where every delta has to be
    seen."""

    needs: Literal["sums", "each"]

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """The mean delta, float64 [params]; None when there is nothing to aggregate."""


class ServerOptimizer(Stateful, Protocol):
    """A mean delta to a new global head."""

    def step(self, params: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The next global head, float32 [params], from the present one, float32 [params], and the mean delta,
        float64 [params].

        It need not be finite: the strategy checks that.
        """


class Downlink(Stateful, Protocol):
    """How clients are led to the global head."""

    def plan(self, index: int, held: int | None) -> SyncPlan:
        """How client `index` gets from the head `held` (its hash, None: not known) to the head it trains from
        next."""

    def publish(self, params: np.ndarray, steps: float) -> None:
        """The global head is now `params`, float32 [params].

        steps: step of the quantiser, in units of the root mean square of what moved.
        """

    def reset(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params`, whatever it was before. step: by how much clients may miss it in
        each parameter."""


class RateControl(Stateful, Protocol):
    """How coarse deltas are coded, both ways. similarity: of the clients' first deltas, None while it is not
    known.

    budget: bytes per link for all rounds, None: no limit.
    """

    similarity: float | None
    budget: float | None

    def uplink_code(self, round_: int) -> int:
        """Code of the step that clients are told in round `round_`, 1 the first; 0: each takes its own."""

    def downlink_steps(self, round_: int) -> float:
        """Step of the downlink after round `round_`, in units of the root mean square of what moved."""

    def observe(self, own_codes: Sequence[int], loss: float | None, similarity: float | None = None) -> None:
        """After a round: steps that clients would have chosen, their mean training loss in nats, the
        similarity of their deltas."""

    def spend(self, round_: int, spent: float, last: float) -> None:
        """After round `round_`: bytes per link so far, and in that round alone."""

    def exhausted(self, spent: float) -> bool:
        """Whether the budget is used up."""


class Strategy(Stateful, Protocol):
    """What the round loop asks of a strategy. params: the global head, float32 [params]."""

    head: Head
    params: np.ndarray
    rate: RateControl

    @property
    def hash(self) -> int:
        """Hash of the global head."""

    @property
    def needs(self) -> Literal["sums", "each"]:
        """What it needs of a round's deltas, as `Aggregator` says."""

    def plan(self, index: int, held: int | None) -> SyncPlan:
        """How client `index` gets from the head `held` (its hash, None: not known) to the head it trains from
        next."""

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

    def step(self, round_: int, contributions: list[Contribution]) -> bool:
        """Aggregate round `round_` and take the step; False when there is nothing to aggregate.

        RunError: the new head is not finite; nothing has changed then.
        """

    def reset(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params` [params], whatever it was; clients may miss it by `step` in each
        parameter."""
