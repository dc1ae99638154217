"""The ledger: bytes on the wire per round, board, direction, kind of message and category, from the counters
both ends keep.

Round 0 is everything before the first round: handshake, INFO, package, configuration. "up" is board to host.
Samples fed to emulated boards go through a channel of their own; they are shown apart and are no federated
traffic. Kept with the run in SQLite by quantfl.fleet.ledger_store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np

from quantfl.core.link import BYTE_CATEGORIES, Counters
from quantfl.link.message_kinds import KIND_MAX, kind_name

#: Categories a sender knows of; the receiver knows noise besides.
SENT_CATEGORIES = BYTE_CATEGORIES[:-1]
DIRECTIONS = ("down", "up")  # as the host's link counts: sent, received
#: The kind of what is known from the board's counters only.
UNSEEN = "UNSEEN"
#: Name of each kind by its number; LINK: bytes of no message (handshake, noise).
MESSAGE_NAMES = tuple(map(kind_name, range(KIND_MAX + 1)))


_Group = TypeVar("_Group")
_Fact = TypeVar("_Fact")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes one way, by category; noise: bytes received in no valid frame (up only)."""

    payload: int = 0
    framing: int = 0
    acknowledgement: int = 0
    retransmission: int = 0
    handshake: int = 0
    security: int = 0
    noise: int = 0

    @property
    def total(self) -> int:
        return (
            self.payload
            + self.framing
            + self.acknowledgement
            + self.retransmission
            + self.handshake
            + self.security
            + self.noise
        )

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.payload + other.payload,
            self.framing + other.framing,
            self.acknowledgement + other.acknowledgement,
            self.retransmission + other.retransmission,
            self.handshake + other.handshake,
            self.security + other.security,
            self.noise + other.noise,
        )


NOTHING = Traffic()
_cells = attrgetter(*(f.name for f in fields(Traffic)))


class Key(NamedTuple):
    """What a row of the ledger is of."""

    round: int
    board: str
    direction: str
    kind: str


class Note(NamedTuple):
    """A comparison of both ends' counters that found a difference. explained: counted faults account for
    it."""

    round: int
    board: str
    text: str
    explained: bool

    def __str__(self) -> str:
        return f"round {self.round}, {self.board}: {self.text}" + (
            "" if self.explained else " (not explained)"
        )


class Carried(NamedTuple):
    """Bytes of a lower layer that carried a link's bytes (BLE: att, l2cap, air). modelled: computed, not
    counted."""

    bytes: int
    modelled: bool


class LinkFacts(dict[str, _Fact]):
    """What is known of each link, by its name. changed: names whose fact has been set."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: set[str] = set()

    def __setitem__(self, name: str, fact: _Fact) -> None:
        if self.get(name) != fact:
            super().__setitem__(name, fact)
            self.changed.add(name)


@dataclass
class Ledger:
    """Traffic of all links of a run. `record` is called with a link's running table; differences are kept.
    Rows are added by `add` only, links' facts by assignment to one name.

    peers: a board's own running counters as they must stand after all that was counted, and the number it
    drew when it started: by these a host that died knows what it missed.
    changed: keys of rows not yet stored. notes_stored: how many notes are stored; notes are only ever added.
    """

    rows: dict[Key, Traffic] = field(default_factory=dict)
    carried: dict[Key, Carried] = field(default_factory=dict)  # kind: the layer
    samples: LinkFacts[int] = field(default_factory=LinkFacts)  # bytes fed through a board's sample channel
    notes: list[Note] = field(default_factory=list)
    peers: LinkFacts[tuple[Counters, int]] = field(default_factory=LinkFacts)
    radios: LinkFacts[str] = field(
        default_factory=LinkFacts
    )  # what bytes go over (quantfl.link.energy.RADIOS)
    notes_stored: int = field(default=0, compare=False)
    all_links_bytes: int = 0  # `link_bytes` of all links together
    changed: set[Key] = field(default_factory=set)
    _sums: dict[tuple[int, str], list[int]] = field(
        default_factory=dict
    )  # of all rows by round and direction
    _links: dict[str, int] = field(default_factory=dict)  # board -> bytes of all rounds but 0, without noise
    _last: dict[str, np.ndarray] = field(default_factory=dict)
    _last_carried: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def record(self, round_: int, board: str, running: np.ndarray) -> tuple[Traffic, Traffic]:
        """Enter what `board` moved since the last record to `round_`; returns it as (up, down).

        running: bytes since the link began, uint32 [2 (sent, received), kinds, categories]
        (quantfl.core.link.Link.kinds).
        """
        return self.record_many(round_, [board], running[None])[0]

    def record_many(
        self, round_: int, boards: Sequence[str], running: np.ndarray
    ) -> list[tuple[Traffic, Traffic]]:
        """As `record`, for several boards. running: uint32 [boards, 2, kinds, categories]."""
        nothing = np.zeros(running.shape[1:], running.dtype)
        moved = running - np.stack([self._last.get(board, nothing) for board in boards])  # modulo 2^32
        self._last.update(zip(boards, running, strict=True))
        kinds, categories = moved.shape[2:]
        lines = moved.reshape(-1, categories)
        at = np.flatnonzero(lines.any(axis=1))
        both = [[NOTHING, NOTHING] for _ in boards]
        for place, cells in zip(at.tolist(), lines[at].tolist(), strict=True):
            row, kind = divmod(place, kinds)
            board, direction = divmod(row, 2)
            traffic = Traffic(*cells)
            self.add(Key(round_, boards[board], DIRECTIONS[direction], MESSAGE_NAMES[kind]), traffic)
            before = both[board][direction]
            both[board][direction] = traffic if before is NOTHING else before + traffic
        return [(up, down) for down, up in both]

    def add(self, key: Key, traffic: Traffic) -> None:
        held = self.rows.get(key)
        self.rows[key] = traffic if held is None else held + traffic
        sums = self._sums.get((key.round, key.direction))
        if sums is None:
            sums = self._sums[key.round, key.direction] = [0] * len(BYTE_CATEGORIES)
        cells = _cells(traffic)
        for i, n in enumerate(cells):
            if n:
                sums[i] += n
        if key.round > 0:
            moved = sum(cells) - traffic.noise
            self._links[key.board] = self._links.get(key.board, 0) + moved
            self.all_links_bytes += moved
        self.changed.add(key)

    def link_bytes(self, board: str) -> int:
        """Bytes of a board's link since round 1, both directions, everything but noise."""
        return self._links.get(board, 0)

    def record_carried(
        self, round_: int, board: str, running: dict[tuple[str, str], tuple[int, bool]]
    ) -> None:
        """Count a transport's own layers. running: (direction, layer) -> bytes since it began, and whether
        they are modelled."""
        for (direction, layer), (total, modelled) in running.items():
            moved = total - self._last_carried.get((board, direction, layer), 0)
            self._last_carried[board, direction, layer] = total
            key = Key(round_, board, direction, layer)
            if moved:
                self.carried[key] = Carried(
                    self.carried.get(key, Carried(0, modelled)).bytes + moved, modelled
                )
                self.changed.add(key)

    def note(self, round_: int, board: str, text: str, explained: bool) -> Note:
        found = Note(round_, board, text, explained)
        self.notes.append(found)
        return found

    @property
    def links_changed(self) -> set[str]:
        """Links of which something is not yet stored."""
        return self.samples.changed | self.peers.changed | self.radios.changed

    def stored(self) -> None:
        """All that is in this ledger is stored."""
        self.changed.clear()
        self.notes_stored = len(self.notes)
        for facts in (self.samples, self.peers, self.radios):
            facts.changed.clear()

    @property
    def imbalances(self) -> list[str]:
        """Differences between both ends' counters that counted faults do not explain."""
        return [str(n) for n in self.notes if not n.explained]

    def grouped(
        self, by: Callable[[Key], _Group], *, first: int = 0, last: int | None = None
    ) -> dict[_Group, Traffic]:
        """Traffic summed over rows of rounds first..last with the same by(key), in the order of the keys."""
        out: dict[_Group, Traffic] = defaultdict(Traffic)
        for key, traffic in sorted(self.rows.items()):
            if key.round >= first and (last is None or key.round <= last):
                out[by(key)] += traffic
        return dict(out)

    def per_board(self, *, rounds_only: bool = False) -> dict[str, tuple[Traffic, Traffic]]:
        """board -> (up, down) over all rounds; rounds_only leaves round 0 out."""
        found = self.grouped(lambda k: (k.board, k.direction), first=int(rounds_only))
        return {b: (found.get((b, "up"), Traffic()), found.get((b, "down"), Traffic())) for b, _ in found}

    def total(self, *, first: int = 0, last: int | None = None) -> tuple[Traffic, Traffic]:
        """(up, down) over all boards in rounds first..last."""
        found = {"up": Traffic(), "down": Traffic()}
        for (round_, direction), cells in self._sums.items():
            if round_ >= first and (last is None or round_ <= last):
                found[direction] += Traffic(*cells)
        return found["up"], found["down"]


def unseen(board: str, round_: int, before: Counters, ours: Counters, theirs: Counters) -> dict[Key, Traffic]:
    """What moved while no host was there to count it: from the board's counters then and now, less our own of
    this session.

    before: the board's running counters as the last host left them. ours, theirs: both ends' at one moment of
    this session.
    """
    gap = theirs - before - ours.swapped
    rows = {}
    for direction, side in (("up", "tx"), ("down", "rx")):
        grown = [
            getattr(gap, f"{side}_{n}")
            for n in ("payload", "framing", "acknowledgement", "retransmission", "handshake", "security")
        ]
        traffic = Traffic(*(n if n < 2**31 else 0 for n in grown))
        if traffic.total:
            rows[Key(round_, board, direction, UNSEEN)] = traffic
    return rows
