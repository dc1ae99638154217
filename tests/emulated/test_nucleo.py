"""The Nucleo-L476RG's firmware on QEMU's B-L475E-IOT01A, the same part but for its pins (make boards), with a
model of its flash that enforces what the part enforces."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache

import numpy as np
import pytest

from quantfl.core.codec import Codec, decode
from quantfl.core.head import FitConfig, head_hash
from quantfl.device import Device
from quantfl.emulation.inproc import InprocBoardHandle
from quantfl.emulation.nucleo import NucleoBoard
from quantfl.link.keys import KeyRing
from quantfl.messages import config_bytes
from quantfl.package.boards import BOARDS
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from quantfl.provision import provision
from tests.support import ROOT, need_board

pytestmark = pytest.mark.emulated
MICRO = ROOT / "models" / "micro" / "micro_int8.tflite"
CUT = "1"
UID = bytes(range(1, 9))
WAIT = 300  # seconds that a request may take on a machine that is busy


@cache
def package() -> bytes:
    return convert(MICRO).package


@pytest.fixture
def nucleo():
    need_board("nucleo_l476rg")
    board = NucleoBoard("n", uid=UID)
    board.start()
    try:
        yield board
    finally:
        board.stop()
    assert board.fault is None and board.controller.misused == {}


def on(board, work, **how):
    """Open the board, ask it who it is, and do `work(device)`."""

    async def go():
        async with Device(board.url, **how) as device:
            await device.read_info(WAIT)
            return await work(device)

    return asyncio.run(go())


async def info_of(device: Device):
    return device.info


async def pushed(device: Device):
    await device.push(package(), timeout=WAIT)
    return device.info


class Rounds:
    """A host that leads one board through rounds with DZ both ways, and keeps each delta."""

    def __init__(self, count: int = 3):
        self.program = open_package(package())
        rng, p = np.random.default_rng(1), self.program.params
        size, classes = self.program.input_size, self.program.dims[-1]
        self.x = rng.integers(-128, 128, (24, size), np.int8)
        self.y = rng.integers(0, classes, 24).astype(np.uint16)
        tensors = (p.size - classes, classes)
        self.heads, self.updates = [p], [b""]
        for r in range(1, count + 1):
            step = np.zeros(p.size, np.float32)
            step[r::7] = 0.03
            self.updates.append(Codec("dz", step=3.0).encode(step, tensors))
            self.heads.append(self.heads[-1] + decode(self.updates[-1], tensors))

    async def ready(self, board, device: Device) -> None:
        await device.push(package(), timeout=WAIT)
        if device.info.samples == 0:
            await asyncio.get_running_loop().run_in_executor(None, board.feed, self.x, self.y)
        await device.wait_samples(24, timeout=WAIT)
        fit = FitConfig(lr=0.01, epochs=3)
        await device.configure(config_bytes(fit, Codec("dz", step=4.0), run_id=1, seed=1), timeout=WAIT)

    async def round(self, device: Device, r: int) -> bytes:
        update = self.updates[r] if device.info.head == head_hash(self.heads[r - 1]) else None
        delta = await device.train(r, head_hash(self.heads[r]), timeout=WAIT, update=update)
        await device.read_info(WAIT)
        return delta.data

    def all_of(self, board) -> tuple[list[bytes], int]:
        async def go(device):
            await self.ready(board, device)
            return [await self.round(device, r) for r in range(1, len(self.heads))], device.info.head

        return on(board, go)


@cache
def in_process() -> tuple[list[bytes], int]:
    board = InprocBoardHandle("i", uid=UID.ljust(12, b"\0"))
    board.start()
    try:
        return Rounds().all_of(board)
    finally:
        board.stop()


def test_it_says_hello_passes_its_self_test_and_takes_a_package(nucleo):
    async def go(device):
        return device.info, await device.selftest(WAIT), await pushed(device)

    info, (cases, failed, _), after = on(nucleo, go)
    assert info.board == "nucleo_l476rg_qemu" and info.ram == 96 * 1024 and info.flash == 1024 * 1024
    assert info.uid == UID.ljust(12, b"\0").hex() and info.selftest == 0
    table = next(b for b in BOARDS if b.name == "nucleo_l476rg")
    assert (info.store, info.arena) == (table.slot, table.arena)
    assert failed == 0 and cases > 0 and after.lost == 0
    assert nucleo.controller.seen["erases"] >= 2 and nucleo.controller.seen["units"] > len(package()) // 8
    store = bytes(nucleo.controller.cells)
    assert package() in store  # whole, in the bank that belongs to the store


def test_three_rounds_are_those_of_an_in_process_board_and_survive_a_reset(nucleo):
    rounds = Rounds()
    deltas, head = rounds.all_of(nucleo)
    assert (deltas, head) == in_process()
    nucleo.reset()

    async def again(device):
        return device.info, await rounds.round(device, len(deltas))

    info, last = on(nucleo, again)
    assert info.head == head and info.samples == 0 and "keeps rounds" in info.persisted
    assert last == deltas[-1]  # from the log: there are no samples any more


def test_a_push_goes_on_after_a_reset_in_its_middle(nucleo):
    def progress(at, total):
        if at > 0.6 * total and not gone:
            gone.append(at)
            nucleo.reset()

    gone: list[int] = []

    async def go(device):
        await device.push(package(), timeout=WAIT, progress=progress)
        return device.info

    assert on(nucleo, go).package is not None and gone


def test_keys_are_kept_over_a_reset(nucleo, tmp_path):
    ring = KeyRing.make(tmp_path / "keys.toml")

    async def give():
        device = Device(nucleo.url, keys=ring)
        try:
            return await provision(device, timeout=WAIT)
        finally:
            await device.close()

    asyncio.run(give())
    nucleo.reset()
    assert on(nucleo, info_of, keys=ring).keys != 0


@cache
def newer() -> bytes:
    """Another package for the same board: it trains one layer more."""
    return convert(MICRO, cut=CUT).package


async def updated(device: Device) -> str | None:
    """The newer package is pushed, and the board forgets the rounds of the older one."""
    await device.push(newer(), timeout=WAIT)
    return device.info.package


async def until_it_dies(board) -> None:
    """Push the newer package until the power is cut."""
    device = Device(board.url)
    await device.open(WAIT)
    push = asyncio.create_task(device.push(newer(), timeout=WAIT))
    while board.alive:
        assert not push.done()
        await asyncio.sleep(0.02)
    push.cancel()
    await asyncio.gather(push, return_exceptions=True)
    await device.close()


def phases(history: list[tuple[str, int]]) -> dict[str, int]:
    """Name of a phase of an update -> number of its operation, from 1."""
    erases = [i for i, (what, _) in enumerate(history, 1) if what == "erase"]
    units = [i for i, (what, _) in enumerate(history, 1) if what == "unit"]
    assert len(erases) >= 3 and len(units) > len(newer()) // 8
    after = [i for i in units if i > erases[-1]]
    return {
        "erase": erases[len(erases) // 2],
        "intent": after[0],
        "payload": after[len(after) // 2],
        "commit": units[-1],
    }


def test_power_is_cut_in_every_phase_of_an_update():
    """The board comes back with the old package, whose commit holds until the last unit of the new one's is
    written, and takes the update."""
    need_board("nucleo_l476rg")
    old, new = (hashlib.sha256(p).hexdigest() for p in (package(), newer()))
    board = NucleoBoard("n", uid=UID)
    board.start()
    seen = {}
    try:
        Rounds(1).all_of(board)
        before, done = bytes(board.controller.cells), len(board.controller.history)
        assert on(board, updated) == new
        for phase, at in phases(board.controller.history[done:]).items():
            board.stop()
            board.controller.cells[:] = before
            board.controller.history.clear()
            board.controller.cut_at = at
            board.start()
            asyncio.run(until_it_dies(board))
            assert len(board.controller.history) == at
            board.stop()
            board.controller.cut_at = None
            board.start()
            seen[phase] = on(board, info_of).package
            if phase in ("payload", "commit"):
                assert on(board, updated) == new
        assert seen == dict.fromkeys(("erase", "intent", "payload", "commit"), old)
        assert board.fault is None and board.controller.misused == {}
    finally:
        board.stop()
