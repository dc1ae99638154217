"""Turns at the adapter: the limit holds, nobody starves, places are taken back only when somebody waits."""

from __future__ import annotations

import asyncio

from quantfl.link import ble_turns
from quantfl.link.ble_turns import Turns


class Board:
    def __init__(self, name: str, turns: Turns, log: list):
        self.name, self.turns, self.log = name, turns, log
        self.yields, self.busy = 0, True

    def willing(self) -> bool:
        return not self.busy

    async def end_turn(self) -> None:
        self.log.append(("end", self.name))
        await asyncio.sleep(0.01)

    async def work(self, seconds: float) -> None:
        await self.turns.take(self)
        self.busy = True
        self.log.append(("start", self.name))
        assert self.turns.taken <= self.turns.connections
        await asyncio.sleep(seconds)
        self.busy = False


def test_boards_come_in_order_and_idle_ones_make_room():
    async def go():
        turns, log = Turns(4), []
        boards = [Board(str(i), turns, log) for i in range(10)]
        await asyncio.wait_for(asyncio.gather(*(b.work(0.05) for b in boards)), 10)
        assert [n for what, n in log if what == "start"] == [str(i) for i in range(10)]
        assert [n for what, n in log if what == "end"] == [
            str(i) for i in range(6)
        ]  # only as many as others needed
        assert turns.taken == 4
        await boards[9].work(0)  # it still has its place
        assert len([1 for what, _ in log if what == "end"]) == 6
        # The next round begins with the ones that are connected; again everybody has a turn.
        log.clear()
        await asyncio.wait_for(asyncio.gather(*(b.work(0.02) for b in boards)), 10)
        assert sorted(n for what, n in log if what == "start") == sorted(b.name for b in boards)

    asyncio.run(go())


def test_busy_boards_keep_their_place():
    async def go():
        turns, log = Turns(1), []
        first, second = Board("a", turns, log), Board("b", turns, log)
        await turns.take(first)
        waiting = asyncio.create_task(turns.take(second))
        await asyncio.sleep(0.2)
        assert not waiting.done() and log == []
        first.busy = False
        await asyncio.wait_for(waiting, 1)
        assert log == [("end", "a")] and turns.holds(second)

    asyncio.run(go())


def test_a_cancelled_board_leaves_the_queue_or_its_place():
    async def go():
        turns, log = Turns(1), []
        boards = [Board(n, turns, log) for n in "abc"]
        await turns.take(boards[0])
        tasks = [asyncio.create_task(turns.take(b)) for b in boards[1:]]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await asyncio.sleep(0)
        turns.give_back(boards[0])
        await asyncio.wait_for(tasks[1], 1)
        assert turns.holds(boards[2]) and turns.taken == 1
        late = asyncio.create_task(turns.take(boards[0]))
        await asyncio.sleep(0)
        turns.give_back(boards[2])
        late.cancel()  # granted and cancelled in the same step
        await asyncio.gather(late, return_exceptions=True)
        assert turns.taken == 0

    asyncio.run(go())


def test_a_board_that_gave_its_place_back_waits_behind_new_ones_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(ble_turns, "HOLD_OFF_S", (0.1, 0.2))

    async def go():
        turns, log = Turns(1), []
        old, new = Board("old", turns, log), Board("new", turns, log)
        old.yields = 1
        blocker = Board("x", turns, log)
        await turns.take(blocker)
        first = asyncio.create_task(old.work(0.05))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(new.work(0.05))
        await asyncio.sleep(0.3)
        blocker.busy = False
        await asyncio.wait_for(asyncio.gather(first, second), 2)
        assert [n for what, n in log if what == "start"] == ["new", "old"]

    asyncio.run(go())


def test_a_free_place_is_given_before_the_hold_off_ends():
    async def go():
        turns = Turns(1)
        board = Board("a", turns, [])
        board.yields = 9  # would have to hold off for seconds
        await asyncio.wait_for(turns.take(board), 0.1)

    asyncio.run(go())
