"""One board as a member of a fleet: set up, kept up to date, asked for its delta; failures stay its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantfl.core import lib
from quantfl.core.head import head_hash
from quantfl.device import Delta, Device, StaleHead
from quantfl.errors import DeviceError
from quantfl.strategy.fedavg import FedAvg

Feed = Callable[[], int]


@dataclass
class Member:
    """A client of the run.

    index: its place in the fleet, which decides its data, its seed and the order of aggregation. feed: puts its samples
    into its sample channel and returns the bytes moved (emulated boards), None when the board has its own sensor.
    """

    index: int
    name: str
    device: Device
    config: bytes
    feed: Feed | None = None
    expected: int = 0  # samples fed
    emulated: Any = None
    head: int | None = None  # hash of the head it holds, as far as we know
    params: np.ndarray | None = None  # that head, where boards hold heads of their own
    seen: np.ndarray | None = None  # the global head when the board was last led there
    ready: bool = False
    state: str = "new"
    samples: int = 0
    fed_bytes: int = 0
    reason: str | None = None
    stats: dict[str, Any] = field(default_factory=dict)

    async def set_up(self, package: bytes, *, timeout: float, progress: Callable[[str], None]) -> None:
        """Connect, greet, push the package unless it is there, feed samples, configure. Repeatable."""
        deadline = time.monotonic() + timeout

        def left() -> float:
            return max(0.5, deadline - time.monotonic())

        self.ready = False
        progress("connecting")
        if not self.device.session.up:
            await self.device.open(min(left(), 10.0))
        info = await self.device.hello(min(left(), 5.0))
        progress("pushing")
        await self.device.push(package, timeout=left())
        info = self.device.info or info
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

    async def bring_up_to_date(self, strategy: FedAvg) -> bytes | None:
        """Lead the board to the strategy's head by the cheapest way.

        Returns the coded delta when one update does it and may go with the TRAIN request, None when nothing is left to do.
        Otherwise coded updates go one by one, or the whole head when that is shorter or there is no other way.
        """
        target = strategy.hash
        way = strategy.lead(self.head) if self.head is not None else None
        whole = strategy.params.nbytes + 64 * (1 + strategy.params.nbytes // 4096)
        if way is None or sum(len(u.data) + 30 for u in way) >= whole:
            await self.device.put_head(strategy.params.tobytes())
            self.head = target
            return None
        for update in way[:-1]:
            await self.device.update(update.result, update.data)
            self.head = update.result
        if not way:
            return None
        last = way[-1]
        if len(last.data) + 7 > self.device.session.link.peer_message_max:
            await self.device.update(last.result, last.data)
            self.head = last.result
            return None
        return last.data

    async def approach(self, strategy: FedAvg) -> tuple[int, bytes | None]:
        """For boards with heads of their own: hash of the head to train from, and the coded delta that leads to it."""
        held = self.params
        if held is None or head_hash(held) != self.head:
            held = self.seen = strategy.version(self.head) if self.head is not None else None
        data, params = None, strategy.params
        if held is not None:
            data, params = strategy.approach(held, self.seen)
        self.seen = strategy.params.copy()
        if data is None or len(data) >= strategy.params.nbytes or len(data) + 7 > self.device.session.link.peer_message_max:
            await self.device.put_head(strategy.params.tobytes())
            self.params, self.head = self.seen, strategy.hash
            return self.head, None
        self.params = params
        return head_hash(params), data

    async def contribute(self, round_: int, strategy: FedAvg, *, timeout: float) -> Delta:
        """One round: bring the board to the strategy's head, let it train, return its delta."""
        deadline, target = time.monotonic() + timeout, strategy.hash
        for _attempt in range(3):
            if strategy.shared:
                update = await self.bring_up_to_date(strategy)
            else:
                target, update = await self.approach(strategy)
            try:
                delta = await self.device.train(
                    round_, target, timeout=max(0.1, deadline - time.monotonic()), update=update
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


async def _in_thread(function: Callable[[], int]) -> int:
    return await asyncio.get_running_loop().run_in_executor(None, function)



