"""Emulated boards themselves: INFO, reset, flash, samples, orphans, idling."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from quantfl.cli.main import main
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.native import NativeBoard
from quantfl.emulation.qemu import QemuBoard
from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, need_board

pytestmark = pytest.mark.emulated
KINDS = ("native", "qemu_m4")


@pytest.fixture(scope="module")
def package() -> bytes:
    return convert(DEMO_MODEL).package


@pytest.mark.parametrize("kind", KINDS)
def test_hello_describes_the_board(kind):
    need_board(kind)
    boards = boot_fleet(kind, 3, seed=9)

    async def hello(board):
        async with Device(board.url) as device:
            return await device.read_info()

    try:
        infos = [asyncio.run(hello(b)) for b in boards]
    finally:
        close_all(boards)
    assert [i.uid for i in infos] == [b.uid.hex() for b in boards]
    assert all(
        i.board == kind and i.state == "empty" and i.reset == "power" and i.ram == 262144 for i in infos
    )


def test_the_charge_of_a_battery_is_told_where_it_is_known(capsys):
    """`quantfl emulate --battery`, INFO, and both forms of `quantfl devices`; a board that does not know says
    nothing."""
    need_board("native")
    boards = [
        *boot_fleet("native", 1, battery=80),
        *boot_fleet("native", 1, battery=0),
        *boot_fleet("native", 1),
        *boot_fleet("native", 1, battery=300),
    ]
    urls = [b.url for b in boards]
    try:
        assert main(["devices", "--json", *urls]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [r["battery_percent"] for r in rows] == [80, 0, None, None]
        assert main(["devices", *urls[:1]]) == 0
        assert "battery 80 %" in capsys.readouterr().out
        assert main(["devices", urls[2]]) == 0
        assert "battery" not in capsys.readouterr().out
    finally:
        close_all(boards)
    assert main(["emulate", "--board", "qemu_m4", "--battery", "80"]) == 2
    assert "--battery: qemu_m4 boards have no battery" in capsys.readouterr().err


def test_a_board_that_ends_is_told_and_the_others_live_on(capsys):
    """`quantfl emulate`: which board, and why; exit code 1."""
    import os
    import signal
    import threading

    from quantfl.cli.emulate import _watch

    need_board("native")
    boards = boot_fleet("native", 3)
    stopped, codes = [], []
    watcher = threading.Thread(target=lambda: codes.append(_watch(boards, None, stopped)))
    try:
        watcher.start()
        os.kill(boards[1].pid, signal.SIGKILL)
        said = ""
        while "board-01" not in said and watcher.is_alive():
            said += capsys.readouterr().err
        assert "ended by SIGKILL; the other 2 go on" in said
        assert boards[0].alive and boards[2].alive
        boards[0].kill()
        while "board-00" not in said and watcher.is_alive():
            said += capsys.readouterr().err
        assert "the other one goes on" in said and watcher.is_alive()
        boards[2].kill()
        watcher.join(60)
        assert codes == [1] and "no board is left" in capsys.readouterr().err
    finally:
        stopped.append(1)
        watcher.join()
        close_all(boards)


@pytest.mark.parametrize("kind", KINDS)
def test_flash_survives_what_ram_does_not(kind, package, tmp_path):
    need_board(kind)
    make = NativeBoard if kind == "native" else QemuBoard
    board = make("b", uid=b"\1" * 8, flash=str(tmp_path / "flash.img"))
    board.start()

    async def push():
        async with Device(board.url) as device:
            await device.read_info()
            assert await device.push(package)
            assert not await device.push(package)  # it has it already

    async def look():
        async with Device(board.url) as device:
            return await device.read_info()

    try:
        asyncio.run(push())
        board.kill()  # power cut
        board.stop()
        board.start()
        info = asyncio.run(look())
    finally:
        board.stop()
    assert info.package is not None and info.state == "idle" and info.samples == 0


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_through_nonsense_and_wrong_lengths_are_counted(kind, package):
    need_board(kind)
    (board,) = boot_fleet(kind, 1)
    x = np.random.default_rng(1).integers(-128, 128, (60, 64), np.int8)

    def record(label, data, length=None):
        return b"\xa5\x5a" + struct.pack("<HI", label, len(data) if length is None else length) + data

    stream = b"boot log\xa5\r\n\xa5\xa5" + b"".join(
        record(i % 10, row.tobytes()) for i, row in enumerate(x[:30])
    )
    stream += (
        record(1, bytes(63)) + record(2, bytes(900)) + record(99, x[0].tobytes())
    )  # lengths and label out of range
    stream += b"\0\1\2" + b"".join(record(i % 10, row.tobytes()) for i, row in enumerate(x[30:]))

    async def go():
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            with socket.create_connection(("127.0.0.1", int(board.samples_url.rsplit(":", 1)[1]))) as s:
                for at in range(0, len(stream), 37):
                    s.sendall(stream[at : at + 37])
                return await device.wait_samples(63, timeout=20)

    try:
        status = asyncio.run(go())
    finally:
        close_all([board])
    assert (status.samples, status.rejected) == (60, 3)


def test_reset_button(package):
    need_board("qemu_m4")
    (board,) = boot_fleet("qemu_m4", 1)

    async def go():
        device = Device(board.url)
        await device.open()
        await device.read_info()
        await device.push(package)
        board.reset()
        info = await device.read_info(timeout=10)  # the session is gone; the device reopens it
        await device.close()
        return info

    try:
        info = asyncio.run(go())
    finally:
        close_all([board])
    assert info.package is not None and info.uptime_ms < 20_000


def test_an_idle_board_costs_next_to_nothing():
    need_board("qemu_m4")
    (board,) = boot_fleet("qemu_m4", 1)
    try:
        time.sleep(1.0)
        before = board.cpu_seconds()
        time.sleep(3.0)
        used = board.cpu_seconds() - before
    finally:
        close_all([board])
    assert used / 3.0 < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_boards_die_with_a_parent_that_is_killed(kind):
    need_board(kind)
    script = (
        "import time; from quantfl.emulation import boot_fleet\n"
        f"print(*(b.pid for b in boot_fleet({kind!r}, 2)), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(p) for p in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_running(p) for p in pids):
        time.sleep(0.05)
    assert len(pids) == 2 and not any(_running(p) for p in pids)


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except OSError:
        return os.path.exists(f"/proc/{pid}")
