"""Reputation: a board that is refused again and again is left out of the run, and said so.

Every refused delta counts, but for a stale one, which a slow line can cause. Every admitted delta takes a
quarter of a refusal back. A board with `refusals` of them is left out for the rest of the run. Sums that no
honest board can send, or that contradict the other boards', count as many at once: whoever labels its
samples otherwise than the others does so in every round.

At most a minority is left out. Where more boards were to go, it is not clear who lies, and the run goes on
with all that are left.
"""

from __future__ import annotations

from quantfl.strategy.base import Snapshot

TAKES_BACK = 0.25  # of a refusal, per admitted delta


class Reputation:
    """Refusals of every board. boards: of the fleet; refusals: how many until a board is left out, 0: none
    ever is.

    counted: name -> refusals that admitted deltas have not taken back. left_out: name -> reason, one line.
    """

    def __init__(self, boards: int, refusals: int):
        self.most, self.refusals = max(0, (boards - 1) // 2), refusals
        self.counted: dict[str, float] = {}
        self.left_out: dict[str, str] = {}

    def refused(self, name: str, reason: str, times: float = 1.0) -> bool:
        """Take note of a refusal, which counts `times`; returns whether the board is left out from now on."""
        self.counted[name] = self.counted.get(name, 0.0) + times
        enough = self.refusals and self.counted[name] >= self.refusals
        if not enough or name in self.left_out or len(self.left_out) >= self.most:
            return False
        self.left_out[name] = reason
        return True

    def admitted(self, name: str) -> None:
        """Take note of a delta that was used."""
        self.counted[name] = max(0.0, self.counted.get(name, 0.0) - TAKES_BACK)

    def state(self) -> Snapshot:
        """Refusals, and who is left out."""
        return Snapshot(values={"strikes": dict(self.counted), "left_out": dict(self.left_out)})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned. KeyError, ValueError, AttributeError: it is no reputation."""
        counted, left_out = snapshot.values["strikes"], snapshot.values["left_out"]
        self.counted = {str(name): float(value) for name, value in counted.items()}
        self.left_out = {str(name): str(reason) for name, reason in left_out.items()}
