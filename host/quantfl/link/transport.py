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
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import serial

from quantfl.errors import LinkError, UsageError
from quantfl.link import ports
from quantfl.link.port_errors import busy, cause_of
from quantfl.link.threads import in_own_thread
from quantfl.locks import acquire_port, port_holder, release_port

BAUD = 921_600
POSIX = os.name == "posix"
_PIECE = 1024  # bytes written at once
_LOOK_S = 0.5  # after so long a thread that waits for a full line looks whether the port is lost


class Transport(ABC):
    """A byte stream to one board. Callbacks run in the event loop that called `open`.

    The defaults are those of a port that one board has for itself. Where boards take turns (BLE) a transport
    overrides `acquire_turn` and `release_turn`; what else a line knows of itself are the attributes below.
    """

    url: str
    #: The line loses nothing by itself: silence means that the board is slow.
    lossless: bool = False
    #: `write` queues, so that a break may leave bytes that were never sent (`unsent`).
    queues: bool = False
    #: Seconds that it takes to find a board again that was lost.
    find_s: float = 0.0

    @abstractmethod
    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """Connect. LinkError when the port is absent or refuses; later failures call `on_lost` once."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Queue bytes; never blocks."""

    @abstractmethod
    async def close(self) -> None:
        """Give the port back; `on_lost` is not called."""

    @property
    def unsent(self) -> int:
        """Bytes given to `write` since the last `open` that the line has not taken. It stands still once the
        line is lost or closed."""
        return 0

    @property
    def open_s(self) -> float | None:
        """Seconds that one attempt to open may take; None: as long as is usual for a port."""
        return None

    @property
    def place(self) -> str | None:
        """The port it was last seen at; None: not known."""
        return self.url

    @property
    def preempted(self) -> bool:
        """It was connected, until another board had its turn."""
        return False

    @property
    def expected_uid(self) -> str | None:
        """Beginning of the id (hex) of the board that has to answer here; None: whoever answers."""
        return None

    async def acquire_turn(self, timeout: float) -> float:
        """Wait until it may be opened; returns the seconds spent in the queue. LinkError after `timeout` s,
        or when the board is absent."""
        return 0.0

    def release_turn(self) -> None:  # noqa: B027 (nothing to do where no turns are taken)
        """Nothing more is wanted of the board for now: its turn may go to another."""

    def request_begins(self) -> None:  # noqa: B027
        """A request begins: the turn is kept until `request_ends`."""

    def request_ends(self) -> None:  # noqa: B027
        """A request has ended, well or badly."""

    def remember(self, uid: str) -> None:  # noqa: B027
        """The board here has this id (hex)."""

    def relocated(self) -> bool:
        """The board is not here, or another is. Returns whether `open` will look for it elsewhere."""
        return False

    def carried(self) -> dict[tuple[str, str], tuple[int, bool]]:
        """(direction, layer) -> bytes that lower layers have carried since the beginning, and whether they
        are modelled; empty where nothing is known of them."""
        return {}

    async def describe(self) -> dict[str, str | int | None]:
        """What `quantfl devices` shows besides INFO."""
        return {}


class _Flow:
    """Bytes of one opening of a port: given to be written, and taken by the port. They stand still once the
    port is lost, whatever the thread that writes comes to know later."""

    def __init__(self) -> None:
        self.given = self._taken = 0
        self._over = False
        self._lock = threading.Lock()

    @property
    def unsent(self) -> int:
        with self._lock:
            return self.given - self._taken

    def took(self, n: int) -> bool:
        """False: the port is lost meanwhile, so no more is to be written."""
        with self._lock:
            if not self._over:
                self._taken += n
            return not self._over

    def end(self) -> None:
        with self._lock:
            self._over = True


class SerialTransport(Transport):
    """Anything pyserial can open, without a reset of an ESP32: RTS alone, or later than DTR, would be one
    (`_open_port`).

    uid: the board's id as hex, where it is known (`id://`, or `remember` after its INFO). With it a board
    that comes back at another port is found there. place: the port it was last seen at.
    """

    def __init__(self, url: str, baud: int = BAUD):
        self.url, self.baud = url, baud
        self.lossless = url.startswith("socket://")  # TCP repeats what its network loses
        self.queues = True
        self.uid: str | None = None
        self._place: str | None = url
        self._relocated = False
        if url.startswith("id://"):
            self.uid, self._place, self._relocated = url.removeprefix("id://").strip("/").lower(), None, True
            if not self.uid or set(self.uid) - set("0123456789abcdef"):
                raise UsageError(
                    f"{url}: an id is written in hexadecimal digits, as `quantfl devices` shows it"
                )
        self._flow = _Flow()
        self._owned: str | None = None  # the port that is locked for this process
        self._port: serial.SerialBase | None = None
        self._reader: threading.Thread | None = None
        self._fd: int | None = None
        self._out: asyncio.Queue[bytes] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._lost: Callable[[str], None] | None = None

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._relocated and self.uid is not None:
            self._place = await ports.locate(self.uid, baud=self.baud, first=self._place)
            self._relocated = False
        try:
            port = await in_own_thread(self._open_port, dispose=_close_quietly)
        except (serial.SerialException, OSError, ValueError) as error:
            self.relocated()
            other = port_holder(self._lock_name()) if busy(error) else None
            cause = f"it is in use by {other}; end it" if other else cause_of(self._place or self.url, error)
            raise LinkError(f"cannot open {self._place}: {cause}") from None
        try:
            self._own()
        except LinkError:
            await in_own_thread(_close_quietly, port)
            raise
        if self._place is not None:
            ports.claim(self._place)
        self._port, self._lost = port, on_lost
        self._out, self._flow = asyncio.Queue(), _Flow()
        self._writer = asyncio.create_task(self._write_all(port, self._out, self._flow))
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
        return ports.same_port(self._place or self.url)

    def _disown(self) -> None:
        if self._owned is not None:
            release_port(self._owned)
            self._owned = None

    @property
    def place(self) -> str | None:
        return self._place

    @property
    def open_s(self) -> float | None:
        """Seconds that opening may take where the board has to be looked for first."""
        return 2.0 + 2 * ports.PROBE_S * len(ports.candidates()) if self._relocated else None

    @property
    def expected_uid(self) -> str | None:
        """Of a board at a port of this machine, where another may have been plugged in."""
        return None if "://" in (self._place or "") else self.uid

    def remember(self, uid: str) -> None:
        """The board here is this one: should it come back elsewhere, it is to be looked for. Ports of this
        machine only."""
        if self.uid is None and "://" not in self.url:
            self.uid = uid

    def relocated(self) -> bool:
        self._relocated = self.uid is not None
        return self._relocated

    def _open_port(self) -> serial.SerialBase:
        if self._place is None:  # `open` has looked for it
            raise ValueError("nobody knows at which port this board is")
        port = serial.serial_for_url(self._place, do_not_open=True)
        port.baudrate = self.baud
        local = "://" not in self._place
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
        else:
            port.write_timeout = 0  # takes what has room, and says how much that is
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
            self._flow.given += len(data)
            self._out.put_nowait(data)

    @property
    def unsent(self) -> int:
        return self._flow.unsent

    async def _write_all(self, port: serial.SerialBase, out: asyncio.Queue[bytes], flow: _Flow) -> None:
        try:
            while True:
                data = await out.get()
                while not out.empty():
                    data += out.get_nowait()
                # A full line blocks; other boards must not wait for it.
                await in_own_thread(_write_out, port, data, flow)
        except (serial.SerialException, OSError) as error:
            self._fail(_reason(error))

    def _fail(self, reason: str) -> None:
        self._flow.end()
        lost, self._lost = self._lost, None
        if self._place is not None:
            ports.release(self._place)
        self._stop_reading()
        if lost is not None:
            lost(reason)

    def _stop_reading(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(ValueError, OSError, RuntimeError):
                asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None

    async def close(self) -> None:
        self._flow.end()
        self._lost = None
        if self._place is not None:
            ports.release(self._place)
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


def _write_out(port: serial.SerialBase, data: bytes, flow: _Flow) -> None:
    """Write all of it, and keep count of what the port has taken. Blocks while the line is full."""
    at, descriptor = 0, _pollable(port)
    while at < len(data):
        piece = data[at : at + _PIECE]
        if descriptor is not None:
            while not select.select([], [descriptor], [], _LOOK_S)[1]:
                if not flow.took(0):
                    return
        taken = port.write(piece)
        at += len(piece) if taken is None else taken
        if not flow.took(len(piece) if taken is None else taken):
            return


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
