"""Which updates of a round may be aggregated: stale, replayed, malformed, non-finite and outsized ones are
refused with a reason, and those of a board that leads elsewhere than the others for some rounds.

The outcome depends on the updates of this round and of earlier ones, never on the order in which they came. A
board that is refused again and again is left out (quantfl.strategy.reputation). Bounds: [admission] in
docs/FLEET.md. A norm bound against the median is the simplest robust filter (cf. Sun et al. 2019, "Can you
really backdoor federated learning?", norm clipping); it holds while fewer than half of the boards lie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError
from quantfl.core.head import Head
from quantfl.strategy.base import Contribution, Snapshot
from quantfl.strategy.outliers import Outliers
from quantfl.strategy.reputation import Reputation

# bytes: that of two honest deltas so short one may equal the other is no wonder, so they are never replays
SHORT = 16
STALE = "stale"  # first word of the reason that a slow line can be the cause of
MEDIAN_OF = 3  # fewer updates than these have no median to be held against


@dataclass(frozen=True)
class Bounds:
    """What an update may be.

    max_norm: largest l2 norm of a delta, None: any. times_median: largest norm in units of the median of the
    round's non-zero norms, 0: any. max_samples: largest weight of a board whose number of samples only the
    board knows, None: twice the median of the round's claims. replays: whether a delta equal to an earlier
    one is refused. outliers: whether deltas that lead elsewhere than the others' are. refusals: after how
    many a board is left out, 0: never.
    """

    max_norm: float | None = None
    times_median: float = 2.5
    max_samples: float | None = None
    replays: bool = True
    outliers: bool = True
    refusals: int = 3


@dataclass(frozen=True)
class Candidate:
    """A board's answer to round `asked`: of which round and from which head it says to be, samples it claims,
    coded delta.

    known: samples the board is known to hold, 0: not known. step: code of the step agreed on, 0: none. head,
    asked_head: hashes. index: of the client.
    """

    name: str
    round: int
    asked: int
    samples: int
    data: bytes
    known: int = 0
    step: int = 0
    loss: float | None = None
    head: int = 0
    asked_head: int | None = 0
    index: int = 0


@dataclass
class Verdict:
    """admitted: name -> contribution. refused: name -> reason, one line each. left_out: those of the refused
    that are left out of the run from now on."""

    admitted: dict[str, Contribution] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Admission:
    """Judges the updates of one round after another. codec: first nibble of a coded delta as the run's boards
    send it, None: they use codes of another kind, which cannot be compared."""

    def __init__(
        self,
        bounds: Bounds,
        codec: int | None,
        read: Callable[..., Contribution],
        head: Head,
        boards: int = 0,
    ):
        """read: decodes a delta and raises CodecError (Strategy.read). boards: of the fleet."""
        self.bounds, self.read = bounds, read
        self.outliers = Outliers(head) if bounds.outliers and codec is not None else None
        self.reputation = Reputation(boards, bounds.refusals)
        agreed = {lib.QFL_CODEC_DZ_AGREED} if codec == lib.QFL_CODEC_DZ else set()
        self.codecs = None if codec is None else {codec} | agreed
        self._seen: dict[str, tuple[int, str]] = {}  # SHA-256 of accepted deltas -> round and board

    def remember(self, history: Iterable[dict[str, Any]]) -> None:
        """Deltas of earlier rounds, from a run's history."""
        for record in history:
            for name, board in record.get("boards", {}).items():
                if "delta_sha256" in board and board.get("delta_bytes", 0) >= SHORT:
                    self._seen.setdefault(board["delta_sha256"], (record["round"], name))

    def judge(self, candidates: Iterable[Candidate]) -> Verdict:
        """Admit or refuse each update of one round."""
        verdict, candidates = Verdict(), list(candidates)
        for c in sorted(candidates, key=lambda c: c.name):
            reason, contribution = self._alone(c)
            if contribution is not None:
                verdict.admitted[c.name] = contribution
            else:
                verdict.refused[c.name] = str(reason)
        self._outsized(verdict)
        self._astray(verdict)
        self._overweight(verdict, {c.name for c in candidates if not c.known})
        for name in verdict.admitted:
            self.reputation.admitted(name)
        for name, reason in verdict.refused.items():
            if not reason.startswith(STALE) and self.reputation.refused(name, reason):
                verdict.left_out[name] = reason
        for c in candidates:
            if c.name in verdict.admitted and len(c.data) >= SHORT:
                self._seen.setdefault(_sha(c.data), (c.asked, c.name))
        return verdict

    def _alone(self, c: Candidate) -> tuple[str | None, Contribution | None]:
        if c.round != c.asked or c.head != c.asked_head:
            which = (
                f"round {c.round}, not {c.asked}"
                if c.round != c.asked
                else f"head {c.head:08x}, not {c.asked_head or 0:08x}"
            )
            return f"{STALE}: its delta is of {which}", None
        if c.known and c.samples > c.known:
            return f"it claims {c.samples} samples, but holds {c.known}", None
        known = self.codecs is None or not c.data or c.data[0] & 15 in self.codecs
        if not known and not _non_finite(c.data):
            return "wrong shape: its delta is coded in another way than the run's", None
        try:
            contribution = self.read(
                c.data, c.samples, agreed=c.step, loss=c.loss, client=c.index, round_=c.asked
            )
        except CodecError as error:
            return f"{'not finite' if _non_finite(c.data) else 'wrong shape'}: {error}", None
        if not math.isfinite(contribution.norm):
            return "not finite: its norm is beyond float64", None
        if self.bounds.max_norm is not None and contribution.norm > self.bounds.max_norm:
            return f"too large: norm {contribution.norm:.4g}, at most {self.bounds.max_norm:g} allowed", None
        earlier = self._seen.get(_sha(c.data)) if self.bounds.replays and len(c.data) >= SHORT else None
        if earlier is not None and earlier[0] != c.asked:
            return f"replayed: the very delta of {earlier[1]} in round {earlier[0]}", None
        return None, contribution

    def _outsized(self, verdict: Verdict) -> None:
        norms = sorted(c.norm for c in verdict.admitted.values() if c.norm > 0)
        if not self.bounds.times_median or len(norms) < MEDIAN_OF:
            return
        limit = self.bounds.times_median * float(np.median(norms))
        for name in [n for n, c in verdict.admitted.items() if c.norm > limit]:
            norm = verdict.admitted.pop(name).norm
            verdict.refused[name] = (
                f"too large: norm {norm:.4g}, more than {self.bounds.times_median:g} times the median of "
                f"the round's {len(norms)} updates"
            )

    def _astray(self, verdict: Verdict) -> None:
        for name, reason in (self.outliers.judge(verdict.admitted) if self.outliers else {}).items():
            del verdict.admitted[name]
            verdict.refused[name] = reason
        for name, contribution in verdict.admitted.items():
            if self.outliers is not None and self.outliers.evidence.get(name, 0.0) > 0:
                verdict.admitted[name] = replace(contribution, agrees=False)

    def state(self) -> Snapshot:
        """What is known of the boards from earlier rounds, but for the deltas themselves (`remember`)."""
        parts = {"reputation": self.reputation.state()}
        if self.outliers is not None:
            parts["outliers"] = self.outliers.state()
        return Snapshot.joined(parts)

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned. KeyError, ValueError, AttributeError: it is of another kind."""
        self.reputation.restore(snapshot.part("reputation"))
        if self.outliers is not None:
            self.outliers.restore(snapshot.part("outliers"))

    def _overweight(self, verdict: Verdict, unknown: set[str]) -> None:
        """Cap the weights of boards that alone know how many samples they have: one that lies must not
        outvote the others."""
        claims = [c.samples for c in verdict.admitted.values()]
        if not claims:
            return
        bound = self.bounds.max_samples
        most = max(1, int(2 * float(np.median(claims)) if bound is None else bound))
        for name, contribution in verdict.admitted.items():
            if name in unknown and contribution.samples > most:
                verdict.admitted[name] = replace(contribution, samples=most)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _non_finite(data: bytes) -> bool:
    """Whether a delta that was refused holds NaN or infinity where its codec has float32 values."""
    kind = data[0] & 15 if data else None
    if kind == lib.QFL_CODEC_FP32:
        values = data[1 : 1 + 4 * ((len(data) - 1) // 4)]
    elif kind in (lib.QFL_CODEC_BU, lib.QFL_CODEC_BQ) and len(data) >= 10:
        values = data[2:10]  # the first range
    else:
        return False
    return not np.isfinite(np.frombuffer(values, "<f4")).all()
