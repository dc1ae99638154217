"""Requests and answers over one link: the host's end of docs/PROTOCOL.md.

A `Session` owns a transport and the C link, pumps bytes between them, matches answers to requests by kind and
number, and reconnects. Counters go on over reconnections: they are counters of the link, not of a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quantfl.core import lib
from quantfl.core.link import (
    DOWN,
    KEY_UNKNOWN,
    KEY_WRONG,
    NAMED,
    NEVER,
    PEER_KEYED,
    PEER_PLAIN,
    UP,
    Counters,
    Link,
)
from quantfl.errors import DeviceError, LinkError, SecurityError
from quantfl.link.clock import monotonic
from quantfl.link.keys import KeyRing
from quantfl.link.message_kinds import ANSWER, FAILED, kind_name
from quantfl.link.trace import RECEIVED, SENT, tap_of
from quantfl.link.transport import Transport

QUIET_MS = (
    10_000  # silence after which a board is asked whether it is there; a board takes us for gone after 60 s
)
#: Wait for an acknowledgement on a line that loses nothing by itself: silence there means that the board is
#: slow.
CALM_MS = 4000
_REFUSALS_MAX = 64  # of PUT_DATA that are kept; a board sends one for a push


@dataclass(frozen=True)
class Answer:
    """A board's answer: status (0, or a negative qfl_status from one that refuses), body, our counters at
    that moment."""

    kind: int
    number: int
    status: int
    body: bytes
    before: Counters  # this end's counters before the answer's first frame


def now_ms() -> int:
    return int(monotonic() * 1000)


class Session:
    """One board's link. Not safe for several requests at once unless they go through `request`, which queues
    them.

    keys: sessions are opened with boards that prove to hold a key of these, and with no others. None: plain
    sessions.
    """

    def __init__(
        self,
        transport: Transport,
        link: Link | None = None,
        *,
        nonce_seed: int | None = None,
        keys: KeyRing | None = None,
    ):
        self.transport = transport
        calm = CALM_MS if transport.lossless else 0
        self.link = link or Link(quiet_ms=QUIET_MS, rto_calm_ms=calm)
        self.keys = keys
        self.key_held: bytes | None = None  # the key that the board has proved to hold
        if keys is not None:
            self.link.secure(secrets.token_bytes(32))
        self.late = 0  # answers nobody waits for any more
        self.sessions = 0
        self.partial = b""  # front of an answer that a break has cut off
        self.tamper: Callable[[bytes], bytes] | None = None  # changes the board's messages: chaos only
        self._rng = random.Random(nonce_seed)
        self._nonce = self._rng.getrandbits(32)
        self._number = 0
        self._waiting: dict[tuple[int, int], asyncio.Future[Answer]] = {}
        self._refusals: asyncio.Queue[Answer] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._open = False
        self._lost_reason: str | None = None
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tap = tap_of(transport.url)
        self._pulled: deque[tuple[int, np.ndarray]] = deque()  # frames that the line may not have taken yet

    @property
    def tapped(self) -> bool:
        """Whether what moves is traced."""
        return self._tap is not None

    @property
    def up(self) -> bool:
        return self._open and self.link.state == UP

    @property
    def refusals(self) -> asyncio.Queue[Answer]:
        """Answers to PUT_DATA, which a board sends only to refuse."""
        return self._refusals

    def counters(self) -> Counters:
        return self.link.counters()

    @property
    def reachable(self) -> bool:
        """Up, or given up for another board's turn only."""
        return self.up or self.transport.preempted

    def open_s(self, usual: float) -> float:
        """Seconds that one attempt to open may take: the transport's own figure, else `usual`."""
        own = self.transport.open_s
        return usual if own is None else own

    def patience(self, usual: float) -> float:
        """Seconds that a lost board is waited for: at least as long as the transport needs to find it
        again."""
        return max(usual, self.transport.find_s)

    async def acquire_turn(self, timeout: float) -> float:
        """Wait for this link's turn where boards take turns (BLE); returns the seconds it took, which no
        board is to blame for."""
        return await self.transport.acquire_turn(timeout)

    @contextlib.contextmanager
    def requesting(self) -> Iterator[None]:
        """While something is asked of the board: its turn at a shared adapter is kept."""
        self.transport.request_begins()
        try:
            yield
        finally:
            self.transport.request_ends()

    def release_turn(self) -> None:
        """Nothing more is wanted of the board for now; its turn at a shared adapter may go to another."""
        self.transport.release_turn()

    async def open(self, timeout: float = 5.0, *, plain: bool = False) -> None:
        """Open the transport and a session on it. LinkError naming the port when either fails within
        `timeout` s.

        plain: without keys though we have some, to give a board its first. SecurityError: no key, or not the
        right one.
        """
        deadline = monotonic() + timeout
        if not self._open:
            self._lost_reason = None
            try:
                async with asyncio.timeout(
                    timeout
                ):  # wait_for loses a cancellation that meets the result (Python 3.11)
                    await self.transport.open(self._on_bytes, self._on_lost)
            except TimeoutError:
                raise LinkError(f"{self.transport.url} did not open within {timeout:g} s") from None
            self._open = self._lost_reason is None  # it may have been lost again while it was opened
        self._nonce = (
            self._nonce + 1 + 4 * self._rng.getrandbits(29)
        ) & 0xFFFFFFFF  # its low bits name the session
        if self.keys is not None:
            self.link.require_keys(not plain)
        self.key_held = None
        self.partial = self.link.partial() or self.partial
        self.link.connect(self._nonce, now_ms())
        self._pump()
        while self.link.state != UP:
            if self.link.state == DOWN and self.link.refusal:
                raise self._insecure()
            if self.link.state == DOWN:
                raise LinkError(
                    f"{self.transport.url}: the board speaks another protocol version; flash its firmware "
                    "anew"
                )
            if not self._open:
                raise LinkError(f"{self.transport.url}: {self._lost_reason}")
            left = deadline - monotonic()
            if left <= 0:
                raise LinkError(
                    f"no board answers at {self.transport.url} within {timeout:g} s: is it powered and "
                    "running quantfl?"
                )
            await self._wait_change(left)
        self.sessions += 1

    def _insecure(self) -> SecurityError:
        """Why there is no session, in one line."""
        refusal, uid = self.link.refusal, self.link.peer_uid.hex() or "without id"
        file = self.keys.path if self.keys is not None else ""
        text = {
            PEER_PLAIN: "the board answers without a key, and no plain link is taken where keys are "
            "required. A new board gets "
            "its key with `quantfl keys provision`; one that had a key was reset, or something on the "
            "line answers in its place",
            PEER_KEYED: f"board {uid} talks to holders of its key only: name your key file (--keys, or "
            "keys.file of FLEET.toml)",
            KEY_UNKNOWN: f"there is no key for board {uid} in {file}",
            KEY_WRONG: f"what answers as board {uid} does not hold its key of {file}: a false board, or a "
            "key given by another file",
        }[refusal]
        return SecurityError(f"{self.transport.url}: {text}", refusal)

    def _prove(self) -> None:
        """The board has named itself and shown its proof: find the key that fits."""
        candidates = self.keys.candidates(self.link.peer_uid) if self.keys is not None else []
        if not candidates:
            self.link.set_key(None)
            return
        self.key_held = next((k for k in candidates if self.link.set_key(k)), None)
        if self.key_held is None:
            self.link.reject()

    async def close(self) -> None:
        self._stop_timer()
        self._open = False
        self._fail_waiting("the session was closed")
        await self.transport.close()
        self._uncount_unsent()

    async def request(
        self,
        kind: int,
        body: bytes = b"",
        *,
        timeout: float,
        number: int | None = None,
        behind: float | None = None,
    ) -> Answer:
        """Send a request and wait for its answer. LinkError when the link fails or `timeout` s pass.

        behind: there is much on the way before it; so many s are given to all of that and the request to
        arrive.
        """
        async with self._turn:
            number = self.next_number() if number is None else number
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting[kind, number] = future
            try:
                await self.send(kind, number, body, timeout=timeout if behind is None else behind)
                if behind is not None:
                    await self.drained(behind)
                async with asyncio.timeout(timeout):
                    return await future
            except TimeoutError:
                raise LinkError(
                    f"{self.transport.url}: no answer to {kind_name(kind)} within {timeout:g} s"
                ) from None
            finally:
                self._waiting.pop((kind, number), None)
                if future.done() and not future.cancelled():
                    future.exception()  # sending failed as well, and nobody waits for the answer

    def next_number(self) -> int:
        self._number = (self._number + 1) & 0xFF
        return self._number

    async def send(
        self, kind: int, number: int, body: bytes, *, timeout: float, ahead: int | None = None
    ) -> None:
        """Queue one message when fewer than `ahead` (None: what the queue holds) are; LinkError when the link
        is down."""
        deadline = monotonic() + timeout
        while self.up and self.link.pending >= (ahead or self.link.queue):
            left = deadline - monotonic()
            if left <= 0:
                raise LinkError(f"{self.transport.url}: the board does not acknowledge")
            await self._wait_change(left)
        if not self.up:
            raise LinkError(f"{self.transport.url}: {self._lost_reason or 'no session with the board'}")
        self.link.send(bytes((kind, number)) + body)
        self._pump()

    async def drained(self, timeout: float) -> None:
        """Wait until the board has acknowledged everything sent."""
        deadline = monotonic() + timeout
        while self.link.pending:
            left = deadline - monotonic()
            if left <= 0 or not self.up:
                raise LinkError(
                    f"{self.transport.url}: {self._lost_reason or 'the board does not acknowledge'}"
                )
            await self._wait_change(left)

    async def _wait_change(self, timeout: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    def _on_lost(self, reason: str) -> None:
        self._open = False
        self._uncount_unsent()
        self._lost_reason = f"the link was lost ({reason})"
        self._fail_waiting(self._lost_reason)

    def _fail_waiting(self, reason: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkError(f"{self.transport.url}: {reason}"))
        self._changed.set()

    def _on_bytes(self, data: bytes) -> None:
        if self._tap is not None:
            self._tap.take(RECEIVED, data)
        at = 0
        while at < len(data):
            at += self.link.feed(data[at:], now_ms())
            message = self.link.message()
            if message is not None:
                self._on_message(message)
            if self.link.state == NAMED:
                self._prove()
        self._pump()

    def _on_message(self, message: bytes) -> None:
        if self.tamper is not None:
            message = self.tamper(message)
        failed = bool(message and message[0] & FAILED)
        if len(message) < 2 + failed or not message[0] & ANSWER:
            self.late += 1
            return
        kind, number = message[0] & ~(ANSWER | FAILED), message[1]
        status = int.from_bytes(message[2:3], "little", signed=True) if failed else 0
        answer = Answer(kind, number, status, message[2 + failed :], self.link.counters_before())
        future = self._waiting.get((kind, number))
        if future is not None and not future.done():
            if failed and status >= 0:
                future.set_exception(
                    DeviceError(
                        f"the board at {self.transport.url} refuses {kind_name(kind)} with status {status}, "
                        "which is no error; is its firmware of this version?"
                    )
                )
            else:
                future.set_result(answer)
        elif kind == lib.QFL_MSG_PUT_DATA and self._refusals.qsize() < _REFUSALS_MAX:
            self._refusals.put_nowait(answer)
        else:
            self.late += 1

    def _pull(self) -> bytes:
        """What is due on the wire. Where the transport queues, frame by frame, so that what a break leaves in
        the queue can be taken out of the counters."""
        if not self.transport.queues:
            return self.link.pull(now_ms())
        data, counted = self.link.pull_counted(now_ms())
        if data:
            unsent, kept = self.transport.unsent, sum(n for n, _ in self._pulled)
            while self._pulled and kept - self._pulled[0][0] >= unsent:
                kept -= self._pulled.popleft()[0]
            self._pulled.append((len(data), counted))
        return data

    def _uncount_unsent(self) -> None:
        """The line is gone: what it has not taken was not sent."""
        unsent = self.transport.unsent
        while self._pulled and unsent > 0:
            n, counted = self._pulled.pop()
            self.link.uncount(counted, min(n, unsent))
            unsent -= n
        self._pulled.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pump(self) -> None:
        """Write what is due, and arrange to be called when the link next wants something by itself."""
        self._stop_timer()
        if not self._open:
            return
        while data := self._pull():
            if self._tap is not None:
                self._tap.take(SENT, data)
            self.transport.write(data)
        self._changed.set()
        if self.link.state == DOWN:
            self._lost_reason = self._lost_reason or "the board lost the session or does not acknowledge"
            self._fail_waiting(self._lost_reason)
            return
        wait = self.link.wait(now_ms())
        if wait != NEVER:
            self._timer = asyncio.get_running_loop().call_later(max(wait, 1) / 1000, self._pump)
