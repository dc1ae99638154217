"""Locks between processes: one owner for a key file, a run's folder and a board's port.

A lock is an advisory lock of the operating system on a small file (`filelock`), so that it ends with its
process, however that ends. The file holds who has the lock, as one JSON object, for the message that a second
process prints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from quantfl.errors import QuantflError

_TEXT_MAX = 4096  # bytes read of a lock file: anybody may have written it


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. pid: its process; host: the machine; command: its command line; since: UTC, ISO
    8601."""

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        command = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])[:200]
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), command, since)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}), since {self.since}"


def _plain(text: object) -> str:
    return "".join(c for c in str(text)[:200] if c.isprintable())


def holder_of(path: Path) -> Holder | None:
    """Who wrote the lock file at `path` last; None when it does not say."""
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_TEXT_MAX))
        return Holder(int(raw["pid"]), _plain(raw["host"]), _plain(raw["command"]), _plain(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Lock:
    """A lock on the file `path`, for one process at a time. `acquire` and `release` may be nested within the
    process."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = filelock.FileLock(path, mode=0o600, thread_local=False)

    def acquire(self, timeout: float = 0.0) -> Holder | None:
        """Take the lock, waiting for at most `timeout` seconds. Returns None, or who else holds it.

        OSError: the file cannot be made, for example because its folder is read-only.
        """
        try:
            self._lock.acquire(timeout=timeout, poll_interval=0.02)
        except filelock.Timeout:
            return holder_of(self.path) or Holder(0, "this machine", "unknown", "unknown")
        if self._lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # the lock holds even where nobody can read who has it
                self.path.write_text(json.dumps(vars(Holder.here())), encoding="utf-8")
        return None

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        self._lock.release()

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return bool(self._lock.is_locked)


@contextlib.contextmanager
def locked(path: Path, what: str, error: type[QuantflError], *, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock on `path` meanwhile. what: what it guards, as the message names it.

    `error` is raised, in one line, when another process holds it or the file cannot be made.
    """
    lock = Lock(path)
    try:
        other = lock.acquire(timeout)
    except OSError as problem:
        raise error(f"{path}: cannot be locked: {problem.strerror or problem}") from None
    if other is not None:
        raise error(f"{what} is in use by {other}; wait for it to end, or end it")
    try:
        yield
    finally:
        lock.release()


_ports: dict[str, tuple[Lock, int]] = {}
_guard = threading.Lock()


def _ports_folder() -> Path:
    """Where locks of ports are: one folder per user, on this machine."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"quantfl-ports-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def port_holder(port: str) -> Holder | None:
    """The other process that owns a port; None: nobody, or this process. Nothing is acquired."""
    other = acquire_port(port)
    if other is None:
        release_port(port)
    return other


def acquire_port(port: str) -> Holder | None:
    """Make this process the owner of a board's port. Returns None, or the process that owns it.

    port: the normalised URL of the link. Within one process a port may be acquired several times; each needs
    a release. Where the lock cannot be made (a read-only temporary folder) the port is used without one.
    """
    name = hashlib.sha256(port.encode()).hexdigest()[:32]
    with _guard:
        lock, count = _ports.get(port) or (None, 0)
        if lock is None:
            try:
                lock = Lock(_ports_folder() / f"{name}.lock")
                other = lock.acquire()
            except OSError:
                return None
            if other is not None:
                return other
        _ports[port] = lock, count + 1
    return None


def release_port(port: str) -> None:
    """Undo one `acquire_port`; the last one gives the port to others."""
    with _guard:
        lock, count = _ports.get(port) or (None, 0)
        if lock is None:
            return
        if count > 1:
            _ports[port] = lock, count - 1
        else:
            lock.release()
            del _ports[port]
