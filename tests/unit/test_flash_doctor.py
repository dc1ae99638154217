"""`quantfl flash` and `quantfl doctor`: the command that is run, the faults they name, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from quantfl import diagnosis
from quantfl.cli import flash
from quantfl.cli.main import main
from quantfl.emulation.inproc import InprocBoardHandle
from quantfl.link.ports import Port
from tests.support import ROOT


def program(folder: Path, name: str, text: str) -> Path:
    """An executable that stands in PATH before the real one."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def pio(tmp_path, monkeypatch):
    """A PlatformIO that writes down how it was called, and ends as `code` says."""
    said = tmp_path / "said"
    program(tmp_path / "bin", "pio", f'echo "$@" > {said}; exit $(cat {tmp_path / "code"})')
    (tmp_path / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("PLATFORMIO_CORE_DIR", raising=False)
    return tmp_path


def test_flash_runs_platformio_for_that_board_and_prints_the_command(pio, capsys):
    assert main(["flash", "--board", "esp32dev", "--port", "/dev/ttyUSB7"]) == 0
    said = (pio / "said").read_text().split()
    assert said == ["run", "-d", str(ROOT), "-e", "esp32dev", "-t", "upload", "--upload-port", "/dev/ttyUSB7"]
    out = capsys.readouterr().out
    assert " ".join(said) in out.splitlines()[0] and "esp32dev is flashed" in out


def test_flash_says_in_one_line_that_platformio_failed(pio, capsys):
    (pio / "code").write_text("1")
    assert main(["flash", "--board", "nucleo_l476rg"]) == 9
    error = capsys.readouterr().err.strip()
    assert "PlatformIO ended with code 1" in error and "\n" not in error


def test_flash_names_the_boards_that_it_knows(capsys):
    for arguments in (["flash"], ["flash", "--board", "qemu_m4"], ["flash", "--board", "nucleo_l476rg_qemu"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "nucleo_l476rg, esp32dev" in error and "qemu_m4," not in error
    assert set(flash.uploadable(ROOT / "platformio.ini")) >= {"nucleo_l476rg", "adafruit_feather_nrf52840"}


def test_a_dry_run_runs_nothing(pio, capsys):
    assert main(["flash", "--board", "esp32dev", "--dry-run"]) == 0
    assert not (pio / "said").exists() and "-e esp32dev -t upload" in capsys.readouterr().out


def test_the_stand_ins_of_the_tests_are_not_asked_to_flash(pio, monkeypatch, capsys):
    core = pio / "core" / "platforms" / "ststm32"
    core.mkdir(parents=True)
    real = ROOT / "tools" / "pio_offline" / "ststm32" / "platform.json"
    (core / "platform.json").write_text(real.read_text())
    monkeypatch.setenv("PLATFORMIO_CORE_DIR", str(pio / "core"))
    assert main(["flash", "--board", "nucleo_l476rg"]) == 9
    assert "env -u PLATFORMIO_CORE_DIR" in capsys.readouterr().err and not (pio / "said").exists()


def ports_are(monkeypatch, *found: Port) -> None:
    monkeypatch.setattr("quantfl.link.ports.serial_ports", lambda: list(found))


def test_a_port_without_permission_is_a_fault_with_the_command_that_mends_it(tmp_path, monkeypatch):
    path = tmp_path / "ttyUSB0"
    path.touch()
    path.chmod(0o660)
    monkeypatch.setattr(os, "access", lambda *_: False)
    ports_are(monkeypatch, Port(str(path), "x", "", "10c4:ea60", guess="ESP32"))
    (fault,) = [f for f in diagnosis.serial() if f.state == "fault"]
    assert "permission" in fault.what and fault.exit_code == 5 and fault.remedy
    monkeypatch.setattr("grp.getgrgid", lambda _: type("group", (), {"gr_name": "dialout"}))
    monkeypatch.setenv("USER", "ada")
    assert diagnosis.permission(path) == "sudo usermod -aG dialout ada, then log in again"
    path.chmod(0o600)
    assert "rules for udev" in diagnosis.permission(path)


def test_programs_that_disturb_boards_are_named(monkeypatch, tmp_path):
    path = tmp_path / "ttyUSB0"
    path.touch()
    ports_are(monkeypatch, Port(str(path), "x", "", "1a86:7523"))
    monkeypatch.setattr(diagnosis, "running", lambda: {"ModemManager", "brltty"})
    text = " ".join(f.what for f in diagnosis.serial() if f.state == "note")
    assert "ModemManager" in text and "brltty" in text
    ports_are(monkeypatch)
    (note,) = diagnosis.serial()
    assert note.state == "note" and "cable" in note.remedy


def test_a_board_is_asked_for_firmware_self_test_and_link():
    board = InprocBoardHandle("b", uid=b"\1" * 8)
    board.start()
    try:
        found = asyncio.run(diagnosis.boards([board.url], baud=921_600, timeout=30, named=True))
    finally:
        board.stop()
    assert [f.state for f in found] == ["ok"] * 3
    assert (
        "firmware" in found[0].what and "self-test pass" in found[1].what and "nothing lost" in found[2].what
    )


def test_a_named_board_that_does_not_answer_is_a_fault(monkeypatch, capsys):
    ports_are(monkeypatch)
    assert main(["doctor", "--no-ble", "--json", "socket://127.0.0.1:1"]) == 5
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["state"] == "fault" and rows[-1]["what"].startswith("socket://127.0.0.1:1")
    assert main(["doctor", "--no-ble"]) == 0  # nobody is named, and nothing is plugged in
    assert "no USB serial port" in capsys.readouterr().out
