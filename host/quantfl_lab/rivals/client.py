"""A rival's board as a client of quantfl's round loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantfl.core import lib
from quantfl.core.link import Counters
from quantfl.errors import UsageError
from quantfl.link.ledger import Ledger
from quantfl.link.traffic import Comparison
from quantfl.messages import Delta
from quantfl.strategy.base import Strategy
from quantfl_lab.rivals.board import Line


class RivalClient:
    """Implements quantfl.fleet.client.Client over a line without time or loss: what is asked is answered at
    once. It has no sufficient statistics and no personalised head."""

    url = ""
    reachable = True
    set_up_comparison: Comparison | None = None
    boot: int | None = None

    def __init__(self, index: int, name: str, line: Line, head: int):
        """head: hash of the head that its board begins with."""
        self.index, self.name, self.line = index, name, line
        self.head: int | None = head
        self.ready, self.state = False, "new"
        self.reason = self.notice = None
        self.samples, self.fed_bytes = len(line.board.labels), 0
        self.stats: dict[str, Any] = {}

    @property
    def known_samples(self) -> int:
        """Samples of its board."""
        return self.samples

    def has(self, part: str) -> bool:
        """No optional part."""
        return False

    async def set_up(self, package: bytes, *, timeout: float, progress: Callable[[str], None]) -> None:
        """Nothing to do: its board is made with features and head."""
        self.ready = True

    async def contribute(self, round_: int, strategy: Strategy, *, timeout: float) -> Delta:
        """Lead the board to its head as quantfl.fleet.board_client does, and let it train."""
        plan, update = strategy.plan(self.index, self.head), None
        if plan.updates is None:
            self.line.put(lib.QFL_OBJECT_HEAD, plan.params.astype("<f4").tobytes())
        else:
            most = self.line.host.peer_message_max - lib.QFL_UPDATE_HEAD_BYTES
            for i, u in enumerate(plan.updates):
                if i < len(plan.updates) - 1 or len(u.data) > most:
                    self.line.update(u.result, u.data)
                else:
                    update = u.data
        self.head = plan.result
        samples, loss, data = self.line.train(round_, plan.result, update)
        return Delta(round_, samples, loss, data, balanced=True, head=plan.result)

    async def statistics(self, request: bytes, *, timeout: float) -> bytes:
        """UsageError: it has none."""
        raise UsageError(f"{self.name} has no sufficient statistics")

    async def personalised_head(self) -> dict[str, Any] | None:
        """None: it has none."""
        return None

    async def close(self) -> None:
        """Nothing is open."""

    def release_turn(self) -> None:
        """Its line is its own."""

    def plain_traffic(self) -> None:
        """Its bytes are booked by `record_traffic`."""

    def record_traffic(self, ledger: Ledger, round_: int) -> tuple[int, int]:
        """Enter what its line has moved since the last call; returns the totals (up, down) in bytes."""
        up, down = ledger.record(round_, self.name, self.line.host.kinds())
        return up.total, down.total

    def late_answers(self) -> int:
        """None is ever late."""
        return 0

    def compared_traffic(self) -> tuple[Counters, Counters]:
        """Both ends' counters."""
        return self.line.counters(), self.line.counters()

    def expected_traffic(self) -> Counters:
        """The host's counters, as its board's must stand too."""
        return self.line.counters()

    async def compare_traffic(self, timeout: float) -> Comparison:
        """UsageError: its board has no request for that; tests compare its bytes with real boards'."""
        raise UsageError(f"{self.name} does not show its traffic counters")
