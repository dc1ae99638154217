"""The weighted mean, and what all aggregators share: decoding, and names that a description may give.

Deltas whose step is known are summed as integers. The sum does not depend on the order of the clients, and
takes one vector of integers per step in use, however many clients there are. Others (fp32, bu, bq) are
decoded one at a time, in the clients' order.

Robust aggregators are in `quantfl.strategy.robust`. A package adds its own by the entry-point group
`quantfl.aggregators`: a module that calls `register_aggregator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Literal, TypeVar

import numpy as np

from quantfl.core.codec import decode, dz_value, is_dz
from quantfl.core.head import Head
from quantfl.errors import UsageError
from quantfl.strategy.base import Aggregator, Contribution, Snapshot

GROUP = "quantfl.aggregators"
AT_ONCE = 64  # deltas that are summed in one go


def _summed(rows: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Weighted sum of rows of symbols, int64 [params]: exact, in any order."""
    weights = np.array([weight for weight, _ in rows], np.int64)
    total: np.ndarray = np.einsum("i,ij->j", weights, np.stack([symbols for _, symbols in rows]))
    return total


class WeightedMean:
    """The mean of FedAvg (McMahan et al. 2017, algorithm 1). weighting: by `samples`, or `equal` for every
    client."""

    needs: Literal["sums", "each"] = "sums"

    def __init__(self, head: Head, weighting: Literal["samples", "equal"] = "samples"):
        self.head, self.weighting = head, weighting

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """The mean delta, float64 [params]; None when there are no contributions."""
        size, tensors = self.head.params, self.head.tensors
        plain, total = np.zeros(size, np.float64), 0
        by_code: dict[int, list[tuple[int, np.ndarray]]] = {}
        sums: dict[int, np.ndarray] = {}
        for c in contributions:
            weight = c.samples if self.weighting == "samples" else 1
            total += weight
            if is_dz(c.data):
                symbols, form = c.symbols_of(tensors)
                rows = by_code.setdefault(form.code, [])
                rows.append((weight, symbols))
                if len(rows) == AT_ONCE:
                    sums[form.code] = sums.get(form.code, 0) + _summed(rows)
                    rows.clear()
            else:
                plain += float(weight) * decode(c.data, self.head.tensors)
        if total == 0:
            return None
        for code in sorted(by_code):
            rows = by_code[code]
            summed = sums.get(code, 0) + (_summed(rows) if rows else 0)
            if np.any(summed):
                plain += summed * dz_value(code)
        mean: np.ndarray = plain / total
        return mean

    def state(self) -> Snapshot:
        """Nothing: a mean forgets."""
        return Snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing to take up."""


@dataclass(frozen=True)
class AggregatorOptions:
    """What a description gives an aggregator.

    weighting: by `samples`, or `equal` for every client. liars: share of the clients that may lie, 0 to below
    0.5. clip: largest norm of a delta in units of the round's median norm, where norms are clipped.
    """

    weighting: Literal["samples", "equal"] = "samples"
    liars: float = 0.3
    clip: float = 1.0


Maker = Callable[[Head, AggregatorOptions], Aggregator]
_makers: dict[str, Maker] = {}
_Made = TypeVar("_Made", bound=Maker)


def register_aggregator(name: str) -> Callable[[_Made], _Made]:
    """Decorator of a function (head, options) -> Aggregator: descriptions may name it. Registering a name
    again replaces it."""

    def add(make: _Made) -> _Made:
        _makers[name] = make
        return make

    return add


@register_aggregator("mean")
def mean(head: Head, options: AggregatorOptions) -> Aggregator:
    """The weighted mean."""
    return WeightedMean(head, options.weighting)


def aggregator_names() -> list[str]:
    """All aggregators that a description may name."""
    import_module("quantfl.strategy.robust")
    return sorted({*_makers, *(e.name for e in entry_points(group=GROUP))})


def find_aggregator(name: str) -> Maker:
    """The aggregator of this name. UsageError when there is none, or when the package that offers it does not
    work."""
    import_module("quantfl.strategy.robust")
    if name not in _makers:
        for offered in entry_points(group=GROUP, name=name):
            try:
                offered.load()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise UsageError(
                    f"aggregator {name!r} cannot be loaded from {offered.value}: {reason}"
                ) from None
    if name not in _makers:
        raise UsageError(f"no aggregator {name!r}; there are {', '.join(aggregator_names())}")
    return _makers[name]
