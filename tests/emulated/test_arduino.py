"""Ports for Arduino cores, each whole firmware linked against fakes that enforce what its part enforces, as a
process that the host drives like a native board."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, head_hash
from quantfl.device import Device
from quantfl.emulation.inproc import InprocBoardHandle
from quantfl.emulation.native import NativeBoard
from quantfl.messages import config_bytes
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.ble.conftest import air, run  # noqa: F401 (air is a fixture)
from tests.support import ROOT, need_board

pytestmark = pytest.mark.emulated
FAKES = ROOT / "tests" / "boards" / "arduino"
MICRO = ROOT / "models" / "micro" / "micro_int8.tflite"
UID = bytes(range(1, 9))
WAIT = 300


@dataclass(frozen=True)
class Kind:
    folder: str  # of the port, and of its fakes
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.folder, *self.flags))


ESP32, NRF52, RP2040 = Kind("esp32"), Kind("nrf52"), Kind("rp2040")
KINDS = (ESP32, Kind("esp32", ("-DQFL_FAKE_IDF4", "-DQFL_BLE=0")), NRF52, RP2040)


@cache
def program(kind: Kind, folder: Path) -> Path:
    """The firmware of a kind with its fakes; the libraries are those of the native board."""
    need_board("native")
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    out = folder / f"board{abs(hash(kind))}"
    out.mkdir(exist_ok=True)
    includes = [f"-I{path}" for path in sorted((ROOT / "firmware" / "lib").glob("*/include"))]
    ours = [f"-I{FAKES / kind.folder}", f"-I{FAKES}", f"-I{ROOT / 'firmware' / 'boards' / 'common'}"]
    name = [f'-DQFL_BOARD_NAME="{kind.folder}"', "-DQFL_BOARD_RAM=327680", "-DQFL_BOARD_FLASH=4194304"]
    strict = ["-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    boards = ROOT / "firmware" / "boards"
    c = [boards / "common" / "qfl_ble_link.c", boards / "common" / "qfl_sample_record.c"]
    cpp = [*(boards / kind.folder).glob("*.cpp"), *(boards / "arduino").glob("*.cpp")]
    cpp += [FAKES / "fake.cpp", *(FAKES / kind.folder).glob("*.cpp")]
    subprocess.run(
        ["gcc", "-std=c11", *strict, *includes, "-c", *map(str, c)], cwd=out, check=True, timeout=WAIT
    )
    # C++11 is what the oldest compiler among PlatformIO's has (nRF52: GCC 7.2)
    flags = ["-std=c++11", *strict, *ours, *includes, *name, *kind.flags]
    subprocess.run(["g++", *flags, "-c", *map(str, cpp)], cwd=out, check=True, timeout=WAIT)
    libraries = map(str, (ROOT / ".pio" / "build" / "native").glob("*/*.a"))
    objects = map(str, out.glob("*.o"))
    link = ["g++", *objects, "-Wl,--start-group", *libraries, "-Wl,--end-group", "-lpthread"]
    subprocess.run([*link, "-o", "board"], cwd=out, check=True, timeout=WAIT)
    return out / "board"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arduino")


@cache
def package() -> bytes:
    return convert(MICRO).package


class Rounds:
    """A host that leads one board through rounds with FP32 updates, and keeps each delta."""

    def __init__(self, count: int = 3):
        p = open_package(package())
        rng = np.random.default_rng(1)
        self.x = rng.integers(-128, 128, (20, p.input_size), np.int8)
        self.y = (np.arange(20) % p.dims[-1]).astype(np.uint16)
        self.heads = [p.params]
        for r in range(count):
            step = np.zeros(p.params.size, np.float32)
            step[r::7] = 0.03
            self.heads.append(self.heads[-1] + step)

    async def run(self, board, device: Device) -> tuple[list[bytes], int]:
        await device.push(package(), timeout=WAIT)
        await asyncio.get_running_loop().run_in_executor(None, board.feed, self.x, self.y)
        await device.wait_samples(len(self.y), timeout=WAIT)
        fit = FitConfig(lr=0.01, epochs=3)
        await device.configure(config_bytes(fit, Codec("dz", step=4.0), run_id=1, seed=1), timeout=WAIT)
        deltas = []
        for r, head in enumerate(self.heads[1:], 1):
            await device.put_head(head.tobytes(), timeout=WAIT)
            deltas.append((await device.train(r, head_hash(head), timeout=WAIT)).data)
        return deltas, (await device.read_info(WAIT)).head


def on(board, work, url: str | None = None):
    async def go():
        async with Device(url or board.url) as device:
            await device.read_info(WAIT)
            return await work(device)

    return asyncio.run(go())


@cache
def in_process() -> tuple[list[bytes], int]:
    board = InprocBoardHandle("i", uid=UID)
    board.start()
    try:
        return on(board, lambda device: Rounds().run(board, device))
    finally:
        board.stop()


def boot(kind: Kind, folder: Path, **how) -> NativeBoard:
    board = NativeBoard("a", uid=UID, program=str(program(kind, folder)), **how)
    board.start()
    return board


def faults_of(board: NativeBoard) -> str:
    """What a dead board said of its part."""
    return "" if board.alive or board._process is None else board._process.stderr.read()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rounds_over_a_serial_port_are_those_of_an_in_process_board(kind, folder, tmp_path):
    """And the package and the head survive a power cut."""
    board = boot(kind, folder, flash=str(tmp_path / "flash"))
    try:
        deltas, head = on(board, lambda device: Rounds().run(board, device))
        assert (deltas, head) == in_process(), faults_of(board)
        board.kill()
        board.stop()
        board.start()

        async def go(device):
            return device.info

        info = on(board, go)
        assert info.package == hashlib.sha256(package()).hexdigest() and info.head == head
        assert "keeps rounds" in info.persisted and info.board == kind.folder
    finally:
        board.stop()


@pytest.mark.parametrize("kind", [ESP32, NRF52], ids=str)
def test_rounds_over_ble_are_those_of_an_in_process_board(kind, folder, air):  # noqa: F811
    """Larger values once the MTU is known, a queue that is full at times, advertising after a disconnect."""
    board = boot(kind, folder, ble=True)
    try:
        there = air(boards=[board])

        async def twice():
            async with Device(there.url(0)) as device:
                await device.read_info(WAIT)
                first = await Rounds().run(board, device)
            async with Device(there.url(0)) as device:
                return first, (await device.read_info(WAIT)).head

        first, head = run(twice())
        assert first == in_process() and head == first[1], faults_of(board)
    finally:
        board.stop()


def test_flash_through_a_softdevice_that_fails_at_times_is_written_all_the_same(folder, tmp_path):
    """One operation of 23 is not done and nobody says so; the store is as it would be."""
    board = boot(NRF52, folder, flash=str(tmp_path / "flash"))
    try:

        async def go(device):
            await device.push(package(), timeout=WAIT)
            return device.info

        assert on(board, go).package is not None, faults_of(board)
        assert package() in (tmp_path / "flash").read_bytes()
    finally:
        board.stop()


def test_a_push_survives_erases_that_make_the_board_deaf(folder, monkeypatch):
    """While it erases, the ESP32 hears no more than the 128 bytes of its FIFO. Whether more come is a matter
    of time."""
    monkeypatch.setenv("QFL_FAKE_ERASE_MS", "60")
    board = boot(ESP32, folder)
    try:

        async def go(device):
            await device.push(package(), timeout=WAIT)
            return device.info

        assert on(board, go).package is not None, faults_of(board)
    finally:
        board.stop()


def test_a_usb_host_that_does_not_read_blocks_nothing(folder, monkeypatch):
    """The board goes on, and serves the next host."""
    monkeypatch.setenv("QFL_FAKE_USB", "1")
    board = boot(ESP32, folder)

    async def silent() -> None:
        host, port = board.url.removeprefix("socket://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(bytes(range(1, 256)) * 200)
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    try:
        asyncio.run(silent())

        async def go(device):
            return device.info

        assert on(board, go).board == "esp32" and board.alive
    finally:
        board.stop()
