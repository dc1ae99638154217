"""Serial lines of an emulated chip whose model of the USART takes one received byte for each turn of QEMU's
main loop (hw/char/stm32l4x5_usart.c of QEMU 10 never says that it can take the next one).

An idle main loop turns once a tick of the board, which is 1 KB/s. So the lines end here, and while bytes wait
for the board the main loop is kept turning: by characters without meaning for a monitor that nobody uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
import termios
import threading
from collections.abc import Callable

_AHEAD = 4096  # bytes that may wait for the board; more stay with the sender
_NUDGES = 32  # characters for the monitor at once: turns of the main loop
_PAUSE_S = 0.001


def _unread(end: socket.socket) -> int:
    """Bytes that lie at this end of a socket pair, not yet read by who shares it."""
    buffer = fcntl.ioctl(end, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("=i", buffer)[0])


class _Line:
    """A listening port, the one peer that it has at a time, and both ends of the emulator's socket."""

    def __init__(self, listener: socket.socket):
        self.listener = listener
        self.peer: socket.socket | None = None
        self.ended = False  # the peer has sent all that it will
        self.ours, self.theirs = socket.socketpair()

    def drop(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.peer, self.ended = None, False


class Lines:
    """Lines named in order, each from a listening socket to the file descriptor `fd(name)`; `monitor_fd` is
    for a monitor in mode readline. running: whether the processor runs now. `close` ends all of it."""

    def __init__(self, listeners: dict[str, socket.socket], running: Callable[[], bool]):
        self._lines = {name: _Line(s) for name, s in listeners.items()}
        self._running = running
        self._monitor, self._monitor_theirs = socket.socketpair()
        self._thread: threading.Thread | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.monitor_fd, *(line.theirs.fileno() for line in self._lines.values()))

    @property
    def monitor_fd(self) -> int:
        return self._monitor_theirs.fileno()

    def fd(self, name: str) -> int:
        return self._lines[name].theirs.fileno()

    def start(self) -> None:
        """The emulator has its ends. Until it closes them, bytes move."""
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._stop.close()
            self._thread.join(60)
            self._stopped.close()
        for line in self._lines.values():
            line.drop()
            line.ours.close()
            line.theirs.close()
        self._monitor.close()
        self._monitor_theirs.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the emulator is gone
            self._move()
        for line in self._lines.values():  # and with it the lines
            line.drop()
            line.listener.close()

    def _move(self) -> None:
        moves = True
        while moves:
            for line in self._lines.values():
                self._let_go(line)
            waiting = any(line.ended or _unread(line.theirs) for line in self._lines.values())
            if waiting and self._running() and not _unread(self._monitor_theirs):
                self._monitor.sendall(b"\0" * _NUDGES)
            moves = self._wait(_PAUSE_S if waiting else None)

    @staticmethod
    def _let_go(line: _Line) -> None:
        """End with a peer that has sent all and whose bytes the board has."""
        if line.ended and not _unread(line.theirs):
            line.drop()

    def _wait(self, seconds: float | None) -> bool:
        """Move what can be moved; False: told to end."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._stopped, selectors.EVENT_READ, None)
            ready.register(self._monitor, selectors.EVENT_READ, lambda: self._monitor.recv(1 << 16))
            for line in self._lines.values():
                ready.register(line.ours, selectors.EVENT_READ, lambda line=line: self._from_board(line))
                if line.peer is None:
                    ready.register(line.listener, selectors.EVENT_READ, lambda line=line: self._accept(line))
                elif not line.ended and _unread(line.theirs) < _AHEAD:
                    ready.register(line.peer, selectors.EVENT_READ, lambda line=line: self._to_board(line))
            for key, _ in ready.select(seconds):
                if key.data is None:
                    return False
                key.data()
        return True

    @staticmethod
    def _accept(line: _Line) -> None:
        line.peer, _ = line.listener.accept()
        line.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.peer.settimeout(10)

    @staticmethod
    def _to_board(line: _Line) -> None:
        assert line.peer is not None
        try:
            data = line.peer.recv(_AHEAD)
        except OSError:
            data = b""
        if data:
            line.ours.sendall(data)
        else:
            line.ended = True

    @staticmethod
    def _from_board(line: _Line) -> None:
        data = line.ours.recv(1 << 16)
        if not data:
            raise OSError("the emulator has closed its end")
        if line.peer is not None:
            try:
                line.peer.sendall(data)
            except OSError:
                line.drop()
