"""One board through the Device API: ptys, wrong hashes, updates, evaluation, broken and noisy lines."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import threading
import tty

import numpy as np
import pytest

from quantfl.core import lib
from quantfl.core.codec import Codec, decode
from quantfl.core.head import FitConfig, Head, head_hash
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import DeviceError
from quantfl.link.traffic import compare
from quantfl.messages import StaleHead, config_bytes
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.support import DEMO_MODEL, need_board

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def package() -> bytes:
    return convert(DEMO_MODEL).package


@pytest.fixture
def board():
    need_board("native")
    (one,) = boot_fleet("native", 1)
    yield one
    close_all([one])


def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(-128, 128, (n, 64), np.int8), rng.integers(0, 10, n).astype(np.uint16)


class Bridge:
    """Bytes between two ends, each (read, write), spoiled on the way."""

    def __init__(self, a, b, spoil=lambda data: data):
        self.moved, self.spoil = 0, spoil
        for source, sink in ((a, b), (b, a)):
            threading.Thread(target=self.pump, args=(source[0], sink[1]), daemon=True).start()

    def pump(self, read, write):
        try:
            while data := read():
                self.moved += len(data)
                write(self.spoil(data))
        except OSError:
            pass


def test_a_pty_is_a_port(board, package):
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    s = socket.create_connection(("127.0.0.1", int(board.url.rsplit(":", 1)[1])))
    Bridge((lambda: os.read(master, 4096), lambda d: os.write(master, d)), (lambda: s.recv(4096), s.sendall))

    async def go():
        async with Device(os.ttyname(slave)) as device:
            info = await device.read_info()
            await device.push(package)
            ours, theirs = await device.read_counters()
            return info, compare(ours, theirs)

    info, found = asyncio.run(go())
    s.close()
    os.close(master)
    os.close(slave)
    assert info.board == "native" and found.balanced


def faulty(board, spoil) -> tuple[str, Bridge]:
    """A port whose line to the board is spoiled."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            s = socket.create_connection(("127.0.0.1", int(board.url.rsplit(":", 1)[1])))
            Bridge((lambda: client.recv(4096), client.sendall), (lambda: s.recv(4096), s.sendall), spoil)  # noqa: B023

    threading.Thread(target=serve, daemon=True).start()
    return f"socket://127.0.0.1:{listener.getsockname()[1]}", listener


@pytest.mark.parametrize("seed", range(4))
def test_a_noisy_line_changes_nothing_but_the_bytes(board, package, seed):
    rng = random.Random(seed)

    def spoil(data: bytes) -> bytes:
        out = bytearray(data)
        for i in range(len(out)):
            if rng.random() < 2e-4:
                out[i] ^= 1 << rng.randrange(8)
        if rng.random() < 0.05:
            out = bytearray(b"boot: noise\r\n") + out
        if rng.random() < 0.02:
            del out[rng.randrange(len(out)) :]
        return bytes(out)

    url, listener = faulty(board, spoil)
    x, y = samples(40)

    async def go(port, feed):
        async with Device(port) as device:
            await device.read_info(20)
            await device.push(package, timeout=60)
            if feed:
                board.feed(x, y)
            await device.wait_samples(40, timeout=20)
            await device.configure(
                config_bytes(FitConfig(lr=0.001), Codec("bu", 16), run_id=seed, seed=1), timeout=20
            )
            delta = await device.train(1, head_hash(open_package(package).params), timeout=60)
            return delta.data, device.counters()

    noisy, counters = asyncio.run(go(url, True))
    listener.close()
    clean, _ = asyncio.run(go(board.url, False))
    assert noisy == clean
    assert counters.rx_noise + counters.tx_retransmission > 0


def test_a_wrong_hash_is_refused_and_nothing_lost(board, package):
    async def go():
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            bad = (
                struct.pack("<BI", lib.QFL_OBJECT_PACKAGE, len(package)) + hashlib.sha256(b"another").digest()
            )
            number = device.session.next_number()
            answer = await device.session.request(lib.QFL_MSG_PUT_BEGIN, bad, timeout=5)
            assert answer.status == 0 and answer.body == bytes(4)
            for at in range(0, len(package), 2000):
                piece = struct.pack("<I", at) + package[at : at + 2000]
                await device.session.send(lib.QFL_MSG_PUT_DATA, number, piece, timeout=5)
            answer = await device.session.request(lib.QFL_MSG_PUT_END, timeout=5)
            assert answer.status == lib.QFL_E_HASH
            return await device.read_info()

    info = asyncio.run(go())
    assert info.package == hashlib.sha256(package).hexdigest() and info.state == "idle"


def test_a_damaged_package_with_its_own_hash_is_refused_before_it_is_current(board, package):
    damaged = bytearray(package)
    damaged[200:260] = bytes(60)

    async def go():
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            with pytest.raises(DeviceError, match="refused the package"):
                await device._put(lib.QFL_OBJECT_PACKAGE, bytes(damaged), "the package", 10, None)
            return await device.read_info()

    assert asyncio.run(go()).package == hashlib.sha256(package).hexdigest()


def test_updates_evaluation_and_heads(board, package):
    p = open_package(package)
    head = Head(p.dims, p.feature_scale, p.feature_zero_point)
    x, y = samples(50)
    step = (np.random.default_rng(2).normal(size=p.params.size) * 0.01).astype(np.float32)

    async def go():
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            board.feed(x, y)
            await device.wait_samples(50, timeout=10)
            start = head_hash(p.params)
            score = await device.evaluate()
            for codec in (Codec("fp32"), Codec("bu", 8), Codec("dz", step=1.0)):
                data = codec.encode(step, head.tensors)
                params = p.params + decode(data, head.tensors)
                await device.update(head_hash(params), data)
                await device.update(head_hash(params), data)  # asked again: done before
                with pytest.raises(StaleHead) as stale:
                    await device.update(12345, data)  # leads elsewhere: nothing changes
                assert stale.value.head == head_hash(params)
                with pytest.raises(DeviceError, match=r"do not parse|another head"):
                    await device.update(1, data[:-1])
                after = await device.evaluate()
                await device.put_head(p.params.tobytes())
            with pytest.raises(DeviceError, match="NaN"):
                await device.put_head(np.full(p.params.size, np.nan, np.float32).tobytes())
            assert (await device.status()).head == start
            return score, after, params

    from quantfl.core.nn import Engine

    score, after, params = asyncio.run(go())
    features = Engine(package).run_batch(x)
    assert score == head.evaluate(p.params, features, y)
    assert after == head.evaluate(params, features, y)


def test_a_round_costs_48_bytes_beyond_its_deltas(board, package):
    """As docs/PROTOCOL.md says: request, answer and their acknowledgements, for deltas of one frame each."""
    p = open_package(package)
    tensors = Head(p.dims, p.feature_scale, p.feature_zero_point).tensors
    x, y = samples(60)

    async def go():
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            board.feed(x, y)
            await device.wait_samples(60, timeout=10)
            await device.configure(config_bytes(FitConfig(lr=0.001), Codec("dz", step=4.0), run_id=1, seed=1))
            step = np.zeros(p.params.size, np.float32)
            step[::97] = 0.01
            down = Codec("dz", step=3.0).encode(step, tensors)
            before = device.counters()
            delta = await device.train(
                1, head_hash(p.params + decode(down, tensors)), timeout=10, update=down
            )
            await asyncio.sleep(0.05)  # the last acknowledgement
            moved = device.counters() - before
            assert delta.balanced and len(delta.data) < 230 and len(down) < 230
            return moved.tx_bytes + moved.rx_bytes - len(delta.data) - len(down)

    assert asyncio.run(go()) == 48


def test_a_broken_push_goes_on_where_it_stopped(board, package):
    """The line is cut in the middle; the second session sends only what is missing."""
    moved = 0

    def cut(data: bytes) -> bytes:
        nonlocal moved
        moved += len(data)
        if moved > 14_000 and not done:
            done.append(1)
            raise OSError
        return data

    done: list[int] = []
    url, listener = faulty(board, cut)

    async def go():
        first = Device(url, patience=0.2)
        await first.open()
        await first.read_info()
        with pytest.raises(Exception, match=r"."):
            await first.push(package, timeout=3)
        await first.close()
        async with Device(board.url) as device:
            await device.read_info()
            assert await device.push(package)
            return device.counters()

    counters = asyncio.run(go())
    listener.close()
    assert done and counters.tx_payload < len(package) - 6000
