"""Boards whose power is cut: in mid-push, in mid-round, with the host; the run ends on the bytes of an
undisturbed one."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, head_hash
from quantfl.device import Device
from quantfl.emulation.native import NativeBoard
from quantfl.emulation.qemu import QemuBoard
from quantfl.messages import config_bytes
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.support import DEMO_MODEL, need_board

pytestmark = pytest.mark.emulated
KINDS = ("native", "qemu_m4")
ROUNDS = 4


def make(kind: str, flash) -> NativeBoard | QemuBoard:
    need_board(kind)
    board = (NativeBoard if kind == "native" else QemuBoard)("b", uid=b"\1" * 8, flash=str(flash))
    board.start()
    return board


def power_cycle(board) -> None:
    """Kill -9, and on again: only flash is left."""
    board.kill()
    board.stop()
    board.start()


@pytest.fixture(scope="module")
def package() -> bytes:
    return convert(DEMO_MODEL).package


class Script:
    """A host that leads one board through rounds with DZ both ways; every step can be repeated by a host that
    has forgotten all."""

    def __init__(self, board, package: bytes):
        self.board, self.package = board, package
        self.program = open_package(package)
        rng = np.random.default_rng(1)
        self.x, self.y = rng.integers(-128, 128, (40, 64), np.int8), rng.integers(0, 10, 40).astype(np.uint16)
        p = self.program.params
        self.tensors = (p.size - 10, 10)
        self.heads, self.updates = [p], [b""]
        from quantfl.core.codec import decode

        for r in range(1, ROUNDS + 1):
            step = np.zeros(p.size, np.float32)
            step[r::50] = 0.03
            self.updates.append(Codec("dz", step=3.0).encode(step, self.tensors))
            self.heads.append(self.heads[-1] + decode(self.updates[-1], self.tensors))

    async def connect(self) -> Device:
        device = Device(self.board.url)
        await device.open(10)
        await device.read_info(10)
        await device.push(self.package, timeout=60)
        if device.info.samples == 0:
            await asyncio.get_running_loop().run_in_executor(None, self.board.feed, self.x, self.y)
        await device.wait_samples(40, timeout=20)
        await device.configure(
            config_bytes(FitConfig(lr=0.01, epochs=20), Codec("dz", step=4.0), run_id=1, seed=1)
        )
        return device

    async def round(self, device: Device, r: int) -> bytes:
        held = device.info.head if device.info.head is not None else 0
        update = self.updates[r] if held == head_hash(self.heads[r - 1]) else None
        delta = await device.train(r, head_hash(self.heads[r]), timeout=30, update=update)
        await device.read_info()
        return delta.data


def undisturbed(kind, package, tmp_path) -> list[bytes]:
    board = make(kind, tmp_path / "calm.img")
    script = Script(board, package)

    async def go():
        device = await script.connect()
        out = [await script.round(device, r) for r in range(1, ROUNDS + 1)]
        await device.close()
        return out

    try:
        return asyncio.run(go())
    finally:
        board.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_killed_in_every_round_sends_the_same_bytes(kind, package, tmp_path):
    """Round 1: cut after its answer, and asked again. 2: cut between rounds. 3 and 4: cut while it trains."""
    calm = undisturbed(kind, package, tmp_path)
    board = make(kind, tmp_path / "flash.img")
    script = Script(board, package)

    async def go():
        device = await script.connect()
        out = [await script.round(device, 1)]
        await device.close()
        power_cycle(board)
        device = Device(board.url)  # the host died too: it asks for the same round again
        await device.open(10)
        info = await device.read_info(10)
        assert (
            info.head == head_hash(script.heads[1]) and info.samples == 0 and "keeps rounds" in info.persisted
        )
        assert await script.round(device, 1) == out[0]  # no samples were needed: the delta was in flash
        await device.close()
        device = await script.connect()
        out.append(await script.round(device, 2))
        await device.close()
        power_cycle(board)
        for r in (3, 4):
            device = await script.connect()
            cut = threading.Timer(0.03 * r, board.kill)
            cut.start()
            device.patience = 0.5
            try:
                out.append(await script.round(device, r))
            except Exception:
                await device.close()
                cut.join()
                power_cycle(board)
                device = await script.connect()
                out.append(await script.round(device, r))
            cut.join()
            await device.close()
            power_cycle(board)
        return out

    try:
        assert asyncio.run(go()) == calm
    finally:
        board.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_goes_on_where_a_power_cut_broke_it_off(kind, package, tmp_path):
    board = make(kind, tmp_path / "flash.img")

    async def broken():
        async with Device(board.url, patience=0.2) as device:
            await device.read_info()

            def progress(at, total):
                if (
                    at > 0.9 * total
                ):  # three messages ahead of what the board has, which keeps whole units of flash
                    board.kill()

            with pytest.raises(Exception, match=r"."):
                await device.push(package, timeout=3, progress=progress)

    async def whole():
        async with Device(board.url) as device:
            info = await device.read_info()
            assert info.package is None and "cut package" in info.persisted
            before = device.counters()
            await device.push(package)
            return (device.counters() - before).tx_payload

    try:
        asyncio.run(broken())
        power_cycle(board)
        moved = asyncio.run(whole())
    finally:
        board.stop()
    assert moved < 0.8 * len(package)


def test_a_package_that_rots_in_flash_is_not_called_a_power_cut(package, tmp_path):
    flash = tmp_path / "flash.img"
    board = make("native", flash)

    async def push_and_look(push: bool):
        async with Device(board.url) as device:
            info = await device.read_info()
            if push:
                await device.push(package)
            return info

    try:
        asyncio.run(push_and_look(True))
        board.kill()
        board.stop()
        image = bytearray(flash.read_bytes())
        image[image.index(package[:64]) + len(package) // 2] ^= 1
        flash.write_bytes(image)
        board.start()
        rotten = asyncio.run(push_and_look(True))  # a push mends it
        power_cycle(board)
        mended = asyncio.run(push_and_look(False))
    finally:
        board.stop()
    assert rotten.package is None and {"damaged package"} == {*rotten.persisted} - {"log"}
    assert rotten.flash_note is not None and "no power cut" in rotten.flash_note
    assert mended.package is not None and mended.flash_note is None
