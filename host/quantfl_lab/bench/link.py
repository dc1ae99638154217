"""`quantfl bench link`: what a session makes of a line, by baud, latency and bit errors.

Both ends are the boards' own C (qfl_link) on a line in virtual time: bytes leave one after the other at
baud/10 a second (8N1), arrive `latency_ms` later, and each of their bits may flip. So figures do not depend
on the machine, and the same seed gives the same ones. An object moves as `Device.push` moves it
(`Link.piece`, `Link.ahead`); back, as one long answer.

line_rate: bytes a second the line carries. goodput: bytes of the object a second. utilisation: how much of
the time in which the object moved the line carried bytes that were of use (payload and framing, first
transmissions that arrived). overhead_ratio: bytes sent in the object's direction for each of its bytes.
retransmitted: bytes sent again. clock: `virtual`, or `real` for the rows that check it: the same ends, object
and line in real time (realtime.py), which a busy machine slows down.
"""

from __future__ import annotations

import heapq
import random
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from quantfl.core import ffi, lib
from quantfl.core.link import UP, Counters, Link

OBJECT = 192 * 1024
PIECE = 64  # bytes: a UART's FIFO
AHEAD_US = 1500.0  # a UART's driver takes more only when less than this is left to send
#: Arenas of boards, bytes; what they offer in their handshake is the firmware's own choice
#: (qfl_device_link_config).
BOARDS = {"small": 16 << 10, "medium": 48 << 10, "large": 256 << 10}


def offer(arena: int) -> tuple[int, int, int]:
    """Frame, window and longest message of a board with this arena."""
    config = ffi.new("qfl_link_config *")
    lib.qfl_device_link_config(arena, config)
    return config.frame_max, config.window, config.message_max


@dataclass
class Pipe:
    """One direction of a line: bytes in order, paced, late, flipped at random."""

    us_per_byte: float
    latency_us: float
    ber: float
    rng: np.random.Generator
    free_at: float = 0.0

    def send(self, now: float, data: bytes) -> list[tuple[float, bytes]]:
        """When which bytes arrive; a piece of at most 64 bytes at a time, as a UART's FIFO is read."""
        out, at = [], max(now, self.free_at)
        for i in range(0, len(data), PIECE):
            piece = np.frombuffer(data[i : i + PIECE], np.uint8)
            at += len(piece) * self.us_per_byte
            if self.ber:
                flips = np.packbits(self.rng.random((len(piece), 8)) < self.ber, axis=1)[:, 0]
                piece = piece ^ flips
            out.append((at + self.latency_us, piece.tobytes()))
        self.free_at = at
        return out

    def room(self, now: float, ahead_us: float = AHEAD_US) -> bool:
        """A UART's driver takes more only when little is left to send."""
        return self.free_at - now < ahead_us


class Line:
    """Two ends in virtual time (microseconds). `run` goes on until `done` says so; RuntimeError after
    `limit_s` of it."""

    def __init__(self, a: Link, b: Link, *, baud: int, latency_ms: float, ber: float, seed: int):
        rng = np.random.default_rng(seed)
        self.ends, self.now = (a, b), 0.0
        self.pipes = tuple(Pipe(1e7 / baud, 1000 * latency_ms, ber, rng) for _ in range(2))
        self._events: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self.on_message = [lambda m: None, lambda m: None]

    def close(self) -> None:
        """Nothing is held; lines in real time have more to do here."""

    def _step(self, end: int) -> None:
        link, ms = self.ends[end], int(self.now // 1000)
        while self.pipes[end].room(self.now):
            data = link.pull_some(ms)
            if not data:
                break
            for at, piece in self.pipes[end].send(self.now, data):
                self._count += 1
                heapq.heappush(self._events, (at, self._count, 1 - end, piece))

    def run(self, done, limit_s: float = 600.0) -> float:
        """Seconds of virtual time until `done()`."""
        start = self.now
        while not done():
            for end in (0, 1):
                self._step(end)
            waits = [self.now + 1000.0]
            waits += [p.free_at - 1400.0 for p in self.pipes if p.free_at - 1400.0 > self.now]
            if self._events:
                waits.append(self._events[0][0])
            self.now = max(self.now + 1.0, min(waits))
            while self._events and self._events[0][0] <= self.now:
                _, _, end, piece = heapq.heappop(self._events)
                self._deliver(end, piece)
            if self.now - start > limit_s * 1e6:
                raise RuntimeError("the line made no headway")
        return (self.now - start) / 1e6

    def _deliver(self, end: int, piece: bytes) -> None:
        link, at = self.ends[end], 0
        while at < len(piece):
            at += link.feed(piece[at:], int(self.now // 1000))
            message = link.message()
            if message is not None:
                self.on_message[end](message)


def measure(
    *,
    board: str,
    direction: str,
    baud: int,
    latency_ms: float,
    ber: float,
    seed: int = 1,
    clock: str = "virtual",
) -> dict:
    """Move an object of OBJECT bytes in one direction; the row of the table. clock: virtual or real."""
    from quantfl_lab.bench.realtime import RealLine

    frame, window, message = offer(BOARDS[board])
    host, device = Link(), Link(initiator=False, frame_max=frame, window=window, message_max=message)
    make = RealLine if clock == "real" else Line
    with closing(make(host, device, baud=baud, latency_ms=latency_ms, ber=ber, seed=seed)) as line:
        host.connect(seed * 4 + 1, 0)
        line.run(lambda: host.state == UP and device.state == UP)
        seconds, used, useful = _move(line, host, device, direction, seed)
    rate, sent = (
        baud / 10,
        used.tx_payload + used.tx_framing + used.tx_retransmission + used.tx_acknowledgement,
    )
    return {
        "link": f"serial, {BOARDS[board] >> 10} KiB of arena: {frame} B x {window}",
        "direction": direction,
        "baud": baud,
        "latency_ms": latency_ms,
        "ber": ber,
        "goodput": round(OBJECT / seconds),
        "line_rate": round(rate),
        "utilisation": round(useful / seconds / rate, 4),
        "overhead_ratio": round(sent / OBJECT, 4),
        "retransmitted": used.tx_retransmission,
        "seconds": round(seconds, 3),
        "clock": clock,
    }


def _move(line, host: Link, device: Link, direction: str, seed: int) -> tuple[float, Counters, int]:
    """Seconds for the object, the sender's counters of it, and bytes that were of use to the receiver."""
    data = random.Random(seed).randbytes(OBJECT)
    sender, receiver, end = (host, device, 1) if direction == "down" else (device, host, 0)
    got = bytearray()
    line.on_message[end] = got.extend
    chunk, ahead = (host.piece + 6, host.ahead) if direction == "down" else (OBJECT, 1)
    state, before = {"at": 0}, sender.counters()

    def feed() -> bool:
        while state["at"] < len(data) and sender.pending < ahead:
            sender.send(data[state["at"] : state["at"] + chunk])
            state["at"] += chunk
        return len(got) >= len(data) and not sender.pending

    seconds = line.run(feed)
    assert bytes(got) == data, "the object arrived changed"
    return (
        seconds,
        sender.counters() - before,
        receiver.counters().rx_payload + receiver.counters().rx_framing,
    )


def run(quick: bool = False) -> list[dict]:
    """Rows of all lines, in virtual time, and of some in real time."""
    rows = []
    for board in BOARDS:
        for direction in ("down", "up"):
            for ber in (0.0, 1e-5) if quick else (0.0, 1e-6, 1e-5, 3e-5):
                for latency in (0.5, 8.0) if quick else (0.5, 2.0, 8.0):
                    rows.append(
                        measure(board=board, direction=direction, baud=921_600, latency_ms=latency, ber=ber)
                    )
    for direction, ber in (("down", 0.0), ("up", 0.0), ("down", 1e-5)):
        same = {"board": "large", "direction": direction, "baud": 921_600, "latency_ms": 8.0, "ber": ber}
        if not quick or (direction, ber) == ("down", 0.0):
            rows.append(measure(**same, clock="real"))
    if not quick:
        rows += [
            measure(board="large", direction="down", baud=115_200, latency_ms=2.0, ber=ber)
            for ber in (0.0, 1e-5)
        ]
    return rows


def parts(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """Rows for a terminal of 80 columns: what whole groups share becomes their title."""
    found: dict[str, list[dict]] = {}
    for r in rows:
        title = f"{r['link']}; {r['baud']:,} baud: {r['line_rate']:,} B/s; {r['clock']} time"
        found.setdefault(title, []).append(
            {
                "direction": r["direction"],
                "latency ms": f"{r['latency_ms']:g}",
                "bit errors": f"{r['ber']:g}",
                "B/s": r["goodput"],
                "line used": f"{r['utilisation']:.1%}",
                "per byte": f"{r['overhead_ratio']:.3f}",
                "resent": r["retransmitted"],
            }
        )
    return list(found.items())
