"""Blocking calls of ports, each in a thread of its own.

A port that blocks must not keep other ports waiting for a thread of a pool, nor the process when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from quantfl.link.clock import virtual

Result = TypeVar("Result")


async def in_own_thread(
    function: Callable[..., Result], *args: object, dispose: Callable[[Result], object] | None = None
) -> Result:
    """Run function(*args) in a new thread and wait for its result, or for its exception.

    dispose: takes a result that comes after the wait was cancelled, such as a port that has opened too late.
    On virtual time the call is made at once.
    """
    loop = asyncio.get_running_loop()
    if virtual():
        return await loop.run_in_executor(None, function, *args)
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            if error is None and dispose is not None:
                threading.Thread(target=dispose, args=(result,), daemon=True).start()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, problem = None, None
        try:
            result = function(*args)
        except BaseException as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=work, daemon=True).start()
    return await future
