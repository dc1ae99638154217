"""Names of ports: what Windows calls them, everywhere a link can be named; and that opening one resets no
ESP32."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
import termios
import threading
import time

import pytest
import serial
import serial.serialposix

from quantfl.cli.main import main
from quantfl.core.board import InprocBoard
from quantfl.device import Device
from quantfl.fleet.config import parse
from quantfl.link import ports, transport
from quantfl.link.transport import SerialTransport, open_transport
from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, need_digits

NAMES = [
    "COM3",
    "COM12",
    r"\\.\COM12",
    "/dev/ttyUSB0",
    "socket://10.0.0.7:7001",
    "rfc2217://10.0.0.7:2217",
    "id://0203ab",
]


class WindowsPort:
    """A port as pyserial gives it on Windows: no file descriptor, blocking reads with a time-out, one opening
    at a time.

    `machine` maps the names of ports to boards; \\\\.\\COM3 is COM3, as for CreateFile.
    """

    machine: dict[str, InprocBoard] = {}
    opened: set[str] = set()
    names: list[str] = []  # as they were asked for
    lines: list[tuple[bool, bool]] = []  # DTR and RTS at each opening

    def __init__(self, name: str):
        self.name = name
        self.board: InprocBoard | None = None
        self.timeout, self.baudrate, self.exclusive = None, 0, None
        self.dtr = self.rts = True
        self._lock = threading.Lock()

    def open(self) -> None:
        name = self.name.removeprefix("\\\\.\\").upper()
        if name not in self.machine:
            raise serial.SerialException(
                f"could not open port {self.name!r}: FileNotFoundError(2, 'The system cannot find the "
                "file specified.', None, 2)"
            )
        if name in self.opened:
            raise serial.SerialException(
                f"could not open port {self.name!r}: PermissionError(13, 'Access is denied.', None, 5)"
            )
        self.opened.add(name)
        self.names.append(self.name)
        self.lines.append((self.dtr, self.rts))
        self.board, self._name = self.machine[name], name

    @property
    def in_waiting(self) -> int:
        return 0

    def read(self, _size: int) -> bytes:
        deadline = time.monotonic() + (self.timeout or 0)
        while True:
            with self._lock:
                if self.board is None:
                    raise serial.SerialException("port is closed")
                self.board.poll(int(time.monotonic() * 1000))
                data = self.board.read()
            if data or time.monotonic() >= deadline:
                return data
            time.sleep(0.002)

    def write(self, data: bytes) -> int:
        at = 0
        while at < len(data):
            with self._lock:
                at += self.board.write(data[at:])
                self.board.poll(int(time.monotonic() * 1000))
        return len(data)

    def close(self) -> None:
        with self._lock:
            if self.board is not None:
                self.opened.discard(self._name)
            self.board = None


@pytest.fixture
def windows(monkeypatch):
    """A machine with COM1 on board, a USB bridge at COM3, another at COM12 and a modem at COM4; boards at the
    bridges."""
    from serial.tools import list_ports
    from serial.tools.list_ports_common import ListPortInfo

    def port(name: str, text: str, hwid: str, vid: int | None = None, pid: int | None = None) -> ListPortInfo:
        info = ListPortInfo(name)
        info.description, info.hwid, info.vid, info.pid = text, hwid, vid, pid
        return info

    listing = [
        port("COM1", "Communications Port (COM1)", "ACPI\\PNP0501\\1"),
        port("COM12", "USB-SERIAL CH340 (COM12)", "USB VID:PID=1A86:7523 SER= LOCATION=1-2", 0x1A86, 0x7523),
        port(
            "COM3",
            "Silicon Labs CP210x USB to UART Bridge (COM3)",
            "USB VID:PID=10C4:EA60 SER=0001 LOCATION=1-1",
            0x10C4,
            0xEA60,
        ),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda include_links=False: listing)
    monkeypatch.setattr(
        WindowsPort, "machine", {"COM3": InprocBoard(b"\x03" * 8), "COM12": InprocBoard(b"\x12" * 8)}
    )
    monkeypatch.setattr(WindowsPort, "opened", set())
    monkeypatch.setattr(WindowsPort, "names", [])
    monkeypatch.setattr(WindowsPort, "lines", [])
    monkeypatch.setattr(transport, "POSIX", False)
    monkeypatch.setattr(serial, "serial_for_url", lambda name, do_not_open: WindowsPort(name))
    monkeypatch.delenv("QUANTFL_PORTS", raising=False)
    monkeypatch.setattr(ports, "_seen", {})
    return WindowsPort


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_serial_link(name):
    link = open_transport(name, baud=115_200)
    assert isinstance(link, SerialTransport) and link.url == name and link.baud == 115_200
    assert link.place == (None if name.startswith("id://") else name)
    toml = f"[model]\npath = 'm.tflite'\n[[fleet.board]]\nurl = '{name}'\n"
    assert parse(toml).fleet.board[0].url == name
    assert ports.is_port(name) == (name != "/dev/ttyUSB0" or os.path.exists(name))


def test_a_port_has_one_name_only(tmp_path, monkeypatch):
    assert {ports.same_port(n) for n in ("COM12", "com12", r"\\.\COM12", r"\\.\com12")} == {"COM12"}
    assert ports.same_port("socket://COM3:1") == "socket://COM3:1"
    link = tmp_path / "by-id"
    link.symlink_to("/dev/null")
    assert ports.same_port(str(link)) == "/dev/null"
    ports.claim(str(link))
    link.unlink()  # unplugged
    ports.release(str(link))
    assert "/dev/null" not in ports._in_use.values()


def test_devices_push_and_ids_at_com_ports(windows, capsys, tmp_path):
    package = tmp_path / "p.qfl.tflite"
    package.write_bytes(convert(DEMO_MODEL).package)
    assert main(["devices", "--no-ble", "--json"]) == 0
    rows = {r["url"]: r for r in json.loads(capsys.readouterr().out)}
    assert (
        rows["COM3"]["uid"] == "03" * 8
        and rows["COM12"]["uid"] == "12" * 8
        and "CH340" in rows["COM12"]["guess"]
    )
    assert "uid" not in rows["COM1"] and "error" not in rows["COM1"]  # no USB port: left alone
    assert main(["devices", "--no-ble"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["COM12", "COM3", "COM1"]
    assert main(["push", str(package), "COM3", r"\\.\COM12", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    assert [(r["url"], r["moved"]) for r in pushed] == [("COM3", True), (r"\\.\COM12", True)]
    assert main(["push", str(package), "id://1212"]) == 0
    assert r"id://1212" in capsys.readouterr().out and windows.names[-1] in ("COM12", "COM3")
    assert main(["devices", "COM3", r"\\.\COM12", "COM7", "--json"]) == 5
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["samples"] == 0 and rows[0]["package"] == rows[1]["package"] is not None
    assert "cannot open COM7" in rows[2]["error"] and "FileNotFoundError" in rows[2]["error"]
    assert set(windows.lines) == {(False, False)} and not windows.opened


def test_ports_listed_by_pattern(windows, monkeypatch):
    monkeypatch.setenv("QUANTFL_PORTS", r"COM1*,\\.\COM3")
    assert ports.listed() == ["COM12", "COM1", r"\\.\COM3"]
    assert ports.candidates() == ["COM12", "COM3", "COM1"]


def test_a_board_that_moves_to_another_com_port(windows):
    package = convert(DEMO_MODEL).package

    async def go() -> None:
        async with Device("COM3", patience=20) as device:
            await device.read_info()
            windows.machine["COM12"], windows.machine["COM3"] = (
                windows.machine["COM3"],
                windows.machine["COM12"],
            )
            device.session.transport._port.close()  # the cable is pulled
            assert await device.push(package, timeout=30)
            assert device.session.transport.place == "COM12"

    asyncio.run(go())


def test_a_run_over_com_ports(windows, capsys, tmp_path):
    need_digits()
    from quantfl.fleet.setup import load_package, shards

    package = tmp_path / "p.qfl.tflite"
    package.write_bytes(convert(DEMO_MODEL).package)
    urls = ["COM3", r"\\.\COM12"]
    toml = tmp_path / "f.toml"
    toml.write_text(
        f"[run]\nrounds = 2\n[model]\npath = '{package}'\n[train]\nlr = 0.003\nmomentum = 0.9\n"
        + "".join(f"[[fleet.board]]\nurl = '{u}'\n" for u in urls)
    )
    config = parse(toml.read_text())
    for board, part in zip(
        windows.machine.values(), shards(config, load_package(package), tmp_path).clients, strict=True
    ):
        board.set_samples(*part)
    assert main(["run", str(toml), "--out", str(tmp_path / "r"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["accuracy"] > summary["accuracy_before"]
    history = [json.loads(line) for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()]
    assert [sorted(r["contributors"]) for r in history[1:]] == [sorted(urls)] * 2
    assert main(["ledger", str(tmp_path / "r"), "--csv"]) == 0
    assert r"\\.\COM12" in capsys.readouterr().out


class Lines:
    """DTR and RTS of a terminal as Linux and macOS drive them, and what an ESP32 behind them does.

    Both rise when the terminal is opened; both fall when it is closed. Two transistors hold the chip in reset
    while RTS is raised and DTR is not, and pull IO0 low the other way round (Espressif's boards; their USB
    serial peripheral reads the lines alike).
    """

    def __init__(self, monkeypatch):
        self.states = [(0, 0)]
        self._open, self._ioctl = os.open, fcntl.ioctl
        monkeypatch.setattr(serial.serialposix.os, "open", self.open)
        monkeypatch.setattr(serial.serialposix.fcntl, "ioctl", self.ioctl)

    def open(self, path, flags, *more, **how):
        fd = self._open(path, flags, *more, **how)
        if str(path).startswith("/dev/pts/"):
            self.states.append((1, 1))
        return fd

    def ioctl(self, fd, request, arg=0, *more):
        if request not in (termios.TIOCMBIS, termios.TIOCMBIC, termios.TIOCMSET):
            return self._ioctl(fd, request, arg, *more)
        (mask,), (dtr, rts) = struct.unpack("I", arg), self.states[-1]
        on = request != termios.TIOCMBIC
        if mask & termios.TIOCM_DTR:
            dtr = int(on)
        if mask & termios.TIOCM_RTS:
            rts = int(on)
        self.states.append((dtr, rts))
        return arg

    @property
    def was_reset(self) -> bool:
        return (0, 1) in self.states


@pytest.mark.skipif(not transport.POSIX, reason="ptys are needed")
def test_opening_resets_no_esp32(monkeypatch):
    lines = Lines(monkeypatch)
    master, slave = os.openpty()
    name = os.ttyname(slave)

    async def go() -> None:
        link = SerialTransport(name, 115_200)
        await link.open(lambda data: None, lambda reason: None)
        link.write(b"hello")
        await asyncio.sleep(0.05)
        await link.close()

    asyncio.run(go())
    assert lines.states[0] == (0, 0) and (1, 1) in lines.states and lines.states[-1] == (0, 0)
    assert not lines.was_reset, lines.states
    # The model would notice: what pyserial does with both lines low beforehand.
    port = serial.serial_for_url(name, do_not_open=True)
    port.dtr = port.rts = False
    port.open()
    port.close()
    assert lines.was_reset
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["COM3", "{package}"], "COM3 is a port, and the package comes first: quantfl push {package} COM3"),
        (["socket://127.0.0.1:1", "{package}", "COM4"], "quantfl push {package} socket://127.0.0.1:1 COM4"),
        (["ble://board-00", "COM3"], "quantfl push PACKAGE ble://board-00 COM3"),
        (["/dev/null", "{package}"], "/dev/null is a port, and the package comes first"),
        (["{package}", "COM3", "{package}"], "{package} is a file, not a port"),
        (["{package}.absent", "COM3"], "{package}.absent: no such file"),
    ],
)
def test_push_with_its_arguments_the_wrong_way_round(words, message, tmp_path, capsys):
    package = tmp_path / "p.qfl.tflite"
    package.write_bytes(b"not read")
    code = main(["push", *(w.format(package=package) for w in words)])
    err = capsys.readouterr().err
    assert code in (2, 3) and message.format(package=package) in err and err.count("\n") == 1
