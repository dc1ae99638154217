"""Faults on purpose: a small language for them, and a transport that puts them between host and any board.

    flip=1e-5,drop=0.01,dup=0.01,stall=200ms@0.01,disconnect=3,reset@round=2,seed=7; board-03: lie=nan

Clauses are divided by `;`. A clause is a list of faults, for all boards or, after `NAMES:`, for those whose
names match (patterns with `*` and `?`, several joined by `+`). Rates are probabilities; where a fault is of
frames, each frame on the line is drawn for by itself. The same seed gives the same faults on the same
traffic. docs/CHAOS.md lists all of them.
"""

from __future__ import annotations

import asyncio
import fnmatch
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from quantfl.errors import UsageError
from quantfl.link.clock import monotonic
from quantfl.link.transport import Transport
from quantfl.suggest import meant

DOWN, UP = "down", "up"
LIES = ("nan", "huge", "shape", "garbage", "replay", "round", "samples")
#: Faults of the line by how their value is read: a probability, a time (with @probability), how many times.
LINE = {
    "flip": "rate",
    "drop": "rate",
    "dup": "rate",
    "reorder": "rate",
    "cut": "rate",
    "noise": "rate",
    "boot": "rate",
    "stall": "time",
    "slow": "time",
    "disconnect": "count",
    "reset": "count",
}
BOARD = {"stuck": "none", "full": "none", "lie": "lie"}
ONE_IN = 40  # frames between two of the moments that `disconnect` and `reset` are drawn from
BOOT = (
    b"ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    b"configsip: 0, SPIWP:0xee\r\nclk_drv:0x00,q_drv:0x00,d_drv:0x00\r\nmode:DIO, clock div:2\r\nentry "
    b"0x400805e4\r\n"
)
_TIME = re.compile(r"^([0-9.]+)(ms|s)$")


@dataclass(frozen=True)
class Fault:
    """One fault: value (a rate, seconds, a count, or a lie's name), probability per frame where that is not
    the value itself, rounds first..last in which it may strike, direction: one direction only."""

    name: str
    value: float | str = 1.0
    probability: float = 1.0
    first: int = 0
    last: int = 1 << 30
    direction: str | None = None

    @property
    def number(self) -> float:
        """The value of a fault that is no lie."""
        return float(self.value)

    def on(self, round_: int) -> bool:
        return self.first <= round_ <= self.last


@dataclass(frozen=True)
class Chaos:
    """A whole specification. clauses: (patterns of board names, faults)."""

    clauses: tuple[tuple[tuple[str, ...], tuple[Fault, ...]], ...] = ()
    seed: int = 1
    text: str = ""

    def faults(self, board: str) -> tuple[Fault, ...]:
        """The faults of one board."""
        return tuple(
            f
            for names, faults in self.clauses
            if any(fnmatch.fnmatchcase(board, n) for n in names)
            for f in faults
        )

    def check(self, boards: Iterable[str]) -> None:
        """UsageError when a pattern matches none of the boards."""
        boards = list(boards)
        for names, _ in self.clauses:
            for name in names:
                if not any(fnmatch.fnmatchcase(b, name) for b in boards):
                    raise UsageError(
                        f"--chaos: no board is called {name!r}{meant(name, boards)}; "
                        f"there are {', '.join(boards[:8])}" + (" …" if len(boards) > 8 else "")
                    )


def parse(text: str) -> Chaos:
    """A specification from its text. UsageError says which part is wrong."""
    clauses, seed = [], 1
    for clause in filter(None, (c.strip() for c in text.split(";"))):
        names: tuple[str, ...] = ("*",)
        head, colon, rest = clause.partition(":")
        if colon and "=" not in head:
            names, clause = tuple(n.strip() for n in head.split("+")), rest
        faults = []
        for item in filter(None, (i.strip() for i in clause.split(","))):
            if item.startswith("seed="):
                seed = int(_number(item, item[5:], 0, 2**63))
            else:
                faults.append(_fault(item))
        if faults:
            clauses.append((names, tuple(faults)))
    return Chaos(tuple(clauses), seed, text)


def _number(item: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--chaos: {item!r}: {text!r} is no number") from None
    if not low <= value <= high:
        raise UsageError(f"--chaos: {item!r}: must be in {low:g} to {high:g}")
    return value


def _fault(item: str) -> Fault:
    spec, *when = item.split("@")
    name, equals, value = (p.strip() for p in spec.partition("="))
    direction, dot, bare = name.partition(".")
    if dot and direction in (DOWN, UP):
        name = bare
    else:
        direction = ""
    kind = LINE.get(name) or BOARD.get(name)
    if kind is None:
        known = [*LINE, *BOARD]
        raise UsageError(
            f"--chaos: there is no fault {name!r}{meant(name, known)}; there are {', '.join(known)}"
        )
    if direction and (name in BOARD or kind == "count"):
        raise UsageError(f"--chaos: {item!r}: {name} has no direction")
    fields: dict[str, Any] = {"probability": 1.0 if kind != "count" else 1.0 / ONE_IN}
    for w in when:
        key, has_key, bounds = w.partition("=")
        if not has_key:
            fields["probability"] = _number(item, w, 0, 1)
        elif key.strip() == "round":
            low, dash, high = bounds.partition("-")
            fields["first"] = int(_number(item, low, 0, 1 << 30))
            fields["last"] = int(_number(item, high, 0, 1 << 30)) if dash else fields["first"]
        else:
            raise UsageError(f"--chaos: {item!r}: after @ stands a probability or round=N or round=N-M")
    if kind == "rate":
        fields["value"] = _number(item, value, 0, 1)
    elif kind == "count":
        fields["value"] = _number(item, value, 0, 1e6) if equals else 1.0
    elif kind == "time":
        match = _TIME.match(value)
        if not match:
            raise UsageError(f"--chaos: {item!r}: a time is wanted, like 200ms or 1.5s")
        fields["value"] = _number(item, match[1], 0, 1e6) / (1000 if match[2] == "ms" else 1)
    elif kind == "lie":
        if value not in LIES:
            raise UsageError(f"--chaos: {item!r}: a lie is one of {', '.join(LIES)}")
        fields["value"] = value
    elif equals:
        raise UsageError(f"--chaos: {name} takes no value")
    return Fault(name, direction=direction or None, **fields)


@dataclass
class Line:
    """What a faulty line did to one direction, in bytes but where said: taken from one end = given to the
    other + held + swallowed - added."""

    taken: int = 0
    given: int = 0
    swallowed: int = 0
    added: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # how often each fault struck


class FaultyTransport(Transport):
    """A transport with faults. Bytes are taken frame by frame (up to and with a zero byte), spoiled, and
    given on in order.

    reset: resets the board; None where nobody can. now_round: the round the run is in.
    """

    def __init__(
        self,
        inner: Transport,
        faults: tuple[Fault, ...],
        *,
        seed: str,
        now_round: Callable[[], int],
        reset: Callable[[], None] | None = None,
    ):
        self.inner, self.url, self.faults, self.reset, self.now_round = (
            inner,
            inner.url,
            faults,
            reset,
            now_round,
        )
        self.lossless, self.find_s = inner.lossless, inner.find_s
        self.lines = {DOWN: Line(), UP: Line()}
        self.quiet = False  # no faults any more
        self._rng = {direction: random.Random(f"{seed}/{direction}") for direction in (DOWN, UP)}
        self._named: dict[tuple[str, str], list[Fault]] = {}
        for f in faults:
            for direction in (DOWN, UP) if f.direction is None else (f.direction,):
                self._named.setdefault((direction, f.name), []).append(f)
        self._left = {id(f): int(f.value) for f in faults if LINE.get(f.name) == "count"}
        self._partial = {DOWN: b"", UP: b""}
        self._late: dict[str, bytes] = {DOWN: b"", UP: b""}  # a frame that comes after the next one
        self._queue: dict[str, list[tuple[float, bytes]]] = {DOWN: [], UP: []}
        self._free = {DOWN: 0.0, UP: 0.0}  # when the line moves again
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sinks: dict[str, Callable[[bytes], None]] = {}
        self._on_lost: Callable[[str], None] | None = None
        self._open = False

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        if self._tasks:
            await asyncio.gather(
                *self._tasks, return_exceptions=True
            )  # a break or a reset that is not over yet
        self._sinks = {DOWN: self.inner.write, UP: on_bytes}
        self._on_lost = on_lost
        self._open = True
        try:
            await self.inner.open(lambda data: self._take(UP, data), self._lost)
        except BaseException:
            self._open = False
            raise

    def write(self, data: bytes) -> None:
        self._take(DOWN, data)

    async def close(self) -> None:
        self._open = False
        self._forget()
        await self.inner.close()

    # What the transport is apart from its bytes.
    @property
    def open_s(self) -> float | None:
        return self.inner.open_s

    @property
    def place(self) -> str | None:
        return self.inner.place

    @property
    def preempted(self) -> bool:
        return self.inner.preempted

    @property
    def expected_uid(self) -> str | None:
        return self.inner.expected_uid

    async def acquire_turn(self, timeout: float) -> float:
        return await self.inner.acquire_turn(timeout)

    def release_turn(self) -> None:
        self.inner.release_turn()

    def request_begins(self) -> None:
        self.inner.request_begins()

    def request_ends(self) -> None:
        self.inner.request_ends()

    def remember(self, uid: str) -> None:
        self.inner.remember(uid)

    def relocated(self) -> bool:
        return self.inner.relocated()

    def carried(self) -> dict[tuple[str, str], tuple[int, bool]]:
        return self.inner.carried()

    async def describe(self) -> dict[str, str | int | None]:
        return await self.inner.describe()

    def held(self, direction: str) -> int:
        """Bytes on their way."""
        return (
            len(self._partial[direction])
            + len(self._late[direction])
            + sum(len(d) for _, d in self._queue[direction])
        )

    def _lost(self, reason: str) -> None:
        if self._open:
            self._open = False
            self._forget()
            if self._on_lost is not None:
                self._on_lost(reason)

    def _forget(self) -> None:
        """The line is gone, with what was on it."""
        for direction in (DOWN, UP):
            self.lines[direction].swallowed += self.held(direction)
            self._partial[direction] = self._late[direction] = b""
            self._queue[direction].clear()
            self._free[direction] = 0.0
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _faults(self, direction: str, name: str) -> Iterable[Fault]:
        found = self._named.get((direction, name))
        if found is None or self.quiet:
            return ()
        round_ = self.now_round()
        return [f for f in found if f.on(round_)]

    def _strikes(self, direction: str, name: str) -> Fault | None:
        """A fault with a rate that is drawn for this frame."""
        for f in self._faults(direction, name):
            if self._rng[direction].random() < (f.number if LINE[name] == "rate" else f.probability):
                self.lines[direction].faults[name] += 1
                return f
        return None

    def _counted(self, direction: str, name: str) -> bool:
        """A fault with a number of times that strikes at this frame."""
        for f in self._faults(direction, name):
            if self._left[id(f)] > 0 and self._rng[direction].random() < f.probability:
                self._left[id(f)] -= 1
                self.lines[direction].faults[name] += 1
                return True
        return False

    def _take(self, direction: str, data: bytes) -> None:
        line = self.lines[direction]
        line.taken += len(data)
        if not self._open:
            line.swallowed += len(data)
            return
        data = self._partial[direction] + data
        at = 0
        while at < len(data) and self._open:
            end = at
            while end < len(data) and data[end] == 0:
                end += 1  # delimiters that lead belong to the frame after them
            end = data.find(b"\0", end) + 1
            if end == 0:
                break
            self._partial[direction], frame, at = data[end:], data[at:end], end
            self._frame(direction, frame)
        if self._open:
            self._partial[direction] = data[at:]

    def _frame(self, direction: str, frame: bytes) -> None:
        line = self.lines[direction]
        if any(self._faults(direction, "stuck")):
            line.swallowed += len(frame)
            line.faults["stuck"] += 1
            return
        if self._counted(direction, "disconnect"):
            line.swallowed += len(frame)
            self._break()
            return
        if self.reset is not None and self._counted(direction, "reset"):
            half = len(frame) // 2
            if direction == DOWN:
                self._give(direction, frame[:half])
            line.swallowed += len(frame) - (half if direction == DOWN else 0)
            self._reset()
            return
        if self._strikes(direction, "drop"):
            line.swallowed += len(frame)
            return
        spoiled = self._flip(direction, frame)
        if self._strikes(direction, "cut"):
            spoiled = spoiled[: self._rng[direction].randrange(len(spoiled))]
        if direction == UP and self._strikes(direction, "boot"):
            spoiled = BOOT + spoiled
        if self._strikes(direction, "noise"):
            spoiled = self._rng[direction].randbytes(self._rng[direction].randint(1, 40)) + spoiled
        if self._strikes(direction, "dup"):
            spoiled += spoiled
        line.added += max(0, len(spoiled) - len(frame))
        line.swallowed += max(0, len(frame) - len(spoiled))
        if stalled := self._strikes(direction, "stall"):
            self._free[direction] = max(self._free[direction], monotonic()) + stalled.number
        if not self._late[direction] and self._strikes(direction, "reorder"):
            self._late[direction] = spoiled
            self._timer(f"late {direction}", 0.05, lambda: self._give_late(direction))
            return
        self._give(direction, spoiled)
        self._give_late(direction)

    def _flip(self, direction: str, frame: bytes) -> bytes:
        for f in self._faults(direction, "flip"):
            rate, rng, bits = float(f.value), self._rng[direction], 8 * len(frame)
            if rate <= 0:
                continue
            spoiled = bytearray(frame)
            at = int(rng.expovariate(rate))
            while at < bits:
                spoiled[at // 8] ^= 1 << at % 8
                self.lines[direction].faults["flip"] += 1
                at += 1 + int(rng.expovariate(rate))
            frame = bytes(spoiled)
        return frame

    def _give_late(self, direction: str) -> None:
        late, self._late[direction] = self._late[direction], b""
        if late:
            self._give(direction, late)

    def _give(self, direction: str, data: bytes) -> None:
        """On to the other end, after all that is before it and not before the line moves again."""
        if not data:
            return
        delay = sum(float(f.value) for f in self._faults(direction, "slow")) if direction == UP else 0.0
        due = max(
            monotonic() + delay,
            self._free[direction],
            self._queue[direction][-1][0] if self._queue[direction] else 0.0,
        )
        if not self._queue[direction] and due <= monotonic():
            self.lines[direction].given += len(data)
            self._sinks[direction](data)
            return
        self._queue[direction].append((due, data))
        if len(self._queue[direction]) == 1:
            self._timer(direction, due - monotonic(), lambda: self._deliver(direction))

    def _deliver(self, direction: str) -> None:
        queue = self._queue[direction]
        while queue and queue[0][0] <= monotonic() + 1e-9 and self._open:
            _, data = queue.pop(0)
            self.lines[direction].given += len(data)
            self._sinks[direction](data)
        if queue and self._open:
            self._timer(direction, queue[0][0] - monotonic(), lambda: self._deliver(direction))

    def _timer(self, name: str, delay: float, call: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(max(0.0, delay), call)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _break(self) -> None:
        self._spawn(self.inner.close())
        self._lost("chaos: the line was broken")

    def _reset(self) -> None:
        reset = self.reset
        assert reset is not None  # this fault strikes only where somebody can reset the board

        async def work() -> None:
            await asyncio.get_running_loop().run_in_executor(None, reset)
            if self._open:
                self.lines[UP].added += len(BOOT)
                self._give(UP, BOOT)

        self._spawn(work())
