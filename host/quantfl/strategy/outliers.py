"""Whether a board's deltas lead where the others' lead: evidence that grows over the rounds in which they do
not.

Of a round, the measure is the cosine between a board's delta and the sum of the others', each at length one,
so that nobody weighs more for its norm. One round says little where data are uneven: an honest board may
disagree with the others in a round. Near the end of training, or after a start in closed form, boards have
hardly a direction in common. Such rounds are left out. Over the others evidence is summed (the cumulative sum
test of Page 1954, "Continuous inspection schemes"): it grows by how far the cosine is below zero, and shrinks
by how far it is above.

A board whose evidence is beyond the limit is refused. Limit, drift and the least common direction were chosen
on digits and MNIST; `quantfl bench attacks` measures how many liars are left out, and how many honest boards.
The test compares boards with each other, so it holds while liars are a minority. It does not see labels
turned round before the honest boards' common direction has faded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantfl.core.codec import decode, is_dz
from quantfl.core.head import Head
from quantfl.strategy.base import Contribution, Snapshot

COMPARED = 5  # fewer boards than these are not compared with each other
SHARED = 0.1  # median cosine below which the boards have no common direction, and a round tells nothing
DRIFT = 0.05  # evidence that a round takes back
LIMIT = 0.5  # evidence beyond which a board is refused
MOST = 1.0  # evidence that is kept, so that an honest board comes back
PASSES = 3  # over the deltas, until it is clear which of them the sum is made of


def cosines(rows: Mapping[str, np.ndarray], suspects: set[str]) -> dict[str, float]:
    """Cosine, -1..1, of each delta with the sum of the others at length one; deltas of zero are left out.

    rows: name -> delta, of any number type [params]. suspects: have no part in the sum. Nor have deltas that
    turn out to be against it, while they are fewer than half.
    """
    norms = {name: float(np.linalg.norm(row.astype(np.float64))) for name, row in rows.items()}
    names = sorted(name for name, norm in norms.items() if norm > 0)
    trusted = {name for name in names if name not in suspects} or set(names)
    found: dict[str, float] = {}
    for _ in range(PASSES):
        total = np.zeros(next(iter(rows.values())).size) if rows else np.zeros(0)
        for name in sorted(trusted):
            total += rows[name] / norms[name]
        square = float(total @ total)
        for name in names:
            along, mine = float(rows[name] @ total) / norms[name], name in trusted
            rest = square - 2 * along + 1 if mine else square  # of the others' sum
            found[name] = (along - mine) / rest**0.5 if rest > 1e-12 else 0.0
        agreeing = {name for name in names if found[name] > 0 and name not in suspects}
        if agreeing == trusted or 2 * len(agreeing) < len(names):
            break
        trusted = agreeing
    return found


def integers(contribution: Contribution, head: Head) -> np.ndarray:
    """A delta up to a factor, in little memory: symbols as int8 where they fit, else float32 [params]."""
    if not is_dz(contribution.data):
        return decode(contribution.data, head.tensors)
    symbols, _ = contribution.symbols_of(head.tensors)
    fits = int(np.abs(symbols).max(initial=0)) <= 127
    return symbols.astype(np.int8) if fits else symbols.astype(np.float32)


class Outliers:
    """Evidence against every board, from round to round."""

    def __init__(self, head: Head):
        self.head = head
        self.evidence: dict[str, float] = {}

    def judge(self, contributions: Mapping[str, Contribution]) -> dict[str, str]:
        """Take note of a round; returns name -> reason of those that are to be refused."""
        if len(contributions) < COMPARED:
            return {}
        rows = {name: integers(c, self.head) for name, c in contributions.items()}
        suspects = {name for name in rows if self.evidence.get(name, 0.0) > LIMIT / 2}
        found = cosines(rows, suspects if 2 * len(suspects) < len(rows) else set())
        if len(found) < COMPARED:
            return {}
        usual = float(np.median(list(found.values())))
        refused = {}
        for name, cosine in found.items():
            if usual >= SHARED:
                grown = self.evidence.get(name, 0.0) - cosine - DRIFT
                self.evidence[name] = min(MOST, max(0.0, grown))
            if self.evidence.get(name, 0.0) > LIMIT:
                refused[name] = (
                    f"against the others: its deltas have led elsewhere than theirs for some rounds (cosine "
                    f"{cosine:+.2f}, the median board's {usual:+.2f})"
                )
        return refused

    def state(self) -> Snapshot:
        """The evidence."""
        return Snapshot(values=dict(self.evidence))

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned. ValueError: it is no evidence."""
        self.evidence = {str(name): float(value) for name, value in snapshot.values.items()}
