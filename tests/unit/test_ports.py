"""Serial ports: boards known by their id, cables pulled in mid-transfer, RFC 2217, listing. Names of ports:
test_com_ports.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
import tty
from pathlib import Path

import pytest
import serial
import serial.rfc2217

from quantfl.cli.main import main
from quantfl.core import lib
from quantfl.core.board import InprocBoard
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import LinkError, UsageError
from quantfl.fleet.config import parse
from quantfl.link import ports
from quantfl.link.transport import SerialTransport
from tests.support import DEMO_MODEL, need_board

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ptys are needed")


@pytest.fixture(scope="module")
def package() -> bytes:
    from quantfl.package.convert import convert

    return convert(DEMO_MODEL).package


class PluggedBoard:
    """The firmware behind a pty with a name of its own in `folder`; `plug` and `unplug` as one would with a
    cable.

    slow: seconds per 256 bytes, so that a cable can be pulled in the middle.
    """

    def __init__(self, folder: Path, uid: bytes, *, slow: float = 0.0):
        self.folder, self.board, self.slow = folder, InprocBoard(uid), slow
        self.master: int | None = None
        self.taken = 0  # bytes the host has sent
        self._path: Path | None = None
        self._lock, self._stop = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def plug(self, name: str) -> str:
        master, slave = os.openpty()
        tty.setraw(master)
        tty.setraw(slave)
        os.set_blocking(master, False)
        path = self.folder / name
        path.symlink_to(os.ttyname(slave))
        os.close(slave)
        with self._lock:
            self.master, self._path = master, path
        return str(path)

    def unplug(self) -> None:
        with self._lock:
            self._path.unlink()
            os.close(self.master)
            self.master = None

    def reset(self) -> None:
        with self._lock:  # the board is not safe for use from two threads
            self.board.reset()

    def close(self) -> None:
        self._stop = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            with self._lock:
                self._turn()
            time.sleep(max(0.001, self.slow))

    def _turn(self) -> None:
        if self.master is None:
            self.board.poll(int(time.monotonic() * 1000))
            self.board.read()  # nobody is there
            return
        try:
            data = os.read(self.master, 256)
        except OSError:  # nothing, or nobody has it open
            data = b""
        self.taken += len(data)
        self.board.write(data)
        self.board.poll(int(time.monotonic() * 1000))
        out = self.board.read()
        while out:
            try:
                out = out[os.write(self.master, out) :]
            except OSError:
                return


@pytest.fixture
def plugs(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTFL_PORTS", f"{tmp_path}/ttyFAKE*")
    made: list[PluggedBoard] = []

    def make(uid: bytes, **how) -> PluggedBoard:
        made.append(PluggedBoard(tmp_path, uid, **how))
        return made[-1]

    yield make
    for board in made:
        board.close()


def test_a_board_is_found_by_its_id(plugs):
    plugs(b"\x01" * 8).plug("ttyFAKE0")
    plugs(b"\x02\x03" + b"\x04" * 6).plug("ttyFAKE1")

    async def ask(url: str) -> str:
        async with Device(url) as device:
            return (await device.read_info()).uid

    assert asyncio.run(ask("id://0203")).startswith("0203")
    assert asyncio.run(ask("id://0101010101010101")) == "01" * 8
    with pytest.raises(LinkError, match="board ff is not to be found: 2 ports were asked"):
        asyncio.run(ask("id://FF"))
    with pytest.raises(UsageError, match="hexadecimal"):
        SerialTransport("id://pump-3")


@pytest.mark.parametrize("reset", [False, True])
def test_a_cable_pulled_in_mid_push_and_put_in_elsewhere(plugs, package, reset):
    """Unplugged in the middle, plugged in under another name while a stranger sits at the old one: it goes on
    where it was."""
    board, stranger = plugs(b"\xaa" * 8, slow=0.004), plugs(b"\xbb" * 8)
    url = board.plug("ttyFAKE0")

    async def push() -> Device:
        device = Device(url, patience=30)
        await device.open()
        await device.read_info()
        task = asyncio.create_task(device.push(package, timeout=60))
        while board.taken < len(package) // 2:
            await asyncio.sleep(0.01)
        board.unplug()
        await asyncio.sleep(0.3)
        if reset:
            board.reset()
        stranger.plug("ttyFAKE0")
        board.plug("ttyFAKE7")
        assert await task
        info = await device.read_info()
        await device.close()
        assert info.uid == "aa" * 8 and info.package is not None
        return device

    device = asyncio.run(push())
    assert device.session.transport.place.endswith("ttyFAKE7")
    assert stranger.board.samples == 0 and stranger.taken < 1000  # it was asked who it is, no more
    if not reset:
        assert board.taken < 1.5 * len(package)  # the first half did not come again


def test_the_same_port_after_a_short_break(plugs, package):
    board = plugs(b"\xcc" * 8, slow=0.004)
    url = board.plug("ttyFAKE0")

    async def push() -> int:
        device = Device(url, patience=30)
        await device.open()
        await device.read_info()
        task = asyncio.create_task(device.push(package, timeout=60))
        for part in (0.3, 0.6):
            while board.taken < part * len(package):
                await asyncio.sleep(0.01)
            board.unplug()
            await asyncio.sleep(0.2)
            board.plug("ttyFAKE0")
        assert await task
        await device.close()
        return device.session.sessions

    assert asyncio.run(push()) >= 3
    assert board.taken < 1.7 * len(package)


def test_a_socket_board_that_restarts_in_mid_push(package):
    need_board("native")
    (board,) = boot_fleet("native", 1)

    async def push() -> None:
        device = Device(board.url, patience=30)
        await device.open()
        await device.read_info()
        board.reset()
        assert await device.push(package, timeout=30)
        board.reset()  # its flash is gone: it starts empty
        device.info = None
        assert await device.push(package, timeout=30)
        await device.close()

    try:
        asyncio.run(push())
    finally:
        close_all([board])


class Rfc2217Server:
    """pyserial's own server end of RFC 2217 in front of a board's socket."""

    def __init__(self, url: str):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self.listener.getsockname()[1]}"
        self.board = serial.serial_for_url(url, timeout=0.05)
        self.manager = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self.listener.accept()
        lock = threading.Lock()

        class Connection:
            def write(self, data: bytes) -> None:
                with lock:
                    client.sendall(data)

        self.manager = serial.rfc2217.PortManager(self.board, Connection())
        threading.Thread(target=self._read_board, args=(Connection(),), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(1024):
                self.board.write(b"".join(self.manager.filter(data)))

    def _read_board(self, connection) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = self.board.read(self.board.in_waiting or 1)
                if data:
                    connection.write(b"".join(self.manager.escape(data)))


def test_rfc2217(package):
    need_board("native")
    (board,) = boot_fleet("native", 1)

    async def go() -> None:
        server = Rfc2217Server(board.url)
        async with Device(server.url) as device:
            info = await device.read_info(10)
            assert await device.push(package, timeout=60)
            assert info.uid == board.uid.hex()

    try:
        asyncio.run(go())
    finally:
        close_all([board])


def test_loop_and_hwgrep(monkeypatch, plugs):
    async def ask(url: str) -> str:
        async with Device(url) as device:
            return (await device.read_info()).uid

    async def alone() -> None:
        await Device("loop://").open(0.5)

    with pytest.raises(LinkError, match="no board answers at loop://"):
        asyncio.run(alone())
    with pytest.raises(LinkError, match="hwgrep"):
        asyncio.run(ask("hwgrep://no-such-thing"))
    path = plugs(b"\x05" * 8).plug("ttyFAKE3")
    import serial.tools.list_ports as list_ports
    from serial.tools.list_ports_common import ListPortInfo

    found = ListPortInfo(path)
    found.description = "Board of a kind"
    monkeypatch.setattr(list_ports, "comports", lambda include_links=False: [found])
    assert asyncio.run(ask("hwgrep://of a kind")) == "05" * 8


def test_devices_lists_ports_with_what_is_behind_them(monkeypatch, plugs, capsys):
    import serial.tools.list_ports as list_ports
    from serial.tools.list_ports_common import ListPortInfo

    found = ListPortInfo(plugs(b"\x07" * 8).plug("ttyFAKE0"))
    found.description, found.hwid, found.vid, found.pid, found.serial_number = (
        "CP2102",
        "USB VID:PID",
        0x10C4,
        0xEA60,
        "0001",
    )
    silent_master, silent = os.openpty()
    other = ListPortInfo(os.ttyname(silent))
    other.description, other.hwid, other.vid, other.pid = "modem", "USB", 0x0421, 0x0001
    onboard = ListPortInfo("/dev/ttyS99")
    monkeypatch.setattr(list_ports, "comports", lambda include_links=False: [onboard, other, found])
    assert main(["devices", "--no-ble", "--timeout", "1", "--json"]) == 0
    rows = {r["url"]: r for r in json.loads(capsys.readouterr().out)}
    board = rows[found.device]
    assert (
        board["uid"] == "07" * 8
        and board["board"] == "inproc"
        and board["usb"] == "10c4:ea60"
        and "CP210x" in board["guess"]
    )
    assert "no board answers" in rows[other.device]["error"]
    assert "error" not in rows["/dev/ttyS99"] and "uid" not in rows["/dev/ttyS99"]  # it was left alone
    assert main(["devices", "--no-ble", "--timeout", "1"]) == 0
    text = capsys.readouterr().out
    assert (
        "inproc" in text and "0707070707070707" in text and "battery" not in text
    )  # an in-process board does not know
    os.close(silent)
    os.close(silent_master)


def test_a_description_names_boards_by_id():
    text = '[model]\npath = "m.tflite"\n[fleet]\n[[fleet.board]]\nid = "{}"\n'
    assert parse(text.format("AABB01")).fleet.board[0].url == "id://aabb01"
    with pytest.raises(UsageError, match="id"):
        parse(text.format("pump"))
    with pytest.raises(UsageError, match="needs url, or the board's id"):
        parse('[model]\npath = "m.tflite"\n[fleet]\n[[fleet.board]]\nname = "x"\n')


def test_ports_of_this_machine_are_read_without_harm(monkeypatch):
    monkeypatch.delenv("QUANTFL_PORTS", raising=False)
    assert all(isinstance(p.url, str) for p in ports.serial_ports())
    monkeypatch.setenv("QUANTFL_PORTS", "socket://a:1, /no/such/tty*,/no/such/port")
    assert ports.listed() == ["socket://a:1", "/no/such/port"]
    assert lib.QFL_MSG_INFO == 1
