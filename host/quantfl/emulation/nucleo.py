"""The Nucleo-L476RG's firmware on QEMU's B-L475E-IOT01A, the same part but for its pins, with a model of the
flash controller behind QEMU's debugger port."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from functools import cache
from pathlib import Path

from quantfl.emulation.base import ROOT
from quantfl.emulation.elf import symbols
from quantfl.emulation.flash_l4 import FlashL4, PowerCut
from quantfl.emulation.gdb import Stub
from quantfl.emulation.lines import Lines
from quantfl.emulation.qemu import Machine, QemuBoard
from quantfl.errors import ToolError

KIND = "nucleo_l476rg"
FIRMWARE = "nucleo_l476rg_qemu"  # its environment in platformio.ini
STORE_AT, STORE = 0x08080000, 512 * 1024
_LEAST = 10  # QEMU's release that has this machine with its USARTs
_MACHINE = Machine(
    "arm", ("-M", "b-l475e-iot01a"), "Cortex-M4F", uid_at=0x10007FF0, serials=("", "link", "samples")
)


def _release(program: str) -> int:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"version (\d+)\.", text)
    return int(found[1]) if found else 0


@cache
def qemu() -> tuple[list[str], dict[str, str]]:
    """Command and environment of a QEMU that is new enough: the installed one, or the one that
    tools/qemu10.sh unpacked into .cache/qemu10 or the folder in QUANTFL_QEMU10. ToolError: neither is."""
    installed = shutil.which("qemu-system-arm")
    if installed and _release(installed) >= _LEAST:
        return [installed], {}
    folder = Path(os.environ.get("QUANTFL_QEMU10") or ROOT / ".cache" / "qemu10")
    program = folder / "usr" / "bin" / "qemu-system-arm"
    modules = next(folder.glob("usr/lib/*/qemu"), None)
    if _release(str(program)) >= _LEAST and modules is not None:
        return [str(program), "-L", str(folder / "usr" / "share" / "qemu")], {"QEMU_MODULE_DIR": str(modules)}
    raise ToolError(
        f"the model of this chip came with QEMU {_LEAST}, which is neither installed nor in {folder}: "
        f"tools/qemu10.sh {folder} fetches it or says why not"
    )


_LEAVES = ("Reset_Handler", "qfl_flash_get", "qfl_flash_set", "qfl_flash_put")


class NucleoBoard(QemuBoard):
    """An emulated Nucleo-L476RG. flash: file of 512 KiB that is its store, None: the store is in memory and
    outlives `reset` and `kill`. `controller` is the model of its flash: what it has seen, and power cuts."""

    def __init__(self, name: str, *, uid: bytes, flash: str | None = None, elf: str | None = None):
        super().__init__(name, uid=uid, kind=KIND, flash=flash, elf=elf)
        self._cells: bytearray | mmap.mmap = _store(flash) if flash else bytearray(b"\xff" * STORE)
        self.controller = FlashL4(self._cells, STORE_AT, self._poke)
        self._stub: Stub | None = None
        self._lines: Lines | None = None
        self._runs, self._ran = False, 0.0  # whether the processor runs; seconds that it has run before
        self._thread: threading.Thread | None = None
        self._wanted: list[threading.Event] = []  # resets that wait for the machine to stop
        self._guard = threading.Lock()
        self.fault: str | None = None  # why the model gave up, where it did

    def _machine(self) -> Machine:
        return _MACHINE

    def _environment(self) -> str:
        return FIRMWARE

    def _emulator(self) -> tuple[list[str], dict[str, str]]:
        command, environment = qemu()
        return [*command], environment

    def _poke(self, at: int, data: bytes) -> None:
        assert self._stub is not None  # the controller works for a machine that runs
        self._stub.write(at, data)

    def _channel(self, name: str) -> list[str]:
        assert self._lines is not None
        return ["-chardev", f"socket,id={name},fd={self._lines.fd(name)}"] if name else []

    def _arguments(self, control: int) -> list[str]:
        ours, self._debugger = socket.socketpair()
        self._connection = ours
        lines = self._lines = Lines(
            dict(zip(("link", "samples"), self._sockets, strict=True)), lambda: self._runs
        )
        self._inherited = (self._debugger.fileno(), *lines.descriptors)
        return [
            *super()._arguments(control),
            *("-S", "-chardev", f"socket,id=gdb,fd={self._debugger.fileno()}", "-gdb", "chardev:gdb"),
            *("-chardev", f"socket,id=nudge,fd={lines.monitor_fd}", "-mon", "chardev=nudge,mode=readline"),
        ]

    def start(self) -> None:
        at = symbols(self.elf)
        if missing := [leaf for leaf in _LEAVES if leaf not in at]:
            raise ToolError(f"{self.elf}: there is no {missing[0]} to stop at; build it again: make boards")
        super().start()
        self._debugger.close()
        assert self._lines is not None
        self._lines.start()
        try:
            stub = self._stub = Stub(self._connection)
            stub.write(STORE_AT, bytes(self._cells))
            for leaf in _LEAVES:
                stub.stop_at(at[leaf])
        except EOFError:
            raise ToolError(f"QEMU ended while {self.name} was starting") from None
        self.controller.reset()
        self._ran = 0.0
        places = {at[leaf] & ~1: leaf for leaf in _LEAVES}
        self._thread = threading.Thread(target=self._serve, args=(stub, places), daemon=True)
        self._thread.start()

    def _serve(self, stub: Stub, places: dict[int, str]) -> None:
        """Let the processor run from leaf to leaf, until it is gone."""
        try:
            while True:
                self._reset_if_wanted()
                began, self._runs = time.monotonic(), True
                stub.ask("c")
                self._runs = False
                self._ran += time.monotonic() - began
                registers = stub.registers()
                leaf = places.get(registers[15])
                if leaf is not None:
                    self._act(stub, leaf, registers)
        except EOFError:
            return
        except (PowerCut, ToolError) as end:
            self.fault = None if isinstance(end, PowerCut) else str(end)
            if self._process is not None:
                self._process.kill()

    def _act(self, stub: Stub, leaf: str, r: list[int]) -> None:
        flash, now = self.controller, self._ran
        if leaf == "Reset_Handler":
            flash.reset()
            stub.step_over(r[15])
            return
        value = None
        if leaf == "qfl_flash_get":
            value = flash.get(r[0], now)
        elif leaf == "qfl_flash_set":
            flash.set(r[0], r[1], now)
        else:
            value = flash.program(r[0], stub.read(r[1], r[2]), now)
        stub.return_from(r[14], value)

    def _reset_if_wanted(self) -> None:
        with self._guard:
            wanted, self._wanted = self._wanted, []
        if wanted:
            self._command("system_reset")
            for event in wanted:
                event.set()

    def reset(self) -> None:
        """The reset button. The flash keeps what it has; a page that is being erased stays half erased."""
        if self._stub is None:
            raise self._not_started()
        done = threading.Event()
        with self._guard:
            self._wanted.append(done)
        try:
            self._stub.interrupt()
        except EOFError:
            raise ToolError(f"{self.name} is switched off") from None
        if not done.wait(60):
            raise ToolError(f"{self.name} does not react to its reset button")

    def kill(self) -> None:
        """Cut its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._thread is not None:
            self._thread.join(60)
            self._thread = None
            self._connection.close()
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        super().kill()


def _store(path: str) -> mmap.mmap:
    """The file as memory; a new one is erased flash. ToolError when it is no such file."""
    try:
        if not Path(path).exists():
            Path(path).write_bytes(b"\xff" * STORE)
        with open(path, "r+b") as file:
            if os.fstat(file.fileno()).st_size != STORE:
                raise ToolError(f"{path}: the flash of a {KIND} is {STORE} bytes")
            return mmap.mmap(file.fileno(), STORE)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None
