"""Bytes that a broken line never took are not counted as sent: the ledger is of bytes that moved."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.link import Link
from quantfl.errors import LinkError
from quantfl.link.session import Session, now_ms
from quantfl.link.transport import SerialTransport, Transport


class DeafBoard:
    """A board on a socket that opens a session, reads no more once `deaf` is set, and then hangs up. It keeps
    count of every byte that came."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.url = f"socket://127.0.0.1:{self.listener.getsockname()[1]}"
        self.heard = 0
        self.deaf, self.hang_up, self.drain = (threading.Event() for _ in range(3))
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        link = Link(initiator=False, message_max=1 << 20, frame_max=1024)
        line, _ = self.listener.accept()
        line.settimeout(0.02)
        while not self.deaf.is_set():
            with contextlib.suppress(TimeoutError):
                data = line.recv(4096)
                self.heard += len(data)
                link.feed(data, now_ms())
            line.sendall(link.pull(now_ms()))
        self.hang_up.wait(60)
        line.shutdown(socket.SHUT_WR)
        self.drain.wait(60)
        line.settimeout(60)
        with contextlib.suppress(ConnectionError):
            while data := line.recv(65536):
                self.heard += len(data)


async def stands_still(transport: SerialTransport) -> int:
    """The bytes that the transport holds, once its socket is full and no more are taken."""
    last, same = -1, 0
    while same < 8:
        await asyncio.sleep(0.05)
        full = not select.select([], [transport._port._socket], [], 0)[1]
        same = same + 1 if full and transport.unsent == last > 0 else 0
        last = transport.unsent
    return last


def test_a_socket_that_breaks_has_sent_what_it_took_to_the_byte():
    board = DeafBoard()

    async def go() -> tuple[Session, int]:
        transport = SerialTransport(board.url)
        session = Session(transport)
        await session.open(30)
        transport._port._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        board.deaf.set()
        for number in range(4):
            with contextlib.suppress(LinkError):
                await session.send(9, number, bytes(60_000), timeout=0.2)
        before = session.counters().tx_bytes
        left = await stands_still(transport)
        board.hang_up.set()
        while session._open:
            await asyncio.sleep(0.02)
        assert session.counters().tx_bytes == before - left
        await session.close()
        return session, left

    session, left = asyncio.run(go())
    board.drain.set()
    board.thread.join(60)
    counters = session.counters()
    assert left > 0, "the line took all: the test has not tried anything"
    assert counters.tx_bytes == board.heard
    assert session.link.kinds()[0].sum() == counters.tx_bytes
    assert counters.tx_frames < 64


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3), st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_is_taken_back_the_counters_stay_those_of_the_rest(messages, data):
    """Counters, checksum and the table by kind go back to what they were without the bytes taken back."""
    host, board = Link(), Link(initiator=False, frame_max=64)
    host.connect(5, 0)
    board.feed(host.pull(0), 0)
    host.feed(board.pull(0), 0)
    start, table = host.counters(), host.kinds()
    frames = []
    for message in messages:
        host.send(bytes((9, 1)) + message)
    while True:
        piece, counted = host.pull_counted(0)
        if not piece:
            break
        assert counted.sum() == len(piece)
        frames.append((piece, counted))
    sent = host.counters()
    partly = data.draw(st.integers(0, len(frames[-1][0])))
    if partly:
        host.uncount(frames[-1][1], partly)
    assert host.counters().tx_bytes == sent.tx_bytes - partly
    assert host.counters().tx_frames == sent.tx_frames - bool(partly)
    if partly:
        rest = host.kinds()[0].astype(np.int64) - table[0] - sum(c.astype(np.int64) for _, c in frames[:-1])
        assert rest.min() >= 0 and rest.sum() == len(frames[-1][0]) - partly
        if rest.sum():
            host.uncount(rest.astype(np.uint32), int(rest.sum()))
            host_frames = host.counters().tx_frames
            assert host_frames == sent.tx_frames - 2  # each call takes a frame
    for _, counted in frames[: -1 if partly else None]:
        host.uncount(counted, int(counted.sum()))
    assert host.counters().tx_bytes == start.tx_bytes and host.counters().tx_checksum == start.tx_checksum
    assert (host.kinds() == table).all()


@pytest.mark.parametrize("take", [True, False])
def test_a_port_that_does_not_queue_has_sent_all_it_was_given(take):
    class Straight(Transport):
        url = "straight://"
        given = 0

        async def open(self, on_bytes, on_lost):
            self.on_bytes, self.on_lost = on_bytes, on_lost

        def write(self, data):
            self.given += len(data)
            if take:
                board.feed(data, now_ms())
                self.on_bytes(board.pull(now_ms()))

        async def close(self):
            pass

    board, line = Link(initiator=False), Straight()

    async def go() -> Session:
        session = Session(line)
        with contextlib.suppress(LinkError):
            await session.open(0.2)
        await session.close()
        return session

    assert asyncio.run(go()).counters().tx_bytes == line.given > 0
