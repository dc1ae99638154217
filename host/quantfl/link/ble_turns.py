"""Turns at a BLE adapter: few boards are connected at once, every board gets its turn, none holds a place it
does not use.

Places are given in the order of asking; boards that have not had a turn for what they want now come first. A
place is taken back, when another board waits for it, from a board that nothing is asked of, or that has been
silent for QUIET_S while it works (it goes on, keeps its answer and is asked again in a later turn). Nobody is
disconnected while nobody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Protocol

DEFAULT_CONNECTIONS = 4
QUIET_S = 2.0  # a board at work that sends nothing for so long gives its place to one that waits
GRACE_S = 0.3  # and one that nothing is asked of after so long, in case its owner is between two requests
SETTLE_S = 0.1  # or after so long when its owner has said that it is done: last bytes are on their way
HOLD_OFF_S = (
    0.5,
    8.0,
)  # a board that gave its place back at work does not ask again before; doubled each time
_LOOK_S = 0.05


class Holder(Protocol):
    """A link that takes turns."""

    yields: int  # places given back at work since its owner was last done

    def willing(self) -> bool:
        """Whether its place may be taken back now."""

    async def end_turn(self) -> None:
        """Disconnect; called only when `willing`. The place is given back by the caller."""


@dataclass(order=True)
class _Waiter:
    yields: int
    number: int
    holder: Holder = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)
    not_before: float = field(compare=False, default=0.0)


class Turns:
    """The places of one adapter. Belongs to one event loop."""

    def __init__(self, connections: int = DEFAULT_CONNECTIONS):
        self.connections = connections
        self._holders: dict[Holder, bool] = {}  # -> is being disconnected
        self._queue: list[_Waiter] = []
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None

    def holds(self, holder: Holder) -> bool:
        return holder in self._holders and not self._holders[holder]

    @property
    def taken(self) -> int:
        return len(self._holders)

    async def take(self, holder: Holder) -> None:
        """Wait for a place; cancelling gives it up. A holder that has one returns at once."""
        if self.holds(holder):
            return
        loop = asyncio.get_running_loop()
        low, high = HOLD_OFF_S
        pause = min(high, low * 2 ** (holder.yields - 1)) if holder.yields else 0.0
        waiter = _Waiter(
            holder.yields, next(self._numbers), holder, loop.create_future(), loop.time() + pause
        )
        self._queue.append(waiter)
        self._grant()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            else:
                self.give_back(holder)
            raise

    def give_back(self, holder: Holder) -> None:
        """The holder has no connection any more. Repeatable."""
        if self._holders.pop(holder, None) is not None:
            self._grant()

    def _due(self) -> list[_Waiter]:
        now = asyncio.get_running_loop().time()
        return sorted(w for w in self._queue if w.not_before <= now and w.holder not in self._holders)

    def _grant(self) -> None:
        while len(self._holders) < self.connections and self._queue:
            # With a place to spare a board that is at work may have it back before its time.
            due = self._due() or sorted(w for w in self._queue if w.holder not in self._holders)
            if not due:
                return
            waiter = due[0]
            self._queue.remove(waiter)
            if not waiter.granted.cancelled():
                self._holders[waiter.holder] = False
                waiter.granted.set_result(None)

    async def _look(self) -> None:
        """While anybody waits: take places back from those that do not use them, longest holders first."""
        ending: set[asyncio.Task[None]] = set()
        while self._queue:
            wanted = (
                len(self._due()) - sum(self._holders.values()) - max(0, self.connections - len(self._holders))
            )
            for holder in [h for h, leaving in self._holders.items() if not leaving and h.willing()][
                : max(0, wanted)
            ]:
                self._holders[holder] = True
                task = asyncio.create_task(self._end(holder))
                ending.add(task)
                task.add_done_callback(ending.discard)
            await asyncio.sleep(_LOOK_S)
            self._grant()

    async def _end(self, holder: Holder) -> None:
        with contextlib.suppress(Exception):  # whatever went wrong while disconnecting, the place is free
            await holder.end_turn()
        self.give_back(holder)
