"""The ledger: bytes on the wire per board, round and purpose, from the counters that both ends keep.

Round 0 is everything before the first round: handshake, hello, package, configuration. "up" is board to host.
Samples fed to emulated boards go through a channel of their own; they are shown apart and are no federated traffic.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field

from quantfl.core.link import Counters

PURPOSES = ("payload", "framing", "acknowledgement", "retransmission", "handshake")
_FIELDS = dict(zip(PURPOSES, ("payload", "framing", "ack", "retransmission", "handshake"), strict=True))


@dataclass(frozen=True)
class Traffic:
    """Bytes one way, by purpose; noise: bytes received in no valid frame (up only)."""

    payload: int = 0
    framing: int = 0
    acknowledgement: int = 0
    retransmission: int = 0
    handshake: int = 0
    noise: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def down_of(c: Counters) -> Traffic:
    """Host to board, as the host sent it."""
    return Traffic(**{p: getattr(c, f"tx_{f}") for p, f in _FIELDS.items()})


def up_of(c: Counters) -> Traffic:
    """Board to host, as the host received it."""
    return Traffic(**{p: getattr(c, f"rx_{f}") for p, f in _FIELDS.items()}, noise=c.rx_noise)


@dataclass
class Ledger:
    """Books of all links of a run. `record` is called with a link's running counters; differences are kept."""

    rows: dict[tuple[int, str], Counters] = field(default_factory=dict)  # (round, board) -> bytes in that round
    samples: dict[str, int] = field(default_factory=dict)  # board -> bytes fed through its sample channel
    imbalances: list[str] = field(default_factory=list)
    _last: dict[str, Counters] = field(default_factory=dict)

    def record(self, round_: int, board: str, running: Counters) -> Counters:
        """Book what `board` moved since the last record to `round_`; returns it."""
        moved = running - self._last.get(board, Counters())
        self._last[board] = running
        self.rows[round_, board] = self.rows.get((round_, board), Counters()) + moved
        return moved

    def restart(self, board: str) -> None:
        """The link's counters begin at zero again (a new process)."""
        self._last.pop(board, None)

    def per_board(self, *, rounds_only: bool = False) -> dict[str, tuple[Traffic, Traffic]]:
        """board -> (up, down) over all rounds; rounds_only leaves round 0 out."""
        out: dict[str, tuple[Traffic, Traffic]] = defaultdict(lambda: (Traffic(), Traffic()))
        for (round_, board), c in sorted(self.rows.items()):
            if rounds_only and round_ == 0:
                continue
            up, down = out[board]
            out[board] = (up + up_of(c), down + down_of(c))
        return dict(out)

    def total(self, *, first: int = 0, last: int | None = None) -> tuple[Traffic, Traffic]:
        """(up, down) over all boards in rounds first..last."""
        up = down = Traffic()
        for (round_, _), c in self.rows.items():
            if round_ >= first and (last is None or round_ <= last):
                up, down = up + up_of(c), down + down_of(c)
        return up, down

    def to_json(self) -> dict:
        return {
            "rows": [{"round": r, "board": b, **asdict(c)} for (r, b), c in sorted(self.rows.items())],
            "samples": self.samples,
            "imbalances": self.imbalances,
        }

    @classmethod
    def from_json(cls, raw: dict) -> Ledger:
        rows = {}
        for row in raw["rows"]:
            row = dict(row)
            key = row.pop("round"), row.pop("board")
            rows[key] = Counters(**row)
        return cls(rows, dict(raw["samples"]), list(raw["imbalances"]))
