"""What the fit check prints is what boards do: arena, RAM of a package, samples, flash slot, refusals, on
every emulated board."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np
import pytest

from quantfl.core import lib
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, head_hash
from quantfl.core.nn import Engine, device_need
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.elf import symbols
from quantfl.emulation.qemu import QemuBoard
from quantfl.errors import DeviceError
from quantfl.messages import config_bytes
from quantfl.package import fit
from quantfl.package.boards import BOARDS, Board
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.support import DEMO_MODEL, ROOT, need_board

pytestmark = pytest.mark.emulated
MICRO = ROOT / "models" / "micro" / "micro_int8.tflite"
#: Name -> model and how it is cut: dense heads, convolutions trained, scales and biases only, inputs cached
#: instead of features.
PACKAGES = {
    "digits": (DEMO_MODEL, {}),
    "micro": (MICRO, {}),
    "convolutions": (DEMO_MODEL, {"cut": "2"}),
    "scales": (DEMO_MODEL, {"cut": "1", "train": "scales"}),
    "recompute": (DEMO_MODEL, {"cut": "2", "recompute": True}),
}
EMULATED = {b.name: b for b in BOARDS if b.emulated}
QEMU = [name for name in EMULATED if name != "native"]
THOROUGH = ("native", "qemu_m0", "qemu_m4")  # with all packages; a push takes a second or two
#: Whose RAM is looked through, by board; "recompute" on the others.
TRAINED = {"qemu_m0": "micro", "qemu_m4": "convolutions", "standard_m4": "digits", "qemu_m7": "scales"}
PAINT = 0xA5


@cache
def package_of(name: str) -> bytes:
    path, how = PACKAGES[name]
    return convert(path, **how).package


def row_of(package: bytes, board: Board) -> fit.Fit:
    (row,) = fit.check(open_package(package), boards=(board,))
    return row


def samples(package: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    p, rng = open_package(package), np.random.default_rng(2)
    return rng.integers(-128, 128, (count, p.input_size), np.int8), (np.arange(count) % p.dims[-1]).astype(
        np.uint16
    )


@pytest.mark.parametrize("kind", EMULATED)
def test_a_board_finds_what_the_fit_check_says(kind):
    """Arena, RAM, flash and slot are those of its INFO; every package is taken with as many samples as
    foretold, or refused."""
    need_board(kind)
    board = EMULATED[kind]
    (one,) = boot_fleet(kind, 1)

    async def go():
        async with Device(one.url) as device:
            info = await device.read_info()
            assert (info.ram, info.flash, info.arena, info.store) == (
                board.ram,
                board.flash,
                board.arena,
                board.slot,
            )
            assert (info.operators, info.kinds) == (lib.qfl_nn_operators() & board.operators, board.kinds)
            for name in PACKAGES if kind in THOROUGH else ("micro",):
                package = package_of(name)
                row = row_of(package, board)
                if row.max_samples and row.flash_needed <= row.flash and row.lacks is None:
                    await device.push(package)
                    assert (device.info.capacity, (await device.status()).capacity) == (
                        row.max_samples,
                    ) * 2, name
                    continue
                with pytest.raises(DeviceError) as refused:
                    await device.push(package)
                status = (
                    lib.QFL_E_UNSUPPORTED
                    if row.lacks
                    else lib.QFL_E_RANGE
                    if row.flash_needed > row.flash
                    else lib.QFL_E_NOMEM
                )
                assert refused.value.status == status, name

    try:
        asyncio.run(go())
    finally:
        close_all([one])


def test_the_longest_package_is_what_the_slot_says():
    """One byte more is refused before anything is sent."""
    need_board("qemu_m0")
    (one,) = boot_fleet("qemu_m0", 1)

    async def begin(device, length: int) -> int:
        body = bytes([lib.QFL_OBJECT_PACKAGE]) + length.to_bytes(4, "little") + bytes(32)
        return (await device.session.request(lib.QFL_MSG_PUT_BEGIN, body, timeout=20)).status

    async def go():
        async with Device(one.url) as device:
            await device.read_info()
            assert await begin(device, EMULATED["qemu_m0"].slot + 1) == lib.QFL_E_RANGE
            status = await begin(device, EMULATED["qemu_m0"].slot)
            assert status in (0, lib.QFL_E_BUSY)  # taken, perhaps after erasing

    try:
        asyncio.run(go())
    finally:
        close_all([one])


def used(arena: np.ndarray, begin: int, end: int) -> int:
    """Offset behind the last byte of [begin, end) that holds anything but PAINT; `begin` when none does."""
    other = np.flatnonzero(arena[begin:end] != PAINT)
    return begin + int(other[-1]) + 1 if other.size else begin


def trained_in_paint(kind: str, package: bytes, count: int, folder) -> np.ndarray:
    """The arena, filled with PAINT before the start, of a board that has taken the package, cached `count`
    samples, trained a round and evaluated. uint8, as it lies in the board's memory."""
    board = QemuBoard("painted", uid=bytes(8), kind=kind)
    at = symbols(board.elf)["__arena_start"]
    (folder / "paint").write_bytes(bytes([PAINT]) * EMULATED[kind].arena)
    board.arguments = ("-device", f"loader,file={folder / 'paint'},addr={at:#x},force-raw=on")
    x, y = samples(package, count)

    async def go() -> None:
        async with Device(board.url) as device:
            await device.read_info(30)
            await device.push(package)
            assert device.info.capacity == row_of(package, EMULATED[kind]).max_samples
            board.feed(x, y)
            await device.wait_samples(count, timeout=60)
            await device.configure(
                config_bytes(FitConfig(lr=0.01, epochs=1), Codec("dz", step=4.0), run_id=1, seed=1)
            )
            await device.train(1, head_hash(open_package(package).params), timeout=60)
            await device.evaluate()

    board.start()
    try:
        asyncio.run(go())
        return np.frombuffer(board.memory(at, EMULATED[kind].arena), np.uint8)
    finally:
        board.stop()


@pytest.mark.parametrize("kind", QEMU)
def test_the_ram_is_what_is_written(kind, tmp_path):
    """After a round with 100 samples, or as many as fit, everything lies where the fit check counts it, parts
    are used to their ends, and nothing has been written behind."""
    need_board(kind)
    board = EMULATED[kind]
    name = TRAINED.get(kind, "recompute")
    package = package_of(name)
    need, p = device_need(package, board.arena), open_package(package)
    count = min(fit.SAMPLES, need["capacity"])
    arena = trained_in_paint(kind, package, count, tmp_path)
    x, y = samples(package, count)
    engine = Engine(package)
    engine._arena.buffer()[:] = bytes([PAINT]) * engine.arena_size
    features = engine.run_batch(x)
    rows = x if name == "recompute" else features

    scratch = need["fixed"] + need["params"]
    labels = scratch + need["activations"]
    cache = labels + 2 * need["capacity"]
    end = cache + count * (need["per_sample"] - 2)
    assert (
        arena[need["fixed"] :][: p.params.nbytes].tobytes() == p.params.tobytes()
    )  # the global head comes first
    assert scratch - 16 < used(arena, need["fixed"], scratch) <= scratch
    # The arena of activations ends as this machine's does; to its end where the operators before the cut need
    # most.
    activations, top = (
        labels - -(-engine.arena_size // 16) * 16,
        np.frombuffer(engine._arena.buffer(), np.uint8),
    )
    assert used(arena, scratch, activations) > activations - 16
    assert used(arena, activations, labels) == activations + used(top, 0, top.size)
    assert arena[labels : labels + 2 * count].tobytes() == y.astype("<u2").tobytes()
    assert used(arena, labels, cache) == labels + 2 * count
    assert arena[cache:end].tobytes() == rows.tobytes() and used(arena, end, arena.size) == end
    # What is printed: all of that, with labels for only so many samples, and the spare bytes.
    assert fit.needed(package, board, count) == end - 2 * (need["capacity"] - count) + fit.SPARE
    assert row_of(package, board).ram_needed == fit.needed(package, board, fit.SAMPLES)
