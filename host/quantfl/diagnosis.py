"""Checks of this machine and of the boards at it: tools, serial ports, Bluetooth, firmware, link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantfl.errors import DeviceError, LinkError, QuantflError, ToolError

if TYPE_CHECKING:
    from quantfl.device import Device
    from quantfl.link.keys import KeyRing
    from quantfl.link.ports import Port

#: Where udev's rules lie, and the file that PlatformIO offers.
_RULES = ("/etc/udev/rules.d", "/lib/udev/rules.d", "/usr/lib/udev/rules.d")
_PLATFORMIO_RULES = "99-platformio-udev.rules"
_RULES_URL = "https://docs.platformio.org/page/core/installation/udev-rules.html"
_QUESTIONS = 20  # of a board, for the quality of its link
_BRAILLE_CHIPS = ("1a86:7523", "10c4:ea60")  # USB ids that brltty takes for a braille display


@dataclass(frozen=True)
class Finding:
    """state: "ok", "note" (it may matter) or "fault". remedy: what to do, empty when nothing is. exit_code:
    that of a fault."""

    state: Literal["ok", "note", "fault"]
    what: str
    remedy: str = ""
    exit_code: int = 0


def tools() -> list[Finding]:
    """Compilers, emulators and firmware images that verbs need."""
    found = [Finding("ok", f"Python {sys.version.split()[0]}, {sys.platform}")]
    for command, use, package in (
        ("pio", "flash", "pip install platformio"),
        ("arm-none-eabi-gcc", "emulated Cortex-M boards", "make tools, or install gcc-arm-none-eabi"),
        ("qemu-system-arm", "emulated Cortex-M boards", "make tools, or install qemu-system-arm"),
    ):
        path = shutil.which(command)
        if path is None:
            found.append(Finding("note", f"{command} is not installed, which {use} needs", package))
        else:
            found.append(Finding("ok", f"{command}: {path}"))
    from quantfl.emulation import available

    for kind in ("native", "qemu_m4", "nucleo_l476rg"):
        reason = available(kind)
        found.append(
            Finding("ok", f"{kind} boards can be booted")
            if reason is None
            else Finding("note", f"{kind} boards cannot be booted", reason)
        )
    return found


def serial() -> list[Finding]:
    """This machine's serial ports: permission, who has them open, rules of udev, programs that disturb."""
    from quantfl.link import ports

    usb = [p for p in ports.serial_ports() if p.usb]
    if not usb:
        return [
            Finding(
                "note",
                "no USB serial port",
                "is the board plugged in, is its cable one for data, and does it show in `lsusb`?",
            )
        ]
    found = [f for p in usb for f in _port(p)]
    if sys.platform == "linux":
        found += _rules() + _disturbers(usb)
    return found


def _port(port: Port) -> list[Finding]:
    from quantfl.link.port_errors import opened_by

    name = f"{port.url} ({port.guess or port.description or port.usb})"
    if not os.path.exists(port.url):  # COM ports are no files
        return [Finding("ok", name)]
    if not os.access(port.url, os.R_OK | os.W_OK):
        return [Finding("fault", f"{name}: permission is missing", permission(Path(port.url)), 5)]
    if (holder := opened_by(port.url)) is not None:
        return [Finding("fault", f"{name}: {holder} has it open", "end that program", 5)]
    return [Finding("ok", f"{name}: may be opened")]


def permission(path: Path) -> str:
    """The command that gives this user a device."""
    user = os.environ.get("USER") or "$USER"
    try:
        import grp  # absent on Windows

        status = path.stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError, ImportError):
        return "ask whoever runs this machine for it"
    if status.st_mode & 0o060 == 0o060 and group != "root":
        return f"sudo usermod -aG {group} {user}, then log in again"
    return f"install PlatformIO's rules for udev ({_RULES_URL}), then plug the board in again"


def _rules() -> list[Finding]:
    there = [f for folder in _RULES if (f := Path(folder) / _PLATFORMIO_RULES).exists()]
    if there:
        return [Finding("ok", f"rules for udev: {there[0]}")]
    return [
        Finding(
            "note", "PlatformIO's rules for udev are not installed, which some programmers need", _RULES_URL
        )
    ]


def running() -> set[str]:
    """Names of the programs that run here (Linux)."""
    names = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            names.add(path.read_text(errors="replace").strip())
    return names


def _disturbers(usb: list[Port]) -> list[Finding]:
    names, found = running(), []
    if "ModemManager" in names:
        remedy = "sudo systemctl disable --now ModemManager, or rules for udev that keep it from boards"
        found.append(
            Finding("note", "ModemManager runs: it may send bytes to a board that was plugged in", remedy)
        )
    if "brltty" in names and any(p.usb in _BRAILLE_CHIPS for p in usb):
        remedy = "sudo apt remove brltty, then plug the board in again"
        found.append(Finding("note", "brltty runs: it takes boards with this chip away", remedy))
    return found


async def bluetooth() -> list[Finding]:
    """Whether this machine can look for BLE boards."""
    from quantfl.link.ble import scan

    try:
        there = await scan(2.0)
    except (LinkError, ToolError) as error:
        return [Finding("note", "no BLE boards can be found", str(error))]
    return [Finding("ok", f"Bluetooth works; {len(there)} BLE boards in reach")]


async def boards(
    urls: list[str], *, baud: int, timeout: float, keys: KeyRing | None = None, named: bool = False
) -> list[Finding]:
    """Firmware, self-test and link of the boards at ports. named: a port where nobody answers is a fault."""
    rows = await asyncio.gather(*(_board(url, baud, timeout, keys, named) for url in urls))
    return [f for row in rows for f in row]


async def _board(url: str, baud: int, timeout: float, keys: KeyRing | None, named: bool) -> list[Finding]:
    from quantfl.device import Device

    device = Device(url, baud=baud, keys=keys, patience=0.5)
    try:
        await device.open(timeout)
        info = await device.read_info(timeout)
        found = [
            Finding(
                "ok", f"{url}: {info.board}, firmware {info.firmware}, protocol {info.protocol}, {info.state}"
            )
        ]
        return found + await _self_test(url, device) + await _quality(url, device)
    except DeviceError as error:  # it answers, and there is something wrong with it
        return [Finding("fault", f"{url}: a board with a fault", str(error), error.exit_code)]
    except QuantflError as error:
        remedy = f"{error}" if named else f"{error}. Flash a board with `quantfl flash`"
        return [
            Finding(
                "fault" if named else "note", f"{url}: no board can be talked to", remedy, error.exit_code
            )
        ]
    finally:
        await device.close()


async def _self_test(url: str, device: Device) -> list[Finding]:
    try:
        cases, failed, first = await device.selftest(60)
    except DeviceError as error:
        return [Finding("note", f"{url}: no self-test", str(error))]
    if failed:
        what = f"{url}: {failed} of {cases} cases of its self-test fail, the first is {first}"
        return [Finding("fault", what, "flash its firmware again, or replace it", 6)]
    return [Finding("ok", f"{url}: all {cases} cases of its self-test pass")]


async def _quality(url: str, device: Device) -> list[Finding]:
    """Round trips, and what was sent twice or lost meanwhile."""
    lost_before = (await device.read_info(10)).lost
    before, times = device.counters(), []
    for _ in range(_QUESTIONS):
        began = time.perf_counter()
        await device.status(10)
        times.append(1000 * (time.perf_counter() - began))
    moved = device.counters() - before
    lost = (await device.read_info(10)).lost - lost_before
    what = f"{url}: {_QUESTIONS} questions, {statistics.median(times):.1f} ms each (median)"
    if moved.tx_retransmission or moved.rx_bad_frames or lost:
        what += f"; {moved.tx_retransmission} bytes sent again, {moved.rx_bad_frames} frames damaged"
        what += f", {lost} bytes lost"
        return [Finding("note", what, "try a shorter cable, another USB port, or a lower --baud")]
    return [Finding("ok", f"{what}; nothing lost")]
