"""Comparing the traffic counters of both ends of a link, and saying by which counted faults they differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

from quantfl.core import lib
from quantfl.core.link import BYTE_CATEGORIES, Counters
from quantfl.link.message_kinds import MESSAGE_KINDS

COMPARED = ("payload", "framing", "acknowledgement", "retransmission", "handshake", "security")
_ACK_FRAME_BYTES = range(8, 20)  # on the wire, without what keys add


@dataclass(frozen=True)
class Direction:
    """One direction of a link as both ends counted it since they last agreed. differ: category -> (bytes
    sent, bytes received)."""

    differ: dict[str, tuple[int, int]]
    kinds_differ: bool
    lost_frames: int  # valid frames sent less those received; negative: some came twice
    noise: int  # bytes in no valid frame, at the receiver
    pieces: int  # of noise
    # bytes sent that the receiver counted as nothing, not even noise; negative: bytes that nobody sent
    gone: int
    repeated: int = 0  # bytes of valid frames the receiver had no use for
    sessions: bool = False  # a session was opened
    swapped: bool = (
        False  # an acknowledgement was lost and one as long, of a message of another kind, came twice
    )

    @property
    def balanced(self) -> bool:
        return not self.differ and not self.kinds_differ

    @property
    def unused(self) -> int:
        """Bytes of valid frames the receiver had no use for beyond those the sender knows to have
        repeated."""
        sent, received = self.differ.get("retransmission", (0, 0))
        return max(0, received - sent)

    @property
    def explained(self) -> bool:
        """Whether counted faults account for the difference: frames or bytes lost or doubled, noise, valid
        frames of no use, or frames that came after their own repetition."""
        counted = self.lost_frames or self.pieces or self.gone or self.unused
        return self.balanced or bool(counted or self.overtaken or self.untold or self.swapped)

    @property
    def untold(self) -> bool:
        """All is equal but the kinds, and there were frames whose kind the receiver could not know: it stands
        in the first frame of a message, which had not come yet, or never came before a new session."""
        return self.kinds_differ and not self.differ and bool(self.repeated or self.sessions)

    @property
    def overtaken(self) -> bool:
        """Frames were sent again, all arrived, and some of the repetitions were used in place of the first
        ones."""
        off = [a - b for p, (a, b) in self.differ.items() if p in ("payload", "framing", "retransmission")]
        quiet = not (self.gone or self.lost_frames or self.pieces)
        return quiet and "retransmission" in self.differ and len(off) == len(self.differ) and sum(off) == 0

    def text(self, sender: str, receiver: str) -> str:
        """In words, for the run's log."""
        found = []
        if self.pieces:
            found.append(
                f"{receiver} counted {_count(self.pieces, 'piece')} of {_count(self.noise, 'byte')} in "
                "all as noise"
            )
        if self.lost_frames > 0:
            found.append(f"{_count(self.lost_frames, 'frame')} of {sender} did not arrive whole")
        if self.lost_frames < 0:
            found.append(f"{_count(-self.lost_frames, 'frame')} of {sender} came twice")
        if self.gone > 0:
            found.append(f"{_count(self.gone, 'byte')} lost on the line")
        if self.gone < 0:
            found.append(f"{_count(-self.gone, 'byte')} came that {sender} never sent")
        if self.unused:
            found.append(
                f"{receiver} had no use for {_count(self.unused, 'byte')} of valid frames (repeated, out "
                "of place, or of an "
                "earlier session)"
            )
        if self.untold and not found:
            found.append(f"{receiver} could not tell of which kind some repeated or broken-off frames were")
        if self.overtaken and not found:
            found.append("frames came after their own repetition")
        if self.swapped and not found:
            found.append("an acknowledgement was lost and another, of the same length, came twice")
        return ", ".join(found) or "no fault was counted that explains it"


@dataclass(frozen=True)
class Comparison:
    """Both ends' counters since they last agreed. restarted: the board's began anew, so that ours have no
    counterpart. steady: both are of one moment; if not, they were not compared."""

    down: Direction
    up: Direction
    restarted: bool = False
    steady: bool = True
    port_lost: int = 0  # bytes the board's port says it has dropped since it started

    @property
    def balanced(self) -> bool:
        return self.down.balanced and self.up.balanced and not self.restarted

    @property
    def explained(self) -> bool:
        return self.restarted or (self.down.explained and self.up.explained)

    @property
    def off(self) -> int:
        """Bytes by which the two ends differ, over all categories."""
        return sum(abs(a - b) for d in (self.down, self.up) for a, b in d.differ.values())

    def text(self) -> str:
        """One line: by how much the counters differ and why; "" when they agree."""
        if self.restarted:
            return "the board was reset, its counters begin anew"
        parts = []
        for name, d, sender, receiver in (
            ("down", self.down, "host", "board"),
            ("up", self.up, "board", "host"),
        ):
            if not d.balanced:
                what = ", ".join(f"{p} {a} sent {b} received" for p, (a, b) in d.differ.items())
                parts.append(f"{name}: {what or 'kinds of message differ'}: {d.text(sender, receiver)}")
        if not parts:
            return ""
        lost = f"; the board's port dropped {_count(self.port_lost, 'byte')}" if self.port_lost else ""
        return f"counters differ by {_count(self.off, 'byte')}: {'; '.join(parts)}{lost}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _signed(n: int) -> int:
    n %= 2**32
    return n - 2**32 if n >= 2**31 else n


@cache
def _swaps() -> frozenset[int]:
    """What one lost acknowledgement and one doubled one as long, of another kind, put between two checksums;
    plain and with keys."""
    ack, seal = BYTE_CATEGORIES.index("acknowledgement"), BYTE_CATEGORIES.index("security")
    weights = [(lib.qfl_link_weight(k, ack), lib.qfl_link_weight(k, seal)) for k in (0, *MESSAGE_KINDS)]
    return frozenset(
        (n * (a - b) + more * (sa - sb)) % 2**32
        for (a, sa), (b, sb), n, more in product(weights, weights, _ACK_FRAME_BYTES, (0, lib.QFL_LINK_SEAL))
        if a != b
    )


def _direction(sent: Counters, received: Counters) -> Direction:
    """sent: the sender's counters, received: the receiver's; both differences over the same span."""
    differ = {}
    for category in COMPARED:
        a, b = getattr(sent, f"tx_{category}"), getattr(received, f"rx_{category}")
        if a != b:
            differ[category] = (a, b)
    gone = sum(getattr(sent, f"tx_{p}") - getattr(received, f"rx_{p}") for p in COMPARED) - received.rx_noise
    off = (sent.tx_checksum - received.rx_checksum) % 2**32
    return Direction(
        differ,
        off != 0,
        _signed(sent.tx_frames - received.rx_frames),
        received.rx_noise,
        received.rx_bad_frames,
        gone,
        received.rx_retransmission,
        bool(sent.tx_handshake),
        off != 0 and not differ and off in _swaps(),
    )


def compare(
    ours: Counters, theirs: Counters, *, restarted: bool = False, steady: bool = True, port_lost: int = 0
) -> Comparison:
    """ours: the host's counters, theirs: the board's, both of the same span of time."""
    return Comparison(_direction(ours, theirs), _direction(theirs, ours), restarted, steady, port_lost)
