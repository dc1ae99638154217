"""A board on a link as a client of a fleet: set up, kept up to date, asked for its delta; failures stay its
own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantfl.core import lib
from quantfl.core.link import PEER_PLAIN, Counters
from quantfl.device import Device, sha256_of
from quantfl.errors import DeviceError, SecurityError
from quantfl.link.clock import monotonic
from quantfl.link.ledger import Ledger
from quantfl.link.session import Answer
from quantfl.link.threads import in_own_thread
from quantfl.link.traffic import Comparison
from quantfl.messages import Delta, StaleHead
from quantfl.provision import provision
from quantfl.strategy.base import Strategy

Feed = Callable[[], int]


@dataclass(eq=False)
class BoardClient:
    """A client of the run.

    index: its place in the fleet, which decides its data, its seed and the order of aggregation. feed: puts
    its samples into its sample channel and returns the bytes moved (emulated boards), None when the board has
    its own sensor.
    """

    index: int
    name: str
    device: Device
    config: bytes
    feed: Feed | None = None
    expected: int = 0  # samples fed
    emulated: Any = None
    head: int | None = None  # hash of the head it holds, as far as we know
    agreed_steps: bool = False  # the uplink's steps are named by the host
    codecs: tuple[str, ...] = ()  # that the run's deltas and updates are coded by
    ready: bool = False
    state: str = "new"
    samples: int = 0
    fed_bytes: int = 0
    reason: str | None = None
    late: int = 0  # answers, so far, that came when nobody waited for them any more
    early: Answer | None = None  # to the request to train of the round that is about to be asked for
    stats: dict[str, Any] = field(default_factory=dict)
    notice: str | None = None  # what people should know of it since the last set-up, one line
    set_up_comparison: Comparison | None = None  # of both ends' traffic counters at the last set-up

    @property
    def url(self) -> str:
        """How it is reached."""
        return self.device.url

    @property
    def known_samples(self) -> int:
        """Samples that the host itself has put there; 0: only the board knows how many it has."""
        return self.samples if self.feed else 0

    @property
    def reachable(self) -> bool:
        """Whether its link is up, or given up for another board's turn only."""
        return self.device.session.reachable

    @property
    def boot(self) -> int | None:
        """Changes when its traffic counters have begun anew; None: not known."""
        return self.device.boot

    def has(self, part: str) -> bool:
        """Whether its firmware has an optional part."""
        return self.device.has(part)

    async def close(self) -> None:
        """End its link."""
        await self.device.close()

    def release_turn(self) -> None:
        """Nothing more is wanted of it for now: its place at a shared adapter may go to another board."""
        self.device.session.release_turn()

    def record_traffic(self, ledger: Ledger, round_: int) -> tuple[int, int]:
        """Enter what its link has moved since the last call; returns the totals (up, down) since the run
        began, in bytes."""
        up, down = ledger.record(round_, self.name, self.device.session.link.kinds())
        ledger.record_carried(round_, self.name, self.device.session.transport.carried())
        return up.total, down.total

    def plain_traffic(self) -> np.ndarray | None:
        """The running table of its link; None: its transport adds layers of its own."""
        session = self.device.session
        return None if hasattr(session.transport, "carried") else session.link.kinds()

    def late_answers(self) -> int:
        """Answers that have come too late since the last call."""
        new, self.late = self.device.session.late - self.late, self.device.session.late
        return new

    def compared_traffic(self) -> tuple[Counters, Counters]:
        """(ours, its) running counters when they were last compared."""
        return self.device.compared

    def expected_traffic(self) -> Counters:
        """Its running counters as they must stand now, if nothing went wrong since they were last seen."""
        return self.device.expected_counters()

    async def compare_traffic(self, timeout: float) -> Comparison:
        """Compare both ends' counters since the last comparison."""
        return await self.device.compare(timeout)

    async def statistics(self, request: bytes, *, timeout: float) -> bytes:
        """The sufficient statistics of its features, coded."""
        return await self.device.sums(request, timeout=timeout)

    async def personalised_head(self) -> dict[str, Any] | None:
        """What its status says of its personalised head."""
        status = await self.device.status()
        return {
            "own": status.personalised,
            "held": status.held,
            "global": status.global_hits,
            "in_use": status.hits,
        }

    async def set_up(self, package: bytes, *, timeout: float, progress: Callable[[str], None]) -> None:
        """Connect, greet, push the package unless it is there, feed samples, configure. Repeatable."""
        deadline = monotonic() + timeout

        def left() -> float:
            return max(0.5, deadline - monotonic())

        self.ready = False
        progress("connecting")
        if not self.device.session.up:
            await self.connect(min(left(), 10.0))
        info = await self.device.read_info(min(left(), 5.0))
        for codec in self.codecs:
            self.device.require_codec(codec)
        self.notice = info.flash_note
        self.set_up_comparison = await self.device.compare(min(left(), 5.0))
        progress("pushing")
        await self.device.push(package, timeout=left(), progress=_in_steps(progress))
        info = self.device.info or info
        if hasattr(self.emulated, "settle"):
            self.emulated.settle(sha256_of(package))
        if self.feed is not None and info.samples == 0:
            progress("sampling")
            self.fed_bytes += await _in_thread(self.feed)
        if self.feed is not None:
            status = await self.device.wait_samples(self.expected, timeout=left())
            self.samples = status.samples
        else:
            self.samples = info.samples
        await self.device.configure(self.config)
        self.head = info.head
        self.ready, self.reason = True, None
        progress("ready")

    async def connect(self, timeout: float) -> None:
        """Open a session; an emulated board that has no key yet is given one where the run has keys."""
        try:
            await self.device.open(timeout)
        except SecurityError as error:
            if self.emulated is None or error.refusal != PEER_PLAIN:
                raise
            await provision(
                self.device, reset=True, timeout=timeout
            )  # our own board, booted with empty flash

    async def bring_up_to_date(self, strategy: Strategy) -> tuple[int, bytes | None]:
        """SyncPlan the board to the head it shall train from, by the cheapest way; returns that head's hash.

        Also returns the coded delta that leads there when it may go with the TRAIN request, None when nothing
        is left to do. Otherwise coded updates go one by one, or the whole head when that is shorter or there
        is no other way.
        """
        way = strategy.plan(self.index, self.head)
        if way.updates is None:
            await self.device.put_head(way.params.tobytes())
            self.head = way.result
            return way.result, None
        for update in way.updates[:-1]:
            await self.device.update(update.result, update.data)
            self.head = update.result
        if not way.updates:
            return way.result, None
        last = way.updates[-1]
        if len(last.data) + lib.QFL_UPDATE_HEAD_BYTES > self.device.session.link.peer_message_max:
            await self.device.update(last.result, last.data)
            self.head = last.result
            return way.result, None
        return way.result, last.data

    async def contribute(self, round_: int, strategy: Strategy, *, timeout: float) -> Delta:
        """One round: bring the board to its head, let it train, return its delta."""
        deadline = monotonic() + timeout
        step = strategy.rate.uplink_code(round_) if self.agreed_steps else 0
        for _attempt in range(3):
            early, self.early = self.early, None
            try:
                if early is None:
                    target, update = await self.bring_up_to_date(strategy)
                else:
                    target, update = strategy.plan(self.index, self.head).result, None
                left = max(0.1, deadline - monotonic())
                delta = await self.device.train(
                    round_, target, step=step, timeout=left, update=update, early=early
                )
            except StaleHead as error:
                self.head = error.head  # it was reset, or another host moved it
                continue
            except DeviceError as error:
                if error.status == lib.QFL_E_STATE:
                    self.ready = False  # it lost package, samples or configuration
                raise
            self.head = target
            return delta
        raise DeviceError(f"{self.name} does not take the global head", lib.QFL_E_STALE)


def _in_steps(progress: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how much of a package is there, at most twenty times."""
    said = 0

    def moved(at: int, total: int) -> None:
        nonlocal said
        if (share := 100 * at // total) >= said + 5:
            said = share
            progress(f"pushing {share} %")

    return moved


async def _in_thread(function: Callable[[], int]) -> int:
    return await in_own_thread(function)
