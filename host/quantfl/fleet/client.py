"""What the round loop asks of a client, and how it asks many of them at once.

A client is something that can be set up, asked for a contribution, and led to a version of the global head.
`BoardClient` is a board on a link, real or virtual. A remote group of boards is another kind of client; the
loop knows neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from quantfl.core.link import Counters
from quantfl.errors import QuantflError
from quantfl.link.clock import monotonic
from quantfl.link.ledger import Ledger
from quantfl.link.traffic import Comparison
from quantfl.messages import Delta
from quantfl.strategy.base import Strategy

Result = TypeVar("Result")


class Client(Protocol):
    """A client of a run.

    index: its place in the fleet, which decides its data, its seed and the order of aggregation. state: in a
    word, for people. reason: why it is not ready, one line. notice: what people should know of it, one line.
    samples: that it says it has. head: hash of the head it holds, None: the host does not know. stats: of its
    last answer, for the history. late: answers that came when nobody waited for them any more.
    """

    index: int
    name: str
    ready: bool
    state: str
    reason: str | None
    notice: str | None
    samples: int
    head: int | None
    stats: dict[str, Any]

    @property
    def url(self) -> str:
        """How it is reached, from which the radio's energy per byte follows; empty: not known."""

    @property
    def known_samples(self) -> int:
        """Samples that the host itself has put there; 0: only the client knows how many it has."""

    @property
    def fed_bytes(self) -> int:
        """Bytes that were moved to feed it its samples."""

    @property
    def reachable(self) -> bool:
        """Whether its link is up, or given up for another client's turn only."""

    def has(self, part: str) -> bool:
        """Whether what it runs has an optional part: `stats` for sufficient statistics, `personal` for
        personalised heads."""

    async def set_up(self, package: bytes, *, timeout: float, progress: Callable[[str], None]) -> None:
        """Connect, bring package, data and configuration. Repeatable. QuantflError: it cannot take part
        now."""

    async def contribute(self, round_: int, strategy: Strategy, *, timeout: float) -> Delta:
        """Lead it to the head it trains from, let it train, return its delta."""

    async def statistics(self, request: bytes, *, timeout: float) -> bytes:
        """The sufficient statistics of its features, coded (quantfl.strategy.closed_form)."""

    async def personalised_head(self) -> dict[str, Any] | None:
        """`own`: whether it uses a personalised head; `held`: samples it holds back; `global`, `in_use`: how
        many of them the global head and the head in use get right. None: it has no such thing."""

    async def close(self) -> None:
        """End its links. Repeatable."""

    def release_turn(self) -> None:
        """Nothing more is wanted of it for now: its place at a shared adapter may go to another."""

    def record_traffic(self, ledger: Ledger, round_: int) -> tuple[int, int]:
        """Enter what its links have moved since the last call; returns the totals (up, down) since the run
        began, in bytes."""

    def plain_traffic(self) -> np.ndarray | None:
        """The running table of its one link, uint32 [2 (sent, received), kinds, categories], where it is all
        that `record_traffic` books; None: call that."""

    def late_answers(self) -> int:
        """Answers that have come too late since the last call."""

    @property
    def set_up_comparison(self) -> Comparison | None:
        """How both ends' traffic counters compared at the last set-up."""

    @property
    def boot(self) -> int | None:
        """Changes when its counters have begun anew; None: not known."""

    def compared_traffic(self) -> tuple[Counters, Counters]:
        """(ours, its) running counters when they were last compared."""

    def expected_traffic(self) -> Counters:
        """Its running counters as they must stand now, if nothing went wrong since they were last seen."""

    async def compare_traffic(self, timeout: float) -> Comparison:
        """Compare both ends' counters since the last comparison. QuantflError: it does not answer."""


OVERTAKEN = "{} others were faster, and the round waited for no more"


def select(seed: int, round_: int, count: int, participation: float, attempt: int = 0) -> list[int]:
    """Indices of the clients of a round, ascending; the same for the same seed, round and attempt."""
    take = max(1, round(participation * count))
    entropy = [seed, round_] if attempt == 0 else [seed, round_, attempt]
    return sorted(int(i) for i in np.random.default_rng(entropy).choice(count, take, replace=False))


async def in_turn(client: Client, work: Awaitable[Result]) -> Result:
    """Do something with a client; afterwards its place at a shared adapter may go to another."""
    try:
        return await work
    finally:
        client.release_turn()


def reason_of(error: BaseException | None, deadline_s: float) -> str:
    """Why a client failed, in one line. None: it did not answer in time."""
    if error is None or isinstance(error, TimeoutError | asyncio.CancelledError):
        return str(error or "") or f"no answer within {deadline_s:g} s"
    text = " ".join(str(error).split())
    return text if isinstance(error, QuantflError) and text else f"{type(error).__name__}: {text}"


async def ask_all(
    clients: Sequence[Client],
    ask: Callable[[Any], Awaitable[Result]],
    deadline_s: float,
    stop: asyncio.Event,
    wait_for: int | None = None,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Ask all clients at once, until the deadline or `stop`: name -> answer, and name -> reason of those that
    failed. wait_for: answers after which nobody else is waited for.

    A client's failure, of whatever kind, is its own: it ends nothing for the others.
    """
    answers: dict[str, Result] = {}
    failed: dict[str, str] = {}
    left, wanted, idle = len(clients), wait_for or len(clients), asyncio.Event()

    def finished(task: asyncio.Task[Result]) -> None:
        nonlocal left, wanted
        left -= 1
        wanted -= not task.cancelled() and task.exception() is None
        if left == 0 or wanted <= 0:
            idle.set()

    tasks = {client.name: asyncio.create_task(in_turn(client, ask(client))) for client in clients}
    for task in tasks.values():
        task.add_done_callback(finished)
    if tasks:
        await _first_of((idle, stop), deadline_s)
    enough = wait_for is not None and idle.is_set() and left > 0
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    for name, task in tasks.items():
        if task.cancelled():
            failed[name] = OVERTAKEN.format(wait_for) if enough else reason_of(None, deadline_s)
        elif (error := task.exception()) is not None:
            failed[name] = reason_of(error, deadline_s)
        else:
            answers[name] = task.result()
    return answers, failed


async def _first_of(events: Iterable[asyncio.Event], timeout: float) -> None:
    """Wait until one of the events is set, or for `timeout` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait `seconds`, or until `stop`."""
    deadline = monotonic() + seconds
    if not stop.is_set():
        await _first_of((stop,), max(0.0, deadline - monotonic()))
