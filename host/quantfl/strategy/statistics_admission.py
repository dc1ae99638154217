"""Which boards' sufficient statistics may go into a closed-form head: what no honest board can send is
refused, with a reason.

A board that lies in its statistics could choose the whole first head. Four kinds of checks stand against it:

1. Numbers: everything is finite, counts are whole, not negative, and add up to the samples that the board
  claims.
2. Possibility: features are 8-bit, so sums and scatter have bounds that follow from the counts, and a scatter
  matrix has no negative
   eigenvalue. Both hold up to the rounding of the coded statistics.
3. Scale: the mean square of a sample's features lies near the median of the boards.
4. Agreement: the board's class means lie where the other boards' class means lie. The measure is the cosine
  between the two sets of
   class means, each centred, weighted by the board's counts. Labels that are permuted, or sums whose sign is
   flipped, give about 0 or less. Honest boards gave 0.41 to 0.98 on five tasks, also where their data are
   split unevenly; liars gave half of the median or less.

Checks 3 and 4 compare boards with each other. They hold while the liars are a minority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantfl.core.codec import CodecError
from quantfl.strategy.closed_form import StatsSpec, Sums

# largest distance of an int8 value from its zero point; sketched values are shifted down to the same range
FEATURE_MAX = 255.0
COMPARED = 4  # fewer boards than these are not compared with each other
SCALE = 4.0  # a board's mean square may differ from the median by this factor
AGREEMENT = 0.5  # of the median agreement, below which a board is refused


@dataclass(frozen=True)
class BoardStatistics:
    """One board's answer. name: the board's; known: samples it is known to hold, 0: not known; data: the
    coded statistics."""

    name: str
    known: int
    data: bytes


@dataclass(frozen=True)
class AdmittedStatistics:
    """statistics: name -> decoded statistics, in the order of the answers. refused: name -> reason, one line
    each."""

    statistics: dict[str, Sums]
    refused: dict[str, str]


def admit(
    answers: list[BoardStatistics],
    spec: StatsSpec,
    features: int,
    classes: int,
    max_samples: float | None = None,
) -> AdmittedStatistics:
    """Judge all boards' statistics of one run.

    features, classes: of the head [F, K]. max_samples: most samples a board may count for where its real
    number is not known; the statistics of a board that claims more are scaled down to it. None: twice the
    median of the boards' claims.
    """
    dims = spec.dims or features
    admitted: dict[str, Sums] = {}
    refused: dict[str, str] = {}
    known = {a.name: a.known for a in answers}
    for answer in answers:
        try:
            sums = Sums(dims, classes)
            sums.add(answer.data)
        except CodecError as error:
            refused[answer.name] = f"its statistics were refused: {error}"
            continue
        reason = _possible(sums, spec, answer.known)
        if reason is None:
            admitted[answer.name] = sums
        else:
            refused[answer.name] = f"its statistics were refused: {reason}"
    _scale(admitted, refused)
    _agreement(admitted, refused)
    _cap(admitted, known, max_samples)
    return AdmittedStatistics(admitted, refused)


def _possible(s: Sums, spec: StatsSpec, known: int) -> str | None:
    """Why no board can have these statistics; None: one can."""
    n = float(s.counts.sum())
    if known and n > known:
        return f"it claims {n:.0f} samples, but holds {known}"
    rounding = spec.sums_step * float(np.sqrt(np.mean(s.sums**2))) + 1.0
    if (np.abs(s.sums) > FEATURE_MAX * s.counts + rounding).any():
        return "a class sum is larger than its samples can give"
    diagonal = np.diag(s.scatter)
    mean = float(diagonal.mean())
    rounding = spec.scatter_step * abs(mean) + 1.0
    if (diagonal > n * FEATURE_MAX**2 + rounding).any() or (diagonal < -rounding).any():
        return "its scatter is larger than its samples can give, or negative"
    # Rounding adds a symmetric matrix of independent errors, each at most a step: its spectral norm is near 2
    # sqrt(d) deviations.
    if float(np.linalg.eigvalsh(s.scatter)[0]) < -2.0 * rounding * len(diagonal) ** 0.5:
        return "its scatter matrix has a negative eigenvalue"
    return None


def mean_square(s: Sums) -> float:
    """Mean over a board's samples of the squared l2 norm of their features."""
    between = float((s.sums**2 / np.maximum(s.counts, 1)).sum())
    return (float(np.trace(s.scatter)) + between) / float(s.counts.sum())


def _scale(admitted: dict[str, Sums], refused: dict[str, str]) -> None:
    if len(admitted) < COMPARED:
        return
    squares = {name: mean_square(s) for name, s in admitted.items()}
    median = float(np.median(list(squares.values())))
    for name, square in squares.items():
        if not median / SCALE <= square <= median * SCALE:
            del admitted[name]
            refused[name] = (
                f"its statistics were refused: features of mean square {square:.4g}, where the median "
                f"board has {median:.4g}"
            )


def agreement(
    sums: np.ndarray, counts: np.ndarray, others: np.ndarray, other_counts: np.ndarray
) -> float | None:
    """Cosine, -1..1, between a board's class means and the other boards', both centred; None when they share
    no class.

    sums, others: float64 [d, K]; counts, other_counts: float64 [K], 0 for classes without samples.
    """
    shared = (counts > 0) & (other_counts > 0)
    if not shared.any():
        return None
    weight = np.where(shared, counts, 0.0)
    mine = np.where(shared, sums / np.where(shared, counts, 1.0), 0.0)
    theirs = np.where(shared, others / np.where(shared, other_counts, 1.0), 0.0)
    if shared.sum() > 1:
        my_centre, their_centre = (m @ weight / weight.sum() for m in (mine, theirs))
    else:  # one class has no spread of its own: its place is measured from the others' centre
        my_centre = their_centre = others.sum(1) / other_counts.sum()
    mine = (mine - my_centre[:, None]) * shared
    theirs = (theirs - their_centre[:, None]) * shared
    length = float(np.sqrt((weight * mine**2).sum() * (weight * theirs**2).sum()))
    return float((weight * mine * theirs).sum()) / length if length > 0 else 0.0


def _agreement(admitted: dict[str, Sums], refused: dict[str, str]) -> None:
    """Refuse the board that agrees least while it is below the bound. Each refusal changes what the others
    are held against.

    Every board counts the same here, so that none outvotes the others by the number of samples that it
    claims.
    """
    while len(admitted) >= COMPARED:
        names, total = list(admitted), np.array([s.counts.sum() for s in admitted.values()])
        sums = np.stack([s.sums for s in admitted.values()]) / total[:, None, None]
        counts = np.stack([s.counts for s in admitted.values()]) / total[:, None]
        holders = (counts > 0).sum(0)
        all_sums, all_counts = sums.sum(0), counts.sum(0)
        found: dict[str, float] = {}
        for i, name in enumerate(names):
            elsewhere = holders > (counts[i] > 0)  # exact, where a difference of rounded counts is not
            other_counts = np.where(elsewhere, all_counts - counts[i], 0.0)
            value = agreement(sums[i], counts[i], (all_sums - sums[i]) * elsewhere, other_counts)
            if value is not None:
                found[name] = value
        if len(found) < COMPARED:
            return
        median = float(np.median(list(found.values())))
        worst = min(found, key=lambda name: (found[name], name))
        if found[worst] >= AGREEMENT * max(0.0, median):
            return
        del admitted[worst]
        refused[worst] = (
            "its statistics were refused: its class means agree with the other boards' by "
            f"{found[worst]:.2f}, where the median "
            f"board has {median:.2f}"
        )


def _cap(admitted: dict[str, Sums], known: Mapping[str, int], max_samples: float | None) -> None:
    claims = [float(s.counts.sum()) for s in admitted.values()]
    if not claims:
        return
    most = 2.0 * float(np.median(claims)) if max_samples is None else max_samples
    for name, s in admitted.items():
        claimed = float(s.counts.sum())
        if not known[name] and claimed > most:
            admitted[name] = s.scaled(most / claimed)
