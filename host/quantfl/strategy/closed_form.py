"""A first head in closed form, from sufficient statistics that boards send once (qfl_head_stats): Fisher's
linear discriminant with a ridge.

The head. Let mu_k be the class means, S the pooled within-class covariance, and pi_k the class shares. With
P = (S + lambda t I)^-1, t the mean of S's diagonal, the logits are x' P mu_k - mu_k' P mu_k / 2 + log pi_k.
They are those of Gaussian classes with a common covariance (Hastie, Tibshirani and Friedman, The Elements of
Statistical Learning, 4.3). For two classes they are ridge regression's up to a factor. Unlike those of
one-hot ridge regression, they come calibrated.

What is exact. Class sums and counts of all boards are exact under any split of the data between them. S is
pooled within classes and boards, so how a class differs from board to board is not in it. (Adding that from
the boards' coded sums was tried. It was 5 points better on FEMNIST by writer, and 1 worse on CIFAR-100, whose
sums are too coarse for it.)

Calibration. How a class differs from board to board decides two things: how certain the head may be, and
whether it is used at all. A head is solved from one half of the boards. The sums of the other half tell the
mean and the spread of the scores that this head gives to their samples. Where the scores of two classes are
normal, with a common variance v and with means mu apart from the middle, the log-odds are 2 mu / v times the
score. So 2 mu / v is the factor by which logits must be multiplied to be calibrated on boards not seen. The
head is multiplied by it, because SGD from a head that is too certain learns from its mistakes alone. It is
multiplied by no more than SUREST, because SGD from a head that is certain and right hardly learns at all (0.3
points on MNIST, IID, after 60 rounds). Below TRUSTED, boards differ from each other more than the model
allows, and the head is dropped.

The ridge. lambda is the one with which ridge regression fitted to one half of the boards predicts the labels
of the other half best, both ways, as far as sums can tell. No test data are touched.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError, decode
from quantfl.core.head import Head

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ENTRY_BITS = (
    2.3  # coded sums per entry, for the estimate (measured: 1.0 on MNIST's features, 2.3 on CIFAR-100's)
)
# calibration below which a head is not used (FEMNIST by writer: 0.35, activity: 0.27 to 0.51, others: 0.6 and
# more)
TRUSTED = 0.45
# by which logits are multiplied at most: SGD sees no mistakes of a head as sure as it is right, and moves on
# too slowly
SUREST = 0.5
LOGIT_ERROR = 0.2  # root mean square, in nats
WEIGHT_BITS = 0.8  # coded delta per weight and direction, for the estimate
JUMP_BITS = 9.0  # of a weight, to lead a board to the new head, for the estimate (measured: 8.3 on MNIST)


@dataclass(frozen=True)
class StatsSpec:
    """What boards are asked for: steps of scatter and sums (in units of the mean diagonal and the root mean
    square, at most 15), dims of a sketch (0: none) and its seed."""

    scatter_step: float = 0.4
    sums_step: float = 0.4
    dims: int = 0
    seed: int = 1

    def request(self) -> bytes:
        steps = [max(1, min(255, round(16 * s))) for s in (self.scatter_step, self.sums_step)]
        return struct.pack("<BBHI", *steps, self.dims, self.seed)


@dataclass
class Sums:
    """Sums of some boards: scatter float64 [d, d] within classes and boards, means float64 [d, d], the
    scatter of the boards' class means around 0, sums [d, K], counts [K]."""

    dims: int
    classes: int
    scatter: np.ndarray = field(init=False)
    means: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.scatter, self.means = np.zeros((self.dims, self.dims)), np.zeros((self.dims, self.dims))
        self.sums, self.counts = np.zeros((self.dims, self.classes)), np.zeros(self.classes)

    def __add__(self, other: Sums) -> Sums:
        total = Sums(self.dims, self.classes)
        total.scatter, total.means = self.scatter + other.scatter, self.means + other.means
        total.sums, total.counts = self.sums + other.sums, self.counts + other.counts
        return total

    def scaled(self, factor: float) -> Sums:
        """The statistics of `factor` times as many samples with the same means and covariance."""
        total = Sums(self.dims, self.classes)
        total.scatter, total.means = self.scatter * factor, self.means * factor
        total.sums, total.counts = self.sums * factor, self.counts * factor
        return total

    def add(self, answer: bytes) -> int:
        """Add one board's answer to STATS; returns its number of samples. CodecError when it is malformed or
        not finite."""
        if len(answer) < 10:
            raise CodecError("sums of fewer than 10 bytes", lib.QFL_E_FORMAT)
        samples, a, b = struct.unpack_from("<HII", answer)
        if 10 + a + b > len(answer):
            raise CodecError("sums that end too early", lib.QFL_E_FORMAT)
        d, k = self.dims, self.classes
        upper = decode(answer[10 : 10 + a], [d * (d + 1) // 2])
        sums = decode(answer[10 + a : 10 + a + b], [d * k])
        counts = decode(answer[10 + a + b :], [k])
        if not all(np.isfinite(part).all() for part in (upper, sums, counts)):
            raise CodecError("statistics that are not finite", lib.QFL_E_NONFINITE)
        if (counts < 0).any() or (counts != np.rint(counts)).any():
            raise CodecError("counts that are not whole numbers of samples", lib.QFL_E_FORMAT)
        if int(counts.sum()) != samples or samples == 0:
            raise CodecError(
                f"counts of {counts.sum():.0f} samples where there are {samples}", lib.QFL_E_FORMAT
            )
        triangle = np.zeros((d, d))
        triangle[np.triu_indices(d)] = upper
        self.scatter += triangle + np.triu(triangle, 1).T
        sums = sums.reshape(d, k).astype(np.float64)
        self.means += (sums / np.maximum(counts, 1)) @ sums.T
        self.sums += sums
        self.counts += counts
        return int(samples)


def _discriminant(s: Sums, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """P [d, d] and means [K, d] (0 for classes without samples)."""
    total = max(1.0, s.counts.sum())
    means = np.where(s.counts[:, None] > 0, s.sums.T / np.maximum(s.counts, 1)[:, None], 0.0)
    covariance = s.scatter / total
    unit = max(float(np.trace(covariance)) / s.dims, 1e-9)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + ridge * unit  # rounding may have made the smallest negative
    return (vectors / values) @ vectors.T, means


def _squared_error(ridge: float, seen: Sums, held: Sums) -> float:
    """Mean squared error on the samples of `held` of one-hot ridge regression fitted to `seen`; from the sums
    alone."""
    p, means = _discriminant(seen, ridge)
    n, total = seen.counts, seen.counts.sum()
    centre = seen.sums.sum(1) / total
    away = means - centre
    # Regression on one-hot labels y: (S + sum of n/N away away')^-1 (cross covariance), with S + ridge as the
    # discriminant has it.
    cross = (away * n[:, None]).T / total
    kernel = np.linalg.solve(np.linalg.inv(p) + cross @ away, cross)
    constant = n / total - centre @ kernel
    m, m_total = held.counts, held.counts.sum()
    m_means = held.sums / np.maximum(m, 1)
    gram = held.scatter + (m_means * m) @ m_means.T
    first = float((kernel * (gram @ kernel)).sum()) + m_total * float(constant @ constant)
    first += 2 * float(held.sums.sum(1) @ kernel @ constant)
    second = float((kernel * held.sums).sum()) + float(constant @ m)
    error: float = (first - 2 * second + m_total) / m_total
    return error


def choose_ridge(folds: tuple[Sums, Sums]) -> float:
    """The ridge with which each half of the boards predicts the other's labels best."""
    if min(f.counts.sum() for f in folds) == 0:
        return 0.1
    return min(RIDGES, key=lambda r: sum(_squared_error(r, a, b) for a, b in (folds, folds[::-1])))


def _calibration(ridge: float, seen: Sums, held: Sums) -> float:
    """2 mu / v of the pairs of classes in the samples of `held` under a head solved from `seen`, weighted by
    their counts."""
    p, means = _discriminant(seen, ridge)
    kernel = p @ means.T
    held_means = held.sums / np.maximum(held.counts, 1)
    within = (
        held.scatter + held.means - held_means @ held.sums.T
    ) / held.counts.sum()  # of classes, of all boards together
    spread = kernel.T @ within @ kernel
    variance = np.diag(spread)[:, None] + np.diag(spread) - 2 * spread
    scores = held_means.T @ kernel  # [class, score]; constants cancel in what follows
    apart = np.diag(scores)[:, None] - scores
    mean = (
        apart + apart.T
    ) / 2  # half of the distance between the means of two classes in the difference of their scores
    weight = np.outer(held.counts * (seen.counts > 0), held.counts * (seen.counts > 0))
    np.fill_diagonal(weight, 0.0)
    total = float((weight * variance).sum())
    return 2 * float((weight * mean).sum()) / total if total > 0 else 0.0


def calibration(ridge: float, folds: tuple[Sums, Sums]) -> float:
    """By how much logits must be multiplied on boards not seen, 0..1: the geometric mean over both halves; 1
    when one half has no samples, since nothing is known."""
    if min(f.counts.sum() for f in folds) == 0:
        return 1.0
    both = [max(0.0, _calibration(ridge, a, b)) for a, b in (folds, folds[::-1])]
    mean: float = (both[0] * both[1]) ** 0.5
    return min(1.0, mean)


@dataclass(frozen=True)
class Solution:
    """Parameters float32 [params] of a one-layer head, the ridge taken, the calibration found (they are
    multiplied by it, or by SUREST where that is less)."""

    params: np.ndarray
    ridge: float
    calibration: float

    @property
    def trusted(self) -> bool:
        """Whether SGD does well to start from it."""
        return self.calibration >= TRUSTED


def solve(head: Head, spec: StatsSpec, folds: tuple[Sums, Sums]) -> Solution:
    """The head in closed form. folds: sums of two disjoint halves of the boards."""
    ridge, s = choose_ridge(folds), folds[0] + folds[1]
    sure = calibration(ridge, folds)
    p, means = _discriminant(s, ridge)
    kernel = p @ means.T
    share = (s.counts + 1) / (s.counts.sum() + s.classes)
    bias = np.log(share) - 0.5 * np.einsum("kd,dk->k", means, kernel)
    kernel[:, s.counts == 0] = 0.0
    if (s.counts == 0).any() and (s.counts > 0).any():
        bias[s.counts == 0] = bias[s.counts > 0].min() - 4.0
    bias -= bias.mean()  # which changes no probability, and keeps the numbers small
    features = head.dims[0]
    if spec.dims:
        shift = 0
        while spec.dims << shift < features:
            shift += 1
        signs = np.array([lib.qfl_head_stats_sign(f, spec.seed) for f in range(features)])
        kernel = kernel[np.arange(features) % spec.dims] * signs[:, None] / 2**shift
    params = np.concatenate([(kernel / head.scale).ravel(), bias]) * min(sure, SUREST)
    return Solution(params.astype(np.float32), ridge, sure)


def rounding_step(head: Head, *sums: Sums) -> float:
    """Step to which parameters may be rounded at random with an error of LOGIT_ERROR in the logits."""
    total = sum(float(s.counts.sum()) for s in sums)
    square = sum(
        float(np.trace(s.scatter)) + float((s.sums**2 / np.maximum(s.counts, 1)).sum()) for s in sums
    )
    step: float = LOGIT_ERROR * (12 / (1 + square / max(1.0, total) * head.scale**2)) ** 0.5
    return step


def estimate(
    head: Head, spec: StatsSpec, boards: int, rounds: int, clients: int, fleet: int
) -> tuple[int, int]:
    """Bytes on all links, roughly: of a start in closed form with the sums of `boards` boards, whose head all
    boards that take part in later rounds (at most `fleet`) must be led to, and of `rounds` rounds of
    `clients` clients."""
    d = spec.dims or head.dims[0]
    entries = d * (d + 1) // 2 + d * head.dims[-1]
    start = (
        boards * (48 + entries * ENTRY_BITS / 8)
        + min(fleet, (rounds - 1) * clients) * head.params * JUMP_BITS / 8
    )
    plan = rounds * clients * (48 + 2 * head.params * WEIGHT_BITS / 8)
    return round(start), round(plan)
