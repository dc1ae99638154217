"""Boards inside this process, at `inproc://NAME`: the firmware's code without processes or sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantfl.core.board import InprocBoard
from quantfl.errors import LinkError
from quantfl.link.clock import monotonic, virtual
from quantfl.link.transport import Transport

_boards: dict[str, InprocBoardHandle] = {}
_names = itertools.count()
_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="inproc")


class InprocBoardHandle:
    """An in-process board with the interface of the other emulated boards."""

    kind = "inproc"

    def __init__(self, name: str, *, uid: bytes | None = None, ram: int | None = None):
        self.name = name
        self.url = f"inproc://{name}-{next(_names)}"
        self.samples_url: str | None = None
        self.board = InprocBoard(uid or name.encode()[:16], **({"ram": ram} if ram else {}))
        self.alive = False
        self.lock = threading.Lock()  # the board works in one thread at a time
        self.data: tuple[np.ndarray, np.ndarray] | None = None

    def start(self) -> None:
        _boards[self.url] = self
        self.alive = True

    def stop(self) -> None:
        self.alive = False
        _boards.pop(self.url, None)

    kill = stop

    def ended(self) -> str:
        return "it was switched off"

    def reset(self) -> None:
        """A power cycle; its sensor starts anew."""
        with self.lock:
            self.board.reset()
            if self.data is not None:
                self.board.set_samples(*self.data)

    def poll(self, now_ms: int) -> int:
        with self.lock:
            return self.board.poll(now_ms)

    def settle(self, package: bytes) -> None:
        """Its package (of this SHA-256) is on it: give back memory that others hold as well, or that it does
        not need."""
        with self.lock:
            self.board.share_flash(package)
            self.board.trim()

    def feed(self, x: np.ndarray, labels: np.ndarray) -> int:
        """Local data: int8 [n, size] and labels [n]; returns the bytes given."""
        with self.lock:
            self.data = (x, labels)
            return self.board.set_samples(x, labels)


class InprocTransport(Transport):
    """Bytes to and from an in-process board; a task lets the board work while anything is to be done."""

    def __init__(self, url: str):
        self.url = url
        self._handle: InprocBoardHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._out = bytearray()
        self._wake = asyncio.Event()

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        handle = _boards.get(self.url)
        if handle is None:
            raise LinkError(f"cannot open {self.url}: no such board in this process")
        self._handle = handle
        self._task = asyncio.create_task(self._pump(handle, on_bytes, on_lost))

    def write(self, data: bytes) -> None:
        self._out += data
        self._wake.set()

    async def _pump(
        self, handle: InprocBoardHandle, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]
    ) -> None:
        loop, jumps = asyncio.get_running_loop(), virtual()
        while handle.alive:
            self._wake.clear()
            took = handle.board.write(bytes(self._out[:8192])) if self._out else 0
            del self._out[:took]
            wait = await loop.run_in_executor(_pool, handle.poll, int(monotonic() * 1000))
            data = handle.board.read()
            if data:
                on_bytes(data)
            # a board that idles has nothing to do until it hears something, or a time-out of 500 ms or more
            # passes
            if jumps:
                wait = 200 if wait >= 20 else wait
                await asyncio.sleep(0)
            if wait and not data and not self._out:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait / 1000):
                        await self._wake.wait()
        on_lost("the board was switched off")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
