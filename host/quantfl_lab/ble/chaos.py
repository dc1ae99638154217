"""Faults in the air: a board's values, written and notified, one by one, on the virtual radio
(docs/CHAOS.md).

The language and the faults are those of quantfl.link.chaos; there the unit is a frame of the host's end of a
line, here it is a value, as BLE loses, repeats and reorders them, and neither end's transport knows of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from quantfl.errors import UsageError
from quantfl.link.chaos import DOWN, UP, Chaos, Fault, FaultyTransport
from quantfl.link.transport import Transport

AIR = ("flip", "drop", "dup", "reorder", "cut", "noise", "boot", "stall", "slow", "disconnect", "stuck")
_QUEUE = 16  # notifications that wait; a board that has more to say waits itself


def check_air(chaos: Chaos, boards: list[str]) -> None:
    """UsageError when a fault is none that a radio can do, or a pattern matches none of the boards."""
    chaos.check(boards)
    for _, faults in chaos.clauses:
        for fault in faults:
            if fault.name not in AIR:
                raise UsageError(
                    f"--chaos: {fault.name} is no fault of a radio, which can do {', '.join(AIR)}; "
                    "`quantfl run --chaos` knows the others"
                )
            if fault.first != 0 or fault.last != Fault("drop").last:
                raise UsageError(
                    f"--chaos: {fault.name}@round: a radio knows of no rounds; `quantfl run --chaos` does"
                )


class _Nowhere(Transport):
    """A line without an end of its own."""

    url = ""

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """Nothing: FaultyAir is connected by the adapter."""

    def write(self, data: bytes) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


class FaultyAir(FaultyTransport):
    """What happens to the values between one board and the central. In neither direction may a value be
    longer than `size()`.

    to_board: gives the board a value. to_host: notifies the central of one. hang_up: breaks the connection.
    """

    def __init__(
        self,
        name: str,
        chaos: Chaos,
        *,
        size: Callable[[], int],
        to_board: Callable[[bytes], None],
        to_host: Callable[[bytes], Awaitable[None]],
        hang_up: Callable[[], Awaitable[None]],
    ):
        self._size, self._to_board, self._to_host, self._hang_up = size, to_board, to_host, hang_up
        self._notifications: deque[bytes] = deque()
        self._wake = asyncio.Event()
        super().__init__(_Nowhere(), chaos.faults(name), seed=f"{chaos.seed}/{name}/air", now_round=lambda: 0)
        self._notifier = asyncio.get_running_loop().create_task(self._notify_all())

    def connected(self) -> None:
        self._sinks = {DOWN: self._pieces(self._to_board), UP: self._pieces(self._queue_up)}
        self._open = True

    def disconnected(self) -> None:
        """The connection is gone, with all that was in the air."""
        self._open = False
        self._forget()
        self._notifications.clear()

    def down(self, value: bytes) -> None:
        """The central has written a value."""
        self._take(DOWN, value)

    async def up(self, value: bytes) -> None:
        """The board notifies; returns when it may do so again."""
        self._take(UP, value)
        while len(self._notifications) > _QUEUE:
            await asyncio.sleep(0.001)

    def _take(self, direction: str, data: bytes) -> None:
        line = self.lines[direction]
        line.taken += len(data)
        if self._open:
            self._frame(direction, data)
        else:
            line.swallowed += len(data)

    def _pieces(self, give: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def cut(data: bytes) -> None:
            size = self._size()
            for at in range(0, len(data), size):
                give(data[at : at + size])

        return cut

    def _queue_up(self, value: bytes) -> None:
        self._notifications.append(value)
        self._wake.set()

    async def _notify_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._notifications:
                await self._to_host(self._notifications.popleft())

    def _break(self) -> None:
        self.disconnected()
        self._spawn(self._hang_up())

    def counters(self) -> dict[str, dict]:
        """Of each direction: bytes taken, given, swallowed, added and held, and how often each fault
        struck."""
        return {
            direction: {
                "taken": n.taken,
                "given": n.given,
                "swallowed": n.swallowed,
                "added": n.added,
                "held": self.held(direction),
                "faults": dict(n.faults),
            }
            for direction, n in self.lines.items()
        }
