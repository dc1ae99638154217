"""What all emulated boards have in common: booting, ports, sample channels, dying with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quantfl.errors import LinkError, ToolError
from quantfl.suggest import meant

QEMU_KINDS = (
    "qemu_m4",
    "qemu_m0",
    "qemu_m3",
    "qemu_m7",
    "qemu_m33",
    "qemu_m55",
    "qemu_rv32imc",
    "standard_m4",
)
#: Real boards, on models of their chips.
CHIP_KINDS = ("nucleo_l476rg",)
#: Boards inside this process. A run asks those of kind twin many at a time (quantfl.fleet.twin).
INSIDE = ("inproc", "twin")
BOARD_KINDS = ("native", *QEMU_KINDS, *CHIP_KINDS, *INSIDE)
#: Descriptors that a board takes while a run goes on: a native board's link, and its sample channel or the
#: pipe it tells its ports through; QEMU's sockets, monitor and pipe; a chip's lines and debugger, too.
DESCRIPTORS = {"native": 2} | dict.fromkeys(QEMU_KINDS, 8) | dict.fromkeys(CHIP_KINDS, 20)
RESERVE = 128  # what the rest of a run opens
ROOT = Path(__file__).resolve().parents[3]


class Board(Protocol):
    """An emulated board. url: its link; samples_url: its sample channel (None: handed over directly)."""

    kind: str
    name: str
    url: str
    samples_url: str | None

    @property
    def alive(self) -> bool: ...
    def ended(self) -> str:
        """Why it is not alive, in words."""

    def start(self) -> None:
        """Boot it."""

    def stop(self) -> None:
        """Switch it off and clean up."""

    def kill(self) -> None:
        """Cut its power: nothing is cleaned up or said."""

    def reset(self) -> None:
        """Press its reset button."""

    def feed(self, x: np.ndarray, labels: np.ndarray) -> int:
        """Put samples int8 [n, size] with labels [n] into its sample channel; blocks; returns the bytes."""


def firmware(env: str, file: str) -> Path:
    """A built firmware. ToolError with the remedy when it has not been built."""
    base = os.environ.get("QUANTFL_FIRMWARE")
    path = Path(base) / env / file if base else ROOT / ".pio" / "build" / env / file
    bundled = Path(__file__).resolve().parents[1] / "boards" / env / file  # in a wheel
    if not path.exists() and not base and bundled.exists():
        return bundled
    if not path.exists():
        how = "make boards" if env.startswith("nucleo_") else "make firmware"
        raise ToolError(f"the firmware for {env} is not built ({env}/{file} is missing): run `{how}`")
    return path


def available(kind: str) -> str | None:
    """None when boards of this kind can be booted, else the one-line reason."""
    try:
        if kind == "native":
            firmware("native", "program")
        elif kind in QEMU_KINDS:
            from quantfl.emulation.qemu import MACHINES

            machine = MACHINES[kind]
            if shutil.which(machine.command) is None:
                return f"{machine.command} is not installed (package {machine.debian})"
            firmware(kind, "firmware.elf")
        elif kind in CHIP_KINDS:
            from quantfl.emulation import nucleo

            nucleo.qemu()
            firmware(nucleo.FIRMWARE, "firmware.elf")
        elif kind not in INSIDE:
            known = ", ".join(BOARD_KINDS)
            return f"unknown kind of board {kind!r}{meant(kind, BOARD_KINDS)}; known are {known}"
    except ToolError as error:
        return str(error)
    return None


def best_kind() -> str:
    """qemu_m4 where it can be booted, else native, else boards inside this process."""
    return next(kind for kind in ("qemu_m4", "native", "inproc") if available(kind) is None)


def make_room(descriptors: int, what: str) -> None:
    """Let this process open so many descriptors beside those it has. ToolError: the system allows fewer."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = descriptors + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ToolError(
            f"{what} need {needed:,} open files, and this system allows {hard:,}: run `ulimit -Hn {needed}` "
            'as root first, take fewer boards, or boards inside this process (fleet.emulate = "inproc")'
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def boot_fleet(
    kind: str,
    count: int,
    *,
    seed: int = 1,
    prefix: str = "board",
    ble: bool = False,
    battery: int | None = None,
    port_base: int | None = None,
) -> list[Board]:
    """Boot `count` boards named prefix-00, prefix-01 …; each has a unique id made from `seed` and its number.

    ble: native boards run the BLE port; their url is for a radio (quantfl_lab.ble.adapter). battery: what
    native boards say of their charge, per cent. port_base: boards that are processes listen at two ports each
    from this one on, None: wherever there is room. ToolError: they cannot be booted, or a port is taken.
    """
    reason = available(kind)
    if reason is not None:
        raise ToolError(f"cannot boot {kind} boards: {reason}")
    from quantfl.emulation.inproc import InprocBoardHandle
    from quantfl.emulation.native import NativeBoard
    from quantfl.emulation.nucleo import NucleoBoard
    from quantfl.emulation.qemu import QemuBoard

    make_room(count * DESCRIPTORS.get(kind, 0), f"{count} {kind} boards")
    native = partial(NativeBoard, ble=ble, battery=battery)
    makers: dict[str, Callable[..., Board]] = {"native": native, "nucleo_l476rg": NucleoBoard}
    makers |= dict.fromkeys(INSIDE, InprocBoardHandle)
    make = makers.get(kind) or partial(QemuBoard, kind=kind)
    boards: list[Board] = []
    try:
        for i in range(count):
            board = make(f"{prefix}-{i:02d}", uid=struct.pack(">II", seed & 0xFFFFFFFF, i + 1))
            if port_base is not None and isinstance(board, NativeBoard | QemuBoard):
                board.at_ports(port_base + 2 * i)
            board.start()
            boards.append(board)
    except OSError as error:
        close_all(boards)
        where = "" if port_base is None else f" at port {port_base + 2 * len(boards)}"
        raise ToolError(f"cannot boot a board{where}: {error.strerror or error}") from None
    except BaseException:
        close_all(boards)
        raise
    return boards


def close_all(boards: list[Board]) -> None:
    for board in boards:
        with contextlib.suppress(OSError):
            board.stop()


def why_ended(process: subprocess.Popen[Any] | None) -> str:
    """What ended a board's process: a signal, or its exit status and the last line it wrote to stderr."""
    status = None if process is None else process.poll()
    if process is None or status is None:
        return "it was switched off"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}"
        return f"ended by signal {-status}"
    said = b"" if process.stderr is None else _rest(process.stderr)
    lines = said.decode(errors="replace").strip().splitlines()
    return f"ended with status {status}" + (f": {lines[-1]}" if lines else "")


def _rest(pipe: Any) -> bytes:
    """What is left in the pipe of a process that has ended; its own children may hold it open."""
    os.set_blocking(pipe.fileno(), False)
    with contextlib.suppress(OSError):
        return os.read(pipe.fileno(), 1 << 16)
    return b""


def die_with_parent() -> None:
    """In a child, before exec: be killed when the parent dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spawn(command: list[str], **kwargs: Any) -> subprocess.Popen[Any]:
    """A child process that does not outlive us and does not get our Ctrl-C."""
    try:
        return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **kwargs)
    except OSError as error:
        raise ToolError(f"cannot start {command[0]}: {error.strerror}") from None


def sample_records(x: np.ndarray, labels: np.ndarray) -> bytes:
    """Samples int8 [n, size] and labels [n] as boards read them
    (firmware/boards/common/qfl_sample_record.h)."""
    x = np.ascontiguousarray(x, np.int8).reshape(len(x), -1)
    return b"".join(
        b"\xa5\x5a" + struct.pack("<HI", int(k), row.size) + row.tobytes()
        for row, k in zip(x, labels, strict=True)
    )


def send_samples(url: str, x: np.ndarray, labels: np.ndarray) -> int:
    """Write sample records to a sample channel; blocks until the board has taken them; returns the bytes."""
    host, _, port = url.removeprefix("socket://").partition(":")
    records = sample_records(x, labels)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as s:
            s.settimeout(120)
            s.sendall(records)
            s.shutdown(socket.SHUT_WR)
            # Wait until the board has read everything: closing with unread data would drop it.
            while s.recv(4096):
                pass
    except TimeoutError:
        raise LinkError(f"{url}: the board does not take samples; is a package on it?") from None
    except OSError as error:
        raise LinkError(f"{url}: samples cannot be fed: {error.strerror or error}") from None
    return len(records)
