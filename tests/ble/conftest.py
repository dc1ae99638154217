"""Virtual BLE for tests: an unmodified bleak, a private D-Bus, bumble's controllers, emulated boards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from quantfl.emulation.native import NativeBoard
from quantfl_lab.ble.adapter import BleAdapter, BleBoard, missing
from tests.support import need_board


@dataclass
class Air:
    """Boards and the adapter they are reached through. `url(i)` is board i by name."""

    boards: list
    adapter: BleAdapter

    def url(self, i: int) -> str:
        return f"ble://{self.adapter.boards[i].name}"

    async def simulate(self, member: str, signature: str = "", body: list | None = None):
        """Call org.quantfl.Sim1; returns the first value of the answer."""
        return await self.adapter.simulate(member, signature, body)

    async def meters(self) -> dict:
        return json.loads(await self.simulate("Meters"))


@pytest.fixture
def air(monkeypatch) -> Iterator[Callable[..., Air]]:
    """air(count, **adapter) boots native boards behind virtual radios; keyword arguments go to BleAdapter."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    need_board("native")
    with ExitStack() as stack:

        def make(
            count: int = 1,
            *,
            boards: list | None = None,
            mode: str = "radio",
            battery: int | None = None,
            mtu: int = 247,
            **adapter,
        ) -> Air:
            if boards is None:
                boards = []
                for i in range(count):
                    board = NativeBoard(f"b{i}", uid=bytes([0, 0, 0, 1, 0, 0, 0, i]), ble=mode == "radio")
                    board.start()
                    stack.callback(board.stop)
                    boards.append(board)
            radios = [
                BleBoard(f"qfl-{i}", int(b.url.rsplit(":", 1)[1]), mode, battery, mtu)
                for i, b in enumerate(boards)
            ]
            made = Air(boards, stack.enter_context(BleAdapter(radios, **adapter)))
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.adapter.address)
            return made

        yield make


def run(work):
    """asyncio.run with a limit, so that a hang is a failure of this test and not of the suite."""

    async def limited():
        return await asyncio.wait_for(work, 100)

    return asyncio.run(limited())
