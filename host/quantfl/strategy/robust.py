"""Robust aggregators: rules by which a minority of lying clients cannot choose the mean delta.

They need every client's delta, not sums of them, so they do not go with secure aggregation. Where all deltas
of a round have one step, they work on the integers of the code (symbols), whose distances are exact. The
outcome never depends on the order of the clients. A rule that picks clients counts every client once. What
it picks is averaged by `strategy.weighting`. Medians and trimmed means have no weights.

Coarse codes make most symbols zero. A median of each parameter by itself is then zero nearly everywhere, and
so is a trimmed mean, so these two learn slowly unless the uplink's step is fine. docs/SECURITY.md says which
rule to choose, `quantfl bench attacks` measures them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quantfl.core.codec import decode, dz_value, is_dz
from quantfl.core.head import Head
from quantfl.strategy.aggregators import AggregatorOptions, register_aggregator
from quantfl.strategy.base import Aggregator, Contribution, Snapshot

COLUMNS = 65_536  # parameters at a time, so that memory stays near that of the deltas
WEISZFELD_MOST = 100  # iterations; RFA's authors find 3 enough, the rest is for outliers far away
WEISZFELD_NEAR = 1e-9  # of the deltas' scale: moves smaller than this end the iterations
SMOOTH = 1e-6  # RFA's nu, in units of the median norm


@dataclass(frozen=True)
class Deltas:
    """The deltas of a round. rows: integers or float64 [n, params]; unit: value of one; weights: float64
    [n]."""

    rows: np.ndarray
    unit: float
    weights: np.ndarray

    @classmethod
    def of(cls, contributions: Sequence[Contribution], head: Head, weighting: str) -> Deltas:
        """Decoded; as symbols where all have the same step."""
        weights = np.array([c.samples if weighting == "samples" else 1 for c in contributions], np.float64)
        read = [c.symbols_of(head.tensors) if is_dz(c.data) else None for c in contributions]
        codes = {form.code for _, form in filter(None, read) if form.code}
        if None not in read and len(codes) <= 1:
            rows = np.stack([found[0] for found in read if found is not None])
            return cls(_small(rows), dz_value(next(iter(codes), 1)), weights)
        values = [
            decode(c.data, head.tensors) if found is None else found[0] * dz_value(found[1].code or 1)
            for c, found in zip(contributions, read, strict=True)
        ]
        return cls(np.stack(values).astype(np.float64), 1.0, weights)

    @property
    def gram(self) -> np.ndarray:
        """Inner products of all pairs, float64 [n, n]; exact for symbols while they are below 2^53."""
        n, size = self.rows.shape
        total = np.zeros((n, n))
        for at in range(0, size, COLUMNS):
            part = self.rows[:, at : at + COLUMNS].astype(np.float64)
            total += part @ part.T
        return total

    @property
    def norms(self) -> np.ndarray:
        """l2 norms in units of `unit`, float64 [n]."""
        return np.sqrt(np.diag(self.gram))

    def combined(self, factors: np.ndarray) -> np.ndarray:
        """Sum of factors [n] times rows, float64 [params]."""
        out = np.empty(self.rows.shape[1])
        for at in range(0, out.size, COLUMNS):
            out[at : at + COLUMNS] = factors @ self.rows[:, at : at + COLUMNS].astype(np.float64)
        return out

    def mean_of(self, chosen: Sequence[int]) -> np.ndarray:
        """Weighted mean of some rows, float64 [params]."""
        factors = np.zeros(len(self.rows))
        factors[list(chosen)] = self.weights[list(chosen)]
        mean: np.ndarray = self.combined(factors) / factors.sum()
        return mean


def _small(rows: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them."""
    most = int(np.abs(rows).max(initial=0))
    kind = np.int8 if most <= 127 else np.int16 if most <= 32767 else np.int32
    return rows.astype(kind)


class Robust(ABC):
    """What robust aggregators share. options.liars: share of the clients that may lie."""

    needs: Literal["sums", "each"] = "each"

    def __init__(self, head: Head, options: AggregatorOptions):
        self.head, self.options = head, options

    def liars(self, n: int, least: int = 0) -> int:
        """How many of n clients the rule stands against. least: clients it needs beyond twice as many."""
        return max(0, min(int(self.options.liars * n + 1e-9), (n - least) // 2))

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """The robust mean delta, float64 [params]; None when there are no contributions."""
        if not contributions:
            return None
        in_order = sorted(contributions, key=lambda c: (c.data, c.samples))  # so that theirs is no matter
        deltas = Deltas.of(in_order, self.head, self.options.weighting)
        result: np.ndarray = self.of(deltas) * deltas.unit
        return result

    @abstractmethod
    def of(self, deltas: Deltas) -> np.ndarray:
        """The rule, float64 [params], in units of `deltas.unit`."""

    def state(self) -> Snapshot:
        """Nothing: every round is judged by itself."""
        return Snapshot()

    def restore(self, snapshot: Snapshot) -> None:  # noqa: B027 (an aggregator that remembers overrides it)
        """Nothing to take up."""


def trimmed(rows: np.ndarray, cut: int) -> np.ndarray:
    """Mean of each column [params] of `rows` [n, params] without its `cut` smallest and largest values."""
    out = np.empty(rows.shape[1])
    for at in range(0, out.size, COLUMNS):
        ordered = np.sort(rows[:, at : at + COLUMNS], axis=0)
        out[at : at + COLUMNS] = ordered[cut : len(rows) - cut].mean(axis=0, dtype=np.float64)
    return out


class Median(Robust):
    """The median of every parameter (Yin et al. 2018, "Byzantine-robust distributed learning", definition
    1)."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """Of an even number of deltas: the mean of the two in the middle."""
        return trimmed(deltas.rows, (len(deltas.rows) - 1) // 2)


class TrimmedMean(Robust):
    """The mean of every parameter without its smallest and largest values, `liars` of each (Yin et al. 2018,
    definition 2)."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """Leaves at least one value."""
        return trimmed(deltas.rows, self.liars(len(deltas.rows), 1))


def krum_scores(gram: np.ndarray, liars: int) -> np.ndarray:
    """Krum's score of every delta: the sum of squared distances to its n - liars - 2 nearest (Blanchard et
    al. 2017, "Machine learning with adversaries", section 4).

    gram: inner products [n, n].
    """
    n = len(gram)
    square = np.diag(gram)
    distances = np.maximum(square[:, None] + square[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, -1.0)  # sorts first, and is left out
    nearest = max(1, n - liars - 2)
    scores: np.ndarray = np.sort(distances, axis=1)[:, 1 : 1 + nearest].sum(axis=1)
    return scores


class Krum(Robust):
    """The one delta of the least score (Blanchard et al. 2017). Needs 2 liars + 3 clients."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """Ties go to the first of the coded deltas in the order of their bytes."""
        n = len(deltas.rows)
        if n < 3:
            return deltas.mean_of(range(n))
        scores = krum_scores(deltas.gram, self.liars(n, 3))
        best: np.ndarray = deltas.rows[int(np.argmin(scores))].astype(np.float64)
        return best


class MultiKrum(Robust):
    """The mean of the n - liars deltas of the least scores (Blanchard et al. 2017, section 4, m-Krum)."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """Ties go as with Krum."""
        n = len(deltas.rows)
        if n < 3:
            return deltas.mean_of(range(n))
        liars = self.liars(n, 3)
        order = np.argsort(krum_scores(deltas.gram, liars), kind="stable")
        return deltas.mean_of(sorted(order[: n - liars]))


class Bulyan(Robust):
    """Krum picks n - 2 liars deltas one after the other; of these, each parameter is the mean of the values
    nearest to the median, all but 2 liars (El Mhamdi et al. 2018, "The hidden vulnerability of distributed
    learning in Byzantium", algorithm 2).

    It needs 4 liars + 3 clients, so it stands against fewer liars than the others: 1 of 10, 24 of 100.
    """

    def of(self, deltas: Deltas) -> np.ndarray:
        """Ties go as with Krum."""
        n = len(deltas.rows)
        if n < 3:
            return deltas.mean_of(range(n))
        liars = max(0, min(self.liars(n, 3), (n - 3) // 4))
        gram, left, chosen = deltas.gram, list(range(n)), []
        for _ in range(n - 2 * liars):
            if len(left) > 2:
                scores = krum_scores(gram[np.ix_(left, left)], liars)
                chosen.append(left.pop(int(np.argmin(scores))))
            else:
                chosen.append(left.pop(0))
        return _near_median(deltas.rows[sorted(chosen)], max(1, len(chosen) - 2 * liars))


def _near_median(rows: np.ndarray, count: int) -> np.ndarray:
    """Mean of the `count` values of every column that are nearest to its median, float64 [params]."""
    out = np.empty(rows.shape[1])
    for at in range(0, out.size, COLUMNS):
        ordered = np.sort(rows[:, at : at + COLUMNS].astype(np.float64), axis=0)
        far = np.abs(ordered - np.median(ordered, axis=0))
        near = np.argsort(far, axis=0, kind="stable")[:count]
        out[at : at + COLUMNS] = np.take_along_axis(ordered, near, axis=0).mean(axis=0)
    return out


class NormClippedMean(Robust):
    """The weighted mean of deltas none of which is longer than `clip` times the median norm (Sun et al. 2019,
    "Can you really backdoor federated learning?", section 3.2)."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """A longer delta keeps its direction. Deltas of zero have no part in the median."""
        norms = deltas.norms
        some = norms[norms > 0]
        bound = self.options.clip * float(np.median(some)) if some.size else 0.0
        factors = deltas.weights * np.minimum(1.0, bound / np.maximum(norms, 1e-300))
        mean: np.ndarray = deltas.combined(factors) / deltas.weights.sum()
        return mean


class GeometricMedian(Robust):
    """The point of the least sum of weighted distances to all deltas, by the smoothed Weiszfeld iteration
    (Pillutla, Kakade and Harchaoui 2022, "Robust aggregation for federated learning", algorithm 2)."""

    def of(self, deltas: Deltas) -> np.ndarray:
        """Every iterate is a mean of the deltas, so that only its factors are computed: distances follow from
        inner products."""
        gram, weights = deltas.gram, deltas.weights / deltas.weights.sum()
        norms = np.sqrt(np.diag(gram))
        scale = float(np.median(norms[norms > 0])) if (norms > 0).any() else 0.0
        if scale == 0.0:
            return np.zeros(deltas.rows.shape[1])
        factors = weights
        for _ in range(WEISZFELD_MOST):
            cross = gram @ factors
            square = np.maximum(np.diag(gram) - 2 * cross + factors @ cross, 0.0)
            new = weights / np.maximum(np.sqrt(square), SMOOTH * scale)
            new /= new.sum()
            moved = np.abs(new - factors).sum()
            factors = new
            if moved < WEISZFELD_NEAR:
                break
        return deltas.combined(factors)


def _named(name: str, kind: type[Robust]) -> None:
    @register_aggregator(name)
    def make(head: Head, options: AggregatorOptions) -> Aggregator:
        return kind(head, options)


for _name, _kind in (
    ("median", Median),
    ("trimmed_mean", TrimmedMean),
    ("krum", Krum),
    ("multi_krum", MultiKrum),
    ("bulyan", Bulyan),
    ("norm_clipped_mean", NormClippedMean),
    ("geometric_median", GeometricMedian),
):
    _named(_name, _kind)
