"""A paced line in real time, with the interface of `quantfl_lab.bench.link.Line`: the check of the virtual
one.

Bytes go through the operating system: each end writes to a socket of its own, a thread in between takes them
up in pieces of a UART's FIFO, holds each for as long as the line would need for it, and gives it on
`latency_ms` later. A driver takes from its end as much as the virtual line's does, 1.5 ms ahead. What the
machine's scheduler adds is in the figures, which is why they are a check and no claim.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import threading
import time

import numpy as np

from quantfl.core.link import Link
from quantfl_lab.bench.link import AHEAD_US, PIECE, Pipe


def _now() -> float:
    """Microseconds."""
    return time.monotonic_ns() / 1000


class RealLine:
    """Two ends on a line in real time. `run` goes on until `done` says so; RuntimeError after `limit_s`.
    Close it afterwards."""

    def __init__(self, a: Link, b: Link, *, baud: int, latency_ms: float, ber: float, seed: int):
        rng = np.random.default_rng(seed)
        self.ends = (a, b)
        self.on_message = [lambda m: None, lambda m: None]
        self._pipes = tuple(Pipe(1e7 / baud, 1000 * latency_ms, ber, rng) for _ in range(2))
        pairs = [socket.socketpair() for _ in range(2)]
        self._near, self._far = zip(*pairs, strict=True)
        self._written, self._taken = [0, 0], [0, 0]  # bytes, by direction
        self._stop = False
        self._start = _now()
        self._wire = threading.Thread(target=self._carry, daemon=True)
        self._wire.start()

    def close(self) -> None:
        self._stop = True
        self._wire.join()
        for s in (*self._near, *self._far):
            s.close()

    def _ms(self) -> int:
        return int((_now() - self._start) // 1000)

    def _carry(self) -> None:
        """The wire: both directions until `close`."""
        late: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self._stop:
            now = _now()
            for way, pipe in enumerate(self._pipes):
                if (
                    pipe.free_at - now < PIECE * pipe.us_per_byte
                ):  # the FIFO takes the next piece while it sends one
                    with contextlib.suppress(BlockingIOError):
                        data = self._far[way].recv(PIECE, socket.MSG_DONTWAIT)
                        for at, piece in pipe.send(now, data):
                            count += 1
                            heapq.heappush(late, (at, count, 1 - way, piece))
                        self._taken[way] += len(data)
            while late and late[0][0] <= _now():
                _, _, end, piece = heapq.heappop(late)
                self._far[end].sendall(piece)
            now = _now()
            room = [p.free_at - PIECE * p.us_per_byte for p in self._pipes]
            ready = [s for s, at in zip(self._far, room, strict=True) if at <= now]
            waits = [5000.0, *(at - now for at in room if at > now), *([late[0][0] - now] if late else [])]
            select.select(ready, [], [], max(0.0, min(waits)) / 1e6)

    def _room(self, end: int) -> bool:
        pipe, waiting = self._pipes[end], self._written[end] - self._taken[end]
        return waiting * pipe.us_per_byte + max(0.0, pipe.free_at - _now()) < AHEAD_US

    def run(self, done, limit_s: float = 60.0) -> float:
        """Seconds until `done()`."""
        start = _now()
        while not done():
            for end, link in enumerate(self.ends):
                while self._room(end) and (data := link.pull_some(self._ms())):
                    self._written[end] += len(data)
                    self._near[end].sendall(data)
            for s in select.select(self._near, [], [], 0.0003)[0]:
                self._deliver(self._near.index(s), s.recv(4096))
            if _now() - start > limit_s * 1e6:
                raise RuntimeError("the line made no headway")
        return (_now() - start) / 1e6

    def _deliver(self, end: int, data: bytes) -> None:
        link, at = self.ends[end], 0
        while at < len(data):
            at += link.feed(data[at:], self._ms())
            message = link.message()
            if message is not None:
                self.on_message[end](message)
