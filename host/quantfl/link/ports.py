"""Ports of this machine, and which board is behind which: a board is known by its own id, wherever it is
plugged in.

`id://UID` names a board by its unique id (or its beginning); it is looked for at every USB serial port, and
at the ports that the environment variable QUANTFL_PORTS lists (URLs or patterns of paths, separated by
commas). Opening a port to ask who is there sends a SYN to whatever it is: ports that are no USB serial ports
are left alone unless they are listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import glob
import ipaddress
import os
import re
import weakref
from dataclasses import dataclass
from pathlib import Path

from quantfl.core import lib
from quantfl.errors import LinkError, SecurityError

PROBE_S = 1.5
#: (vendor, product or None for any) -> what it probably is.
USB = {
    (0x303A, None): "ESP32 with USB of its own",
    (0x10C4, 0xEA60): "ESP32 or another behind a CP210x",
    (0x1A86, 0x7523): "ESP32 or another behind a CH340",
    (0x1A86, 0x55D4): "ESP32 or another behind a CH9102",
    (0x0403, None): "a board behind an FTDI chip",
    (0x239A, None): "Adafruit board (nRF52840, RP2040 or SAMD)",
    (0x2341, 0x805A): "Arduino Nano 33 BLE",
    (0x2341, None): "Arduino board",
    (0x0483, 0x374B): "STM32 Nucleo (ST-Link V2-1)",
    (0x0483, 0x374E): "STM32 Nucleo (ST-Link V3)",
    (0x0483, 0x5740): "STM32 with USB of its own",
    (0x0483, None): "STM32",
    (0x2E8A, None): "RP2040 or RP2350 (Pico)",
    (0x16C0, 0x0483): "Teensy",
    (0x0D28, 0x0204): "micro:bit or another behind DAPLink",
    (0x1366, None): "a board behind a J-Link (nRF52840 DK)",
    (0x1915, None): "Nordic board",
}


@dataclass(frozen=True)
class Port:
    """A serial port. guess: what is probably plugged in there, by its USB ids; empty when unknown."""

    url: str
    description: str
    hardware: str
    usb: str = ""  # vendor:product
    serial_number: str = ""
    guess: str = ""


def serial_ports() -> list[Port]:
    """This machine's serial ports, USB first."""
    from serial.tools import list_ports

    found = []
    for p in list_ports.comports():
        usb = "" if p.vid is None else f"{p.vid:04x}:{p.pid or 0:04x}"
        guess = "" if p.vid is None else USB.get((p.vid, p.pid)) or USB.get((p.vid, None)) or ""
        found.append(Port(p.device, p.description or "", p.hwid or "", usb, p.serial_number or "", guess))
    return sorted(found, key=lambda p: (not p.usb, p.url))


def listed() -> list[str]:
    """Ports that QUANTFL_PORTS names. Patterns are resolved among files and, as COM ports are none, among
    this machine's ports."""
    names = [n.strip() for n in os.environ.get("QUANTFL_PORTS", "").split(",") if n.strip()]
    return [p for n in names for p in ([n] if "://" in n or not glob.has_magic(n) else _matching(n))]


def _matching(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern)) or [p.url for p in serial_ports() if fnmatch.fnmatch(p.url, pattern)]


def is_port(name: str) -> bool:
    """Whether a name can only be that of a port: a URL, a COM port, a terminal that exists."""
    return "://" in name or same_port(name).startswith("COM") or Path(name).is_char_device()


def same_port(url: str) -> str:
    """One name for all names of a port: `com3` and `\\\\.\\COM3` are COM3, a link is what it leads to."""
    if "://" in url:
        return url
    short = url.removeprefix("\\\\.\\").upper()
    return short if re.fullmatch(r"COM[0-9]+", short) else os.path.realpath(url)


def is_private(url: str) -> bool:
    """Whether a port is a cable or a program on this machine: bytes on it cross no radio and no network."""
    scheme, _, rest = url.partition("://")
    if not rest or scheme in ("inproc", "loop", "hwgrep", "spy"):
        return True
    if scheme == "id":  # at a USB port, or at one that the user lists
        return all(is_private(port) for port in listed())
    if scheme != "socket":
        return False
    host = rest.split("/")[0].rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def candidates() -> list[str]:
    """Ports at which a board may be found."""
    names: dict[str, str] = {}
    for url in (*(p.url for p in serial_ports() if p.usb), *listed()):
        names.setdefault(same_port(url), url)
    return list(names.values())


_in_use: dict[
    str, str
] = {}  # ports open in this process, by the name they were opened by: nobody is to knock there


def claim(url: str) -> None:
    _in_use[url] = same_port(url)


def release(url: str) -> None:
    _in_use.pop(url, None)  # by its name: a link may lead nowhere by now


async def identify(url: str, *, baud: int, timeout: float = PROBE_S) -> str | None:
    """The unique id, as hex, of the board at a port; None when no board answers. Costs a session and INFO, in
    nobody's ledger."""
    from quantfl.board_info import uid_of
    from quantfl.link.session import Session
    from quantfl.link.transport import SerialTransport

    session = Session(SerialTransport(url, baud))
    try:
        await session.open(timeout)
        answer = await session.request(lib.QFL_MSG_INFO, timeout=timeout)
        return uid_of(answer.body) or None if answer.status == 0 else None
    except SecurityError:
        return session.link.peer_uid.hex() or None  # it has keys, and has said who it is
    except LinkError:
        return None
    finally:
        await session.close()


_searches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
_seen: dict[str, str] = {}  # port -> id of the board last found there


async def locate(uid: str, *, baud: int, first: str | None = None) -> str:
    """The port of the board whose id begins with `uid`. first: where it was last. LinkError when it is
    nowhere, or not alone."""
    lock = _searches.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:  # one search at a time: a port has room for one
        free = [url for url in candidates() if same_port(url) not in _in_use.values()]
        order = dict.fromkeys(
            [
                *([first] if first in free else []),
                *(u for u in free if _seen.get(u, "").startswith(uid)),
                *free,
            ]
        )
        for url in order:
            found = await identify(url, baud=baud)
            if found is None:
                _seen.pop(url, None)
                continue
            _seen[url] = found
            if found.startswith(uid):
                return url
    where = (
        f"{len(free)} ports were asked"
        if free
        else "no USB serial port is free, and QUANTFL_PORTS lists none"
    )
    raise LinkError(f"board {uid} is not to be found: {where}; is it plugged in and powered?")
