"""Steering a run from outside: pause it, stop it, leave a board out. Any thread may call; the loop looks
between rounds.

What is decided this way stands in the history, so that a run that was steered can be told from one that was
not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from quantfl.link.threads import in_own_thread

LOOK_S = 0.1  # real seconds between two looks at a paused run


class Steering:
    """What somebody wants of a run. `paused`: no further round begins; `excluded`: names of boards that are
    asked nothing."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._paused = False
        self._excluded: frozenset[str] = frozenset()
        self._stop: Callable[[], None] | None = None
        self._stopping = False
        self._most = 1 << 30  # boards that may be left out

    @property
    def paused(self) -> bool:
        """Whether the next round waits."""
        return self._paused

    @property
    def excluded(self) -> frozenset[str]:
        """Boards that are left out."""
        return self._excluded

    @property
    def stopping(self) -> bool:
        """Whether the run is to end."""
        return self._stopping

    def pause(self) -> None:
        """Let the present round end, and begin no other."""
        self._paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False

    def exclude(self, name: str) -> None:
        """Leave a board out from the next round on. ValueError: fewer would be left than a round needs."""
        with self._guard:
            if len(self._excluded | {name}) > self._most:
                raise ValueError("no board can be left out: a round needs all that are left (run.min_boards)")
            self._excluded |= {name}

    def include(self, name: str) -> None:
        """Undo `exclude`."""
        with self._guard:
            self._excluded -= {name}

    def stop(self) -> None:
        """End the run; complete rounds are kept."""
        with self._guard:
            self._stopping = True
            if self._stop is not None:
                self._stop()

    def bind(self, stop: Callable[[], None], most: int) -> None:
        """Called by the run, in its loop. stop: ends it, called in the loop's thread. most: boards that may
        be left out."""
        loop = asyncio.get_running_loop()

        def from_any_thread() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop)

        with self._guard:
            self._stop, self._most = from_any_thread, most
            if self._stopping:
                stop()

    async def while_paused(self, stopped: Callable[[], bool]) -> None:
        """Wait in real time while the run is paused, or until it is to end."""
        while self._paused and not self._stopping and not stopped():
            await in_own_thread(time.sleep, LOOK_S)
            await asyncio.sleep(0.001)  # signals are looked at here, on virtual time too
