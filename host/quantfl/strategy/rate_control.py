"""Rate control: how coarse deltas are coded, from the run's progress, its loss and its budget.

Early rounds move every board the same way and bear coarse steps; late rounds refine. A step is given in units
of the root mean square of what is coded. It goes geometrically from the first step of a `StepSchedule` to its
last with the progress, 0..1. Progress is the share of rounds done to the power of LATE, so that most of the
way down comes late; it gets a boost where the loss has stopped falling. A budget of bytes per link makes
steps coarser while it would be overrun.

The range of the steps follows the similarity of the clients' deltas. Where they share little, a round's mean
is mostly what tells the boards apart, and the head is the work of many rounds. Early on, rounding is one more
noise beside a greater one; at the end the little that is shared must not drown in it. Where they share much,
rounding is what keeps a mean from being right. The first deltas, all trained from one head, tell the
similarity.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from quantfl.strategy.base import Snapshot

BUMP = 1 / 12  # of progress, for a plateau: a window's mean loss is not below that of the window before
# halving a step costs about 2^0.75 times the bytes (measured on MNIST and CIFAR-100 heads, 0.3 to 1 bit per
# weight)
SLOPE = 0.75
LATE = 2.0  # progress is the share of rounds done to this power
COARSEST = 16.0  # by which a budget may multiply the steps
SIMILAR = (
    0.15,
    0.45,
)  # similarities of the first deltas between which steps are those given; beyond, the range follows it
FINEST_START = 0.6  # part of the first steps given that is left at the highest similarity
UPLINK = (8.0, 1.6, (16.0, 1.0))  # first step, last step, and limits of both where nothing is given
DOWNLINK = (10.0, 2.0, (16.0, 2.0))


def schedule(
    default: tuple[float, float, tuple[float, float]], first: float | None, last: float | None, clients: int
) -> StepSchedule:
    """The steps of one direction. first, last: as a description gives them, None: not given. clients: in a
    round.

    Fewer than four clients a round cancel less of each other's rounding errors in their mean, so what is not
    given is finer then. Where the first step is not given the steps follow the similarity of the clients;
    what is given stays.
    """
    start, end, limits = default
    finer = min(1.0, (clients / 4) ** 0.5)
    if first is not None:
        return StepSchedule(first, last if last is not None else min(first, end * finer))
    step = start * finer
    final, finest = (min(step, end * finer), limits[1] * finer) if last is None else (last, last)
    return StepSchedule(step, final, (limits[0] * finer, finest))


@dataclass(frozen=True)
class StepSchedule:
    """Steps of one direction, in units of the root mean square: from `start` in the first rounds to `end` in
    the last.

    limits: the coarsest start and the finest end where they follow the similarity of the clients; None: they
    do not.
    """

    start: float
    end: float
    limits: tuple[float, float] | None = None

    def at(self, progress: float, spread: float = 1.0) -> float:
        """The step at a progress, 0..1. spread: by which the range grows (above 1) or its start shrinks,
        AdaptiveRate.spread."""
        start, end = self.start, self.end
        if self.limits is not None and spread < 1:
            start = max(end, start * spread)
        elif self.limits is not None:
            start = min(max(start, self.limits[0]), start * spread)
            end = max(min(end, self.limits[1]), end / spread)
        return float(start * (end / start) ** progress)


def update_similarity(mean: np.ndarray, weights: Sequence[float], norms: Sequence[float]) -> float | None:
    """Mean pairwise similarity of the clients' deltas, weighted: the inner product of two over that of two
    parallel ones as long.

    mean: the weighted mean delta, float64 [params]; norms: l2 norms of the deltas. Nothing else of them is
    needed. 1: they are parallel; 0: they share nothing. None: of one client.
    """
    total = float(sum(weights))
    parts = [w / total * n for w, n in zip(weights, norms, strict=True)] if total > 0 else []
    own, parallel = sum(p * p for p in parts), sum(parts) ** 2
    if sum(p > 0 for p in parts) < 2 or not math.isfinite(parallel) or parallel <= own:
        return None
    return (float(mean @ mean) - own) / (parallel - own)


@dataclass
class AdaptiveRate:
    """The rate control of a run of `rounds` rounds. window: rounds that a mean of the loss is taken over.

    up, down: schedules of both directions. base: the multiple of the root mean square for which boards report
    the step they would choose themselves (the codec's step in CONFIG). budget: bytes per link for all rounds,
    None: no limit.
    """

    rounds: int
    up: StepSchedule
    down: StepSchedule
    base: float
    window: int = 5
    budget: float | None = None
    preferred: float | None = None  # code of the step boards would take for `base`, smoothed
    plateau_boost: float = 0.0  # progress_at gained by plateaus
    budget_scale: float = 1.0  # factor on steps, by the budget
    similarity: float | None = None  # of the first deltas
    losses: deque[float] = field(default_factory=deque)

    def progress(self, round_: int) -> float:
        """0..1 for round `round_` (1 is the first)."""
        done = (round_ - 1) / max(1, self.rounds - 1)
        return float(min(1.0, done**LATE + self.plateau_boost))

    @property
    def spread(self) -> float:
        """By how much the range of steps grows or shrinks, from the similarity of the first deltas; 1 while
        it is not known."""
        if self.similarity is None or SIMILAR[0] <= self.similarity <= SIMILAR[1]:
            return 1.0
        if self.similarity < SIMILAR[0]:
            return SIMILAR[0] / max(self.similarity, 1e-3)
        return max(FINEST_START, SIMILAR[1] / self.similarity)

    def uplink_code(self, round_: int) -> int:
        """Code of the step that boards are told in round `round_`; 0: each takes its own, the first round."""
        if self.preferred is None:
            return 0
        steps = self.up.at(self.progress(round_), self.spread) * self.budget_scale / self.base
        return min(255, max(1, round(self.preferred + 4 * math.log2(steps))))

    def downlink_steps(self, round_: int) -> float:
        """Step of the downlink after round `round_`, in units of the root mean square of what moved."""
        return min(64.0, self.down.at(self.progress(round_), self.spread) * self.budget_scale)

    def observe(self, own_codes: Sequence[int], loss: float | None, similarity: float | None = None) -> None:
        """After a round: steps that clients would have chosen, their mean training loss in nats, the
        similarity of their deltas.

        The first similarity that is known counts.
        """
        if self.similarity is None:
            self.similarity = similarity
        if own_codes:
            ordered = sorted(own_codes)
            median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
            self.preferred = median if self.preferred is None else (self.preferred + median) / 2
        if loss is None or not math.isfinite(loss):
            return
        self.losses.append(loss)
        if len(self.losses) > 2 * self.window:
            self.losses.popleft()
        if len(self.losses) == 2 * self.window:
            values = list(self.losses)
            before, now = sum(values[: self.window]), sum(values[self.window :])
            if now >= before:
                self.plateau_boost = min(1.0, self.plateau_boost + BUMP)
                self.losses.clear()

    def spend(self, round_: int, spent: float, last: float) -> None:
        """After round `round_`: bytes per link so far, and in that round alone."""
        if self.budget is None or round_ >= self.rounds:
            return
        allowed = (self.budget - spent) / (self.rounds - round_)
        if last <= 0:
            return
        wanted = self.budget_scale * (last / max(1e-9, allowed)) ** (1 / SLOPE) if allowed > 0 else COARSEST
        self.budget_scale = min(COARSEST, max(1.0, (self.budget_scale * wanted) ** 0.5))

    def exhausted(self, spent: float) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and spent >= self.budget

    def state(self) -> Snapshot:
        """All that later rounds depend on."""
        names = ("preferred", "plateau_boost", "budget_scale", "similarity")
        return Snapshot(values={name: getattr(self, name) for name in names} | {"losses": list(self.losses)})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned."""
        values = snapshot.values
        self.preferred, self.plateau_boost = values["preferred"], values["plateau_boost"]
        self.budget_scale, self.similarity = values["budget_scale"], values["similarity"]
        self.losses = deque(values["losses"])
