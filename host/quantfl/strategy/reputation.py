"""Reputation: a board that is refused again and again is left out of the run, and said so.

Every refused delta is a strike, but for a stale one, which a slow line can cause. Every admitted delta takes
a quarter of a strike back. A board with `refusals` strikes is left out for the rest of the run. Sums that no
honest board can send, or that contradict the other boards', are as many strikes at once: whoever labels its
samples otherwise than the others does so in every round.

At most a minority is left out. Where more boards were to go, it is not clear who lies, and the run goes on
with all that are left.
"""

from __future__ import annotations

from quantfl.strategy.base import Snapshot

TAKES_BACK = 0.25  # of a strike, per admitted delta


class Reputation:
    """Strikes of every board. boards: of the fleet; refusals: strikes until a board is left out, 0: none
    ever is.

    left_out: name -> reason, one line.
    """

    def __init__(self, boards: int, refusals: int):
        self.most, self.refusals = max(0, (boards - 1) // 2), refusals
        self.strikes: dict[str, float] = {}
        self.left_out: dict[str, str] = {}

    def refused(self, name: str, reason: str, strikes: float = 1.0) -> bool:
        """Take note of a refusal; returns whether the board is left out from now on."""
        self.strikes[name] = self.strikes.get(name, 0.0) + strikes
        enough = self.refusals and self.strikes[name] >= self.refusals
        if not enough or name in self.left_out or len(self.left_out) >= self.most:
            return False
        self.left_out[name] = reason
        return True

    def admitted(self, name: str) -> None:
        """Take note of a delta that was used."""
        self.strikes[name] = max(0.0, self.strikes.get(name, 0.0) - TAKES_BACK)

    def state(self) -> Snapshot:
        """Strikes, and who is left out."""
        return Snapshot(values={"strikes": dict(self.strikes), "left_out": dict(self.left_out)})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned. KeyError, ValueError, AttributeError: it is no reputation."""
        strikes, left_out = snapshot.values["strikes"], snapshot.values["left_out"]
        self.strikes = {str(name): float(value) for name, value in strikes.items()}
        self.left_out = {str(name): str(reason) for name, reason in left_out.items()}
