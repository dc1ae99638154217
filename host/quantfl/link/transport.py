"""Transports: how bytes reach a board. Every port a user may name is accepted everywhere.

`/dev/tty…`, `COM3`, `socket://host:port`, `rfc2217://host:port`, `loop://`, `hwgrep://…` go through
pyserial's `serial_for_url`; `id://UID` is the port at which the board with this id is found
(quantfl.link.ports); `ble://NAME-or-ADDRESS` through bleak (quantfl.link.ble); `inproc://…` names a board
inside this process (quantfl.emulation.inproc).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Protocol

import serial

from quantfl.errors import LinkError, UsageError
from quantfl.link import ports
from quantfl.link.port_errors import busy, cause_of
from quantfl.link.threads import in_own_thread
from quantfl.locks import acquire_port, port_holder, release_port

BAUD = 921_600
POSIX = os.name == "posix"


class Transport(Protocol):
    """A byte stream to one board. Callbacks run in the event loop that called `open`."""

    url: str

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """Connect. LinkError when the port is absent or refuses; later failures call `on_lost` once."""

    def write(self, data: bytes) -> None:
        """Queue bytes; never blocks."""

    async def close(self) -> None:
        """Give the port back; `on_lost` is not called."""


class SerialTransport:
    """Anything pyserial can open, without a reset of an ESP32: RTS alone, or later than DTR, would be one
    (`_open_port`).

    uid: the board's id as hex, where it is known (`id://`, or `know` after its hello). With it a board that
    comes back at another port is found there. place: the port it was last seen at.
    """

    def __init__(self, url: str, baud: int = BAUD):
        self.url, self.baud = url, baud
        self.uid: str | None = None
        self.place: str | None = url
        self._misplaced = False
        if url.startswith("id://"):
            self.uid, self.place, self._misplaced = url.removeprefix("id://").strip("/").lower(), None, True
            if not self.uid or set(self.uid) - set("0123456789abcdef"):
                raise UsageError(
                    f"{url}: an id is written in hexadecimal digits, as `quantfl devices` shows it"
                )
        self._owned: str | None = None  # the port that is locked for this process
        self._port: serial.SerialBase | None = None
        self._reader: threading.Thread | None = None
        self._fd: int | None = None
        self._out: asyncio.Queue[bytes] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._lost: Callable[[str], None] | None = None

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._misplaced and self.uid is not None:
            self.place = await ports.locate(self.uid, baud=self.baud, first=self.place)
            self._misplaced = False
        try:
            port = await in_own_thread(self._open_port, dispose=_close_quietly)
        except (serial.SerialException, OSError, ValueError) as error:
            self.misplaced()
            other = port_holder(self._lock_name()) if busy(error) else None
            cause = f"it is in use by {other}; end it" if other else cause_of(self.place or self.url, error)
            raise LinkError(f"cannot open {self.place}: {cause}") from None
        try:
            self._own()
        except LinkError:
            await in_own_thread(_close_quietly, port)
            raise
        if self.place is not None:
            ports.claim(self.place)
        self._port, self._lost = port, on_lost
        self._out = asyncio.Queue()
        self._writer = asyncio.create_task(self._write_all(port, self._out))
        self._fd = _pollable(port)
        if self._fd is not None:
            loop.add_reader(self._fd, self._on_readable, on_bytes)
        else:
            self._reader = threading.Thread(target=self._read_all, args=(loop, on_bytes), daemon=True)
            self._reader.start()

    def _own(self) -> None:
        """Be the only process at this port. LinkError names the one that is there."""
        self._disown()
        place = self._lock_name()
        if place.startswith("loop://"):  # it leads nowhere but back
            return
        other = acquire_port(place)
        if other is not None:
            raise LinkError(f"{place} is in use by {other}; end it, or name another port")
        self._owned = place

    def _lock_name(self) -> str:
        return ports.same_port(self.place or self.url)

    def _disown(self) -> None:
        if self._owned is not None:
            release_port(self._owned)
            self._owned = None

    @property
    def lossless(self) -> bool:
        """Whether the line loses nothing by itself: TCP repeats what its network loses."""
        return self.url.startswith("socket://")

    @property
    def open_s(self) -> float:
        """Seconds that opening may take where the board has to be looked for first."""
        if not self._misplaced:
            raise AttributeError("open_s")  # as usual
        return 2.0 + 2 * ports.PROBE_S * len(ports.candidates())

    def know(self, uid: str) -> None:
        """The board here is this one: should it come back elsewhere, it is to be looked for. Ports of this
        machine only."""
        if self.uid is None and "://" not in self.url:
            self.uid = uid

    def misplaced(self) -> None:
        """The board is not here, or another is: look for it when opening next."""
        self._misplaced = self.uid is not None

    def _open_port(self) -> serial.SerialBase:
        if self.place is None:  # `open` has looked for it
            raise ValueError("nobody knows at which port this board is")
        port = serial.serial_for_url(self.place, do_not_open=True)
        port.baudrate = self.baud
        local = "://" not in self.place
        if local:
            # An ESP32 is in reset while RTS is raised and DTR is not (the two transistors of its boards, and
            # its own USB alike). POSIX systems raise both when a port opens, and pyserial then sets DTR
            # before RTS: lowering DTR first would reset the chip. Windows opens the port with the lines as
            # they are given here.
            port.dtr, port.rts = POSIX, False
            with contextlib.suppress(AttributeError, ValueError):
                port.exclusive = True
        port.timeout = 0
        port.open()
        if local and POSIX:
            with contextlib.suppress(OSError):  # a pty has no such lines
                port.dtr = False
        if _pollable(port) is None:
            port.timeout = 0.05
        return port

    def _on_readable(self, on_bytes: Callable[[bytes], None]) -> None:
        port = self._port
        if port is None:  # closed meanwhile
            return
        try:
            data = port.read(65536)
        except (serial.SerialException, OSError, TypeError) as error:
            self._fail(_reason(error))
            return
        if data:
            on_bytes(data)
        elif self._closed_by_peer(port):
            self._fail("the peer closed the connection")

    def _closed_by_peer(self, port: serial.SerialBase) -> bool:
        """A readable socket or terminal without bytes has reached its end."""
        try:
            return (self._fd is None or os.fstat(self._fd) is not None) and not _waiting(port)
        except OSError:
            return True

    def _read_all(self, loop: asyncio.AbstractEventLoop, on_bytes: Callable[[bytes], None]) -> None:
        port = self._port
        while port is not None and self._port is port:
            try:
                data = port.read(max(1, _waiting(port)))
            except (serial.SerialException, OSError, TypeError, AttributeError) as error:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._fail, _reason(error))
                return
            if data:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(on_bytes, data)

    def write(self, data: bytes) -> None:
        if self._out is not None:
            self._out.put_nowait(data)

    async def _write_all(self, port: serial.SerialBase, out: asyncio.Queue[bytes]) -> None:
        try:
            while True:
                data = await out.get()
                while not out.empty():
                    data += out.get_nowait()
                # A full line blocks pyserial's write; other boards must not wait for it.
                await in_own_thread(port.write, data)
        except (serial.SerialException, OSError) as error:
            self._fail(_reason(error))

    def _fail(self, reason: str) -> None:
        lost, self._lost = self._lost, None
        if self.place is not None:
            ports.release(self.place)
        self._stop_reading()
        if lost is not None:
            lost(reason)

    def _stop_reading(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(ValueError, OSError, RuntimeError):
                asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None

    async def close(self) -> None:
        self._lost = None
        if self.place is not None:
            ports.release(self.place)
        self._stop_reading()
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(serial.SerialException, OSError):
                await in_own_thread(port.close)
        self._disown()


def _waiting(port: serial.SerialBase) -> int:
    """Bytes that can be read at once. Every port has the property; the stub of their base class lacks it."""
    return int(port.in_waiting)  # type: ignore[attr-defined]


def _close_quietly(port: serial.SerialBase) -> None:
    """Close a port that nobody waits for any more."""
    with contextlib.suppress(serial.SerialException, OSError):
        port.close()


def _pollable(port: serial.SerialBase) -> int | None:
    """The descriptor to watch, where the platform and the kind of port have one."""
    if not POSIX:
        return None
    try:
        return port.fileno()
    except (AttributeError, OSError, serial.SerialException, ValueError):
        return None
    except Exception as error:  # io.UnsupportedOperation and the like from pyserial's URL handlers
        if type(error).__name__ == "UnsupportedOperation":
            return None
        raise


def _reason(error: BaseException) -> str:
    text = str(error).replace("\n", " ")
    return text or type(error).__name__


def open_transport(url: str, *, baud: int = BAUD) -> Transport:
    """The transport for a port as a user names it; nothing is opened yet."""
    if url.startswith("inproc://"):
        from quantfl.emulation.inproc import InprocTransport

        return InprocTransport(url)
    if url.startswith("ble://"):
        from quantfl.link.ble import BleTransport

        return BleTransport(url)
    return SerialTransport(url, baud)
