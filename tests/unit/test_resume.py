"""Breaks in the middle of things: long answers go on where they stopped, nothing is trained twice, late
answers are not used."""

from __future__ import annotations

import asyncio
import hashlib
import struct

import numpy as np
import pytest

from quantfl.core import lib
from quantfl.core.board import InprocBoard
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig
from quantfl.core.link import UP, Link, cobs_decode
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.inproc import InprocTransport
from quantfl.link.session import Session
from quantfl.messages import config_bytes
from tests.support import DEMO_MODEL


@pytest.fixture(scope="module")
def package() -> bytes:
    from quantfl.package.convert import convert

    return convert(DEMO_MODEL).package


@pytest.fixture
def board():
    (one,) = boot_fleet("inproc", 1)
    yield one
    close_all([one])


class Cut(InprocTransport):
    """A line that breaks after so many bytes from the board, each time it has been opened; `after` is used up
    one by one."""

    after: list[int]
    on_break = staticmethod(lambda: None)

    async def open(self, on_bytes, on_lost) -> None:
        left = [self.after.pop(0) if self.after else 1 << 30]

        def some(data: bytes) -> None:
            piece = data[: left[0]]
            left[0] -= len(piece)
            if piece:
                on_bytes(piece)
            if len(piece) < len(data):
                left[0] = 0
                self._task.cancel()
                self.on_break()
                on_lost("cut")

        await super().open(some, on_lost)


def sessions(board, codec: Codec, package: bytes):
    """An opened device, ready to train."""

    async def make(cuts: list[int]) -> Device:
        transport = Cut(board.url)
        transport.after = []
        device = Device(board.url, session=Session(transport), patience=20)
        await device.open()
        await device.read_info()
        await device.push(package)
        if device.info.samples == 0:
            rng = np.random.default_rng(1)
            board.feed(rng.integers(-128, 128, (40, 64), np.int8), rng.integers(0, 10, 40).astype(np.uint16))
        await device.wait_samples(40, timeout=10)
        await device.configure(config_bytes(FitConfig(lr=0.01, epochs=2, batch=10), codec, run_id=1, seed=7))
        if cuts:
            await device.close()
            transport.after = cuts
        return device

    return make


def up_payload(device: Device) -> int:
    return device.counters().rx_payload


@pytest.mark.parametrize("codec", [Codec("fp32"), Codec("dz", 8)])
@pytest.mark.parametrize("cuts", [[], [600], [1400], [1400, 900], [2000, 500, 500]])
def test_a_delta_goes_on_where_it_was_cut_off(board, package, codec, cuts):
    async def go() -> tuple[bytes, bytes, int]:
        make = sessions(board, codec, package)
        device = await make(cuts)
        head = device.info.head
        before = up_payload(device)
        delta = await device.train(1, head, timeout=30)
        moved = up_payload(device) - before
        again = await device.train(1, head, timeout=30)
        await device.close()
        return delta.data, again.data, moved

    first, again, moved = asyncio.run(go())
    assert first == again  # with error feedback a second training would give another delta
    if codec.kind == "fp32" and cuts:
        # The pieces add up to the delta once, each break costing at most the frame it cut and the head of an
        # answer.
        assert moved < len(first) + (len(cuts) + 1) * (39 + 300)


def test_what_was_cut_off_is_asked_for_and_checked(board, package):
    """RESUME by hand: right rest and hash, refusals for what is not held."""

    async def go() -> None:
        import hashlib
        import struct

        device = await sessions(board, Codec("fp32"), package)([])
        head = device.info.head
        whole = (await device.train(3, head, timeout=30)).data
        for offset in (0, 1, len(whole) - 1, len(whole)):
            answer = await device.session.request(
                lib.QFL_MSG_RESUME, struct.pack("<BII", 6, head, offset), timeout=5, number=3
            )
            assert answer.body[5:37] == hashlib.sha256(whole).digest() and answer.body[37:] == whole[offset:]
        for number, name, offset in ((4, head, 0), (3, head ^ 1, 0), (3, head, len(whole) + 1)):
            answer = await device.session.request(
                lib.QFL_MSG_RESUME, struct.pack("<BII", 6, name, offset), timeout=5, number=number
            )
            assert answer.status == lib.QFL_E_STATE
        for junk in (b"", b"\x06", bytes(9), bytes(40)):
            assert (
                await device.session.request(lib.QFL_MSG_RESUME, junk, timeout=5)
            ).status == lib.QFL_E_FORMAT
        await device.close()

    asyncio.run(go())


def test_sums_go_on_where_they_were_cut_off(board, package):
    from quantfl.strategy.closed_form import StatsSpec

    async def go() -> tuple[bytes, bytes, int]:
        device = await sessions(board, Codec("fp32"), package)([])
        request = StatsSpec(0.4, 0.4, 24, 5).request()
        whole = await device.sums(request, timeout=30)
        await device.close()
        device = await sessions(board, Codec("fp32"), package)([len(whole) // 2])
        before = up_payload(device)
        again = await device.sums(request, timeout=30)
        moved = up_payload(device) - before
        await device.close()
        return whole, again, moved

    whole, again, moved = asyncio.run(go())
    assert whole == again
    assert moved < len(whole) + 600


def test_a_board_that_was_reset_meanwhile_trains_again(board, package):
    """Its answer is gone with its memory: the host's front of it is thrown away, not glued to another."""

    async def go() -> tuple[bytes, bytes]:
        make = sessions(board, Codec("fp32"), package)
        device = await make([1400])
        transport = device.session.transport
        transport.on_break = board.reset
        device._config = config_bytes(FitConfig(lr=0.01, epochs=2, batch=10), Codec("fp32"), run_id=1, seed=7)
        head = device.info.head
        first = await device.train(1, head, timeout=30)
        transport.on_break = lambda: None
        await device.wait_samples(40, timeout=10)
        await device.close()
        return first.data, head

    data, _ = asyncio.run(go())
    assert data


def test_a_host_that_died_and_came_back_gets_the_same_delta(board, package):
    """A new process knows nothing: it greets, configures the same run, asks for the same round, and nothing
    is trained again."""

    async def go() -> tuple[bytes, bytes]:
        make = sessions(board, Codec("dz", 8), package)
        one = await make([])
        first = await one.train(5, one.info.head, timeout=30)
        one.session.transport._task.cancel()  # killed: no goodbye
        two = await make([])
        second = await two.train(5, two.info.head, timeout=30)
        third = await two.train(6, two.info.head, timeout=30)
        await two.close()
        assert (
            third.data != second.data
        )  # the residual has moved on: had round 5 been trained twice, second would differ too
        return first.data, second.data

    first, second = asyncio.run(go())
    assert first == second


def test_a_late_answer_to_an_old_round_is_counted_and_not_used(board, package):
    async def go() -> None:
        device = await sessions(board, Codec("dz", 8), package)([])
        session, head = device.session, device.info.head
        await session.send(
            lib.QFL_MSG_TRAIN, 1, head.to_bytes(4, "little") + b"\0", timeout=5
        )  # nobody waits for this one
        await session.drained(5)
        while session.late == 0:
            await asyncio.sleep(0.01)
        late = session.late
        delta = await device.train(2, head, timeout=30)
        assert delta.round == 2 and session.late == late == 1
        assert (await device.status()).round == 2
        await device.close()

    asyncio.run(go())


def test_the_end_of_an_object_is_acknowledged_with_the_answer_to_put_end():
    """Its other messages by frames of their own; a piece that comes again or is refused is not left without a
    word."""
    board, link, now = InprocBoard(b"put"), Link(), 0

    def heard() -> list[bytes]:
        """What the board says to what is due, frame by frame."""
        nonlocal now
        now += 1
        board.write(link.pull(now))
        board.poll(now)
        data = board.read()
        for at in range(len(data)):
            link.feed(data[at : at + 1], now)
            link.message()
        return [frame for frame in data.split(b"\0") if frame]

    def say(kind: int, body: bytes = b"") -> list[int]:
        link.send(bytes((kind, 1)) + body)
        return [cobs_decode(f)[0] & 7 for f in heard()]

    link.connect(4, now)
    assert heard() and link.state == UP
    object_, ack, answer = bytes(range(200)) * 6, 1, 5
    begin = struct.pack("<BI32s", lib.QFL_OBJECT_PACKAGE, len(object_), hashlib.sha256(object_).digest())
    data = [struct.pack("<I", at) + object_[at : at + 600] for at in (0, 600)]
    assert say(lib.QFL_MSG_PUT_BEGIN, begin) == [answer]
    assert say(lib.QFL_MSG_PUT_DATA, data[0]) == [ack] and link.pending == 0
    assert say(lib.QFL_MSG_PUT_DATA, data[1]) == [] and link.pending == 1
    assert say(lib.QFL_MSG_PUT_END) == [answer] and link.pending == 0
    # Again, and one piece too many: refused, once; what comes after it is acknowledged.
    assert say(lib.QFL_MSG_PUT_BEGIN, begin) == [answer]
    assert say(lib.QFL_MSG_PUT_DATA, data[1]) == [answer] and say(lib.QFL_MSG_PUT_DATA, data[0]) == [ack]
    assert link.pending == 0 and board.counters().tx_retransmission == 0
