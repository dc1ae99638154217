"""What a board says while it is led to its head decides whether it is set up again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from quantfl.core import lib
from quantfl.errors import DeviceError
from quantfl.fleet.board_client import BoardClient
from quantfl.messages import Delta, StaleHead
from quantfl.strategy.base import SyncPlan, Update

PARAMS = np.zeros(4, np.float32)
WHOLE, CODED = SyncPlan(7, PARAMS, None), SyncPlan(7, PARAMS, (Update(1, 2, b"a"), Update(2, 7, b"b")))


class Board:
    """A device that answers each request by the next of `answers`: an error to raise, or None."""

    def __init__(self, **answers):
        self.answers = {name: list(errors) for name, errors in answers.items()}
        self.asked: list[str] = []
        self.session = SimpleNamespace(link=SimpleNamespace(peer_message_max=1000))

    def _answer(self, name: str) -> None:
        self.asked.append(name)
        left = self.answers.get(name, [])
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    async def put_head(self, data: bytes) -> None:
        self._answer("put_head")

    async def update(self, result: int, data: bytes) -> None:
        self._answer("update")

    async def train(self, round_: int, target: int, **_) -> Delta:
        self._answer("train")
        return Delta(round_, 5, 1.0, b"delta", balanced=True, head=target)


def strategy(plan: SyncPlan):
    return SimpleNamespace(plan=lambda index, held: plan, rate=SimpleNamespace(uplink_code=lambda round_: 0))


def contribute(board: Board, plan: SyncPlan) -> BoardClient:
    client = BoardClient(0, "b", board, b"", ready=True)
    try:
        asyncio.run(client.contribute(3, strategy(plan), timeout=60.0))
    except DeviceError as error:
        client.reason = str(error)
    return client


@pytest.mark.parametrize(("request_", "plan"), [("put_head", WHOLE), ("update", CODED), ("train", WHOLE)])
def test_a_board_that_lost_its_state_is_set_up_again_whenever_it_says_so(request_, plan):
    client = contribute(Board(**{request_: [DeviceError("lost", lib.QFL_E_STATE)]}), plan)
    assert client.reason == "lost" and not client.ready


@pytest.mark.parametrize(("request_", "plan"), [("put_head", WHOLE), ("update", CODED), ("train", WHOLE)])
def test_another_refusal_needs_no_set_up(request_, plan):
    client = contribute(Board(**{request_: [DeviceError("busy", lib.QFL_E_BUSY)]}), plan)
    assert client.reason == "busy" and client.ready


@pytest.mark.parametrize(("request_", "plan"), [("update", CODED), ("train", CODED)])
def test_a_board_with_another_head_is_led_again_three_times_at_most(request_, plan):
    board = Board(**{request_: [StaleHead("another head", 9)]})
    client = contribute(board, plan)
    assert client.reason is None and client.head == 7 and board.asked[-1] == "train"
    board = Board(**{request_: [StaleHead("another head", 9)] * 9})
    client = contribute(board, plan)
    assert "does not take the global head" in client.reason and board.asked.count(request_) == 3
