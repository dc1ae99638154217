"""Rate control: how coarse deltas are coded, from the run's progress, its loss and its budget.

Early rounds move every board the same way and bear coarse steps; late ones refine. A step is given in units of the root mean
square of what is coded and goes geometrically from `start` to `end` with fineness 0..1, which is the share of rounds done
to the power of LATE, so that most of the way down comes late, or more where the loss has stopped falling. A budget of bytes per link
makes steps coarser while it would be overrun.

How wide the way is hangs on how alike the boards' deltas are. Where they share little, a round's mean is mostly what tells the boards
apart and the head is the work of many rounds: early on rounding is one noise more beside a greater one, and at the end the little that
is shared must not drown in it. Where they share much, rounding is what keeps a mean from being right. The first deltas, all trained
from one head, say which.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BUMP = 1 / 12  # of fineness, for a plateau: a window's mean loss is not below that of the window before
SLOPE = 0.75  # halving a step costs about 2^0.75 times the bytes (measured on MNIST and CIFAR-100 heads, 0.3 to 1 bit per weight)
LATE = 2.0  # fineness is the share of rounds done to this power
COARSEST = 16.0  # by which a budget may multiply the steps
ALIKE = (
    0.15,
    0.45,
)  # likeness of the first deltas between which steps are those given; beyond, they go with it
FINEST_START = 0.6  # part of the first steps given that is left at most likeness


@dataclass(frozen=True)
class Span:
    """Steps of one direction, in units of the root mean square: from `start` in the first rounds to `end` in the last. wide: the
    coarsest start and the finest end where they follow how alike boards are; None: they do not."""

    start: float
    end: float
    wide: tuple[float, float] | None = None

    def at(self, fineness: float, width: float = 1.0) -> float:
        """width: that of the way, Rate.width."""
        start, end = self.start, self.end
        if self.wide is not None and width < 1:
            start = max(end, start * width)
        elif self.wide is not None:
            start, end = (
                min(max(start, self.wide[0]), start * width),
                max(min(end, self.wide[1]), end / width),
            )
        return start * (end / start) ** fineness


def likeness(mean: np.ndarray, weights: Sequence[float], norms: Sequence[float]) -> float | None:
    """How alike clients' deltas are: the inner product of two of them over that of two as long (l2 norms) and parallel, in the mean of
    all pairs, weighted; from their weighted mean [params] alone. 1: they are parallel; 0: they share nothing. None: of one client."""
    total = float(sum(weights))
    parts = [w / total * n for w, n in zip(weights, norms, strict=True)] if total > 0 else []
    own, parallel = sum(p * p for p in parts), sum(parts) ** 2
    if sum(p > 0 for p in parts) < 2 or not math.isfinite(parallel) or parallel <= own:
        return None
    return (float(mean @ mean) - own) / (parallel - own)


@dataclass
class Rate:
    """The controller of a run of `rounds` rounds. window: rounds a mean of the loss is taken over.

    up, down: spans of both directions. budget: bytes per link for all rounds, None: no limit. base: the multiple of the root
    mean square that boards report their own choice for (the codec's step in CONFIG).
    """

    rounds: int
    up: Span
    down: Span
    base: float
    window: int = 5
    budget: float | None = None
    preferred: float | None = None  # code of the step boards would take for `base`, smoothed
    lift: float = 0.0  # fineness gained by plateaus
    coarser: float = 1.0  # factor on steps, by the budget
    alike: float | None = None  # likeness of the first deltas
    losses: deque[float] = field(default_factory=deque)

    def fineness(self, round_: int) -> float:
        """0..1 for round `round_` (1 is the first)."""
        done = (round_ - 1) / max(1, self.rounds - 1)
        return min(1.0, done**LATE + self.lift)

    @property
    def width(self) -> float:
        """Of the way from start to end, by how alike the first deltas are: 1 while it is not known."""
        if self.alike is None or ALIKE[0] <= self.alike <= ALIKE[1]:
            return 1.0
        if self.alike < ALIKE[0]:
            return ALIKE[0] / max(self.alike, 1e-3)
        return max(FINEST_START, ALIKE[1] / self.alike)

    def uplink_code(self, round_: int) -> int:
        """Code of the step that boards are told in round `round_`; 0: each takes its own, the first round."""
        if self.preferred is None:
            return 0
        steps = self.up.at(self.fineness(round_), self.width) * self.coarser / self.base
        return min(255, max(1, round(self.preferred + 4 * math.log2(steps))))

    def downlink_steps(self, round_: int) -> float:
        """Step of the downlink after round `round_`, in units of the root mean square of what moved."""
        return min(64.0, self.down.at(self.fineness(round_), self.width) * self.coarser)

    def observe(self, own_codes: Sequence[int], loss: float | None, alike: float | None = None) -> None:
        """After a round: codes the boards would have chosen themselves, the clients' mean training loss, how alike their deltas
        are (the first that is known counts)."""
        if self.alike is None:
            self.alike = alike
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
                self.lift = min(1.0, self.lift + BUMP)
                self.losses.clear()

    def spend(self, round_: int, spent: float, last: float) -> None:
        """After round `round_`: bytes per link so far, and in that round alone."""
        if self.budget is None or round_ >= self.rounds:
            return
        allowed = (self.budget - spent) / (self.rounds - round_)
        if last <= 0:
            return
        wanted = self.coarser * (last / max(1e-9, allowed)) ** (1 / SLOPE) if allowed > 0 else COARSEST
        self.coarser = min(COARSEST, max(1.0, (self.coarser * wanted) ** 0.5))

    def exhausted(self, spent: float) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and spent >= self.budget

    def state(self) -> dict:
        """What a checkpoint keeps."""
        kept = {"preferred": self.preferred, "lift": self.lift, "coarser": self.coarser, "alike": self.alike}
        return kept | {"losses": list(self.losses)}

    def restore(self, state: dict) -> None:
        self.preferred, self.lift, self.coarser = state["preferred"], state["lift"], state["coarser"]
        self.losses, self.alike = deque(state["losses"]), state["alike"]
