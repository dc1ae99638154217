"""The clock of links: that of the running event loop, so that tests and simulations may run on virtual time.

`VirtualLoop` never waits: when nothing is ready it moves its clock to the next timer. With in-process boards
a run on it is a function of its seeds alone, and takes the time of its arithmetic however long its time-outs
are.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def monotonic() -> float:
    """Seconds of the running event loop's clock; outside one, of the machine's."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def virtual() -> bool:
    """Whether the running loop's time is virtual."""
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


STANDSTILL = 200_000


class _Jump(selectors.SelectSelector):
    """A selector that lets virtual time pass instead of waiting."""

    loop: VirtualLoop
    busy = 0  # turns of the loop since time last passed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            self.busy += 1
            if self.busy > STANDSTILL:
                raise RuntimeError(
                    f"virtual time stands still at {self.loop.now:.3f} s: something is due again and again"
                )
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing will ever happen any more: every task waits, and no timer is set")
            if timeout > 0:
                self.loop.now += timeout
                self.busy = 0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, for work without sockets, processes or threads. `now`: its time in
    seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """At once, in this thread: a thread's progress has no place in virtual time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """asyncio.run on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
