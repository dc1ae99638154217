"""Boards in QEMU: the firmware ELF that PlatformIO built, on one of the machines of
firmware/platforms/qemu/boards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.emulation.base import firmware, sample_records, send_samples, spawn, why_ended
from quantfl.emulation.elf import symbols
from quantfl.errors import ToolError

PAINT = 0xA5A5A5A5  # of the stack (firmware/platforms/qemu/baremetal)


@dataclass(frozen=True)
class Machine:
    """A machine QEMU models. memory: base, size and QEMU name of the memory in which the board's flash lies
    at `flash_at`, None: the flash is a part of its own. uid_at: where the board looks for its unique id,
    None: in the file "uid".

    samples: a second UART ("uart"), or a file in the emulator's folder ("file"). serials: what the machine's
    serial ports are for, in QEMU's order; "": nothing.
    """

    system: str
    args: tuple[str, ...]
    core: str
    samples: str = "uart"
    uid_at: int | None = None
    memory: str | None = None  # size of a memory backend, where flash can be kept in a file
    serials: tuple[str, ...] = ("link", "samples")

    @property
    def command(self) -> str:
        return f"qemu-system-{self.system}"

    @property
    def debian(self) -> str:
        """The Debian package of the emulator."""
        return "qemu-system-arm" if self.system == "arm" else "qemu-system-misc"


MACHINES = {
    "qemu_m0": Machine("arm", ("-M", "microbit"), "Cortex-M0", "file"),
    "qemu_m3": Machine("arm", ("-M", "mps2-an385"), "Cortex-M3", uid_at=0x21200000, memory="16M"),
    "qemu_m4": Machine("arm", ("-M", "mps2-an386"), "Cortex-M4F", uid_at=0x21200000, memory="16M"),
    "standard_m4": Machine("arm", ("-M", "mps2-an386"), "Cortex-M4F", uid_at=0x21200000, memory="16M"),
    "qemu_m7": Machine("arm", ("-M", "mps2-an500"), "Cortex-M7", uid_at=0x60200000, memory="16M"),
    "qemu_m33": Machine("arm", ("-M", "mps2-an505"), "Cortex-M33", uid_at=0x80200000, memory="16M"),
    "qemu_m55": Machine("arm", ("-M", "mps3-an547"), "Cortex-M55", uid_at=0x60200000, memory="2G"),
    "qemu_rv32imc": Machine(
        "riscv32",
        ("-M", "virt", "-cpu", "rv32", "-m", "16M", "-bios", "none"),
        "RV32IMC",
        "file",
        memory="16M",
    ),
}


class QemuBoard:
    """One emulated board; its UARTs are TCP ports on this machine, bound by us so that no port is raced for.

    kind: a key of MACHINES. flash: file that backs the memory in which the flash lies, so that it survives
    the machine.
    """

    def __init__(
        self,
        name: str,
        *,
        uid: bytes,
        kind: str = "qemu_m4",
        flash: str | None = None,
        elf: str | None = None,
    ):
        self.name, self.uid, self.kind, self.flash = name, uid, kind, flash
        self.machine = self._machine()
        if flash and self.machine.memory is None and self.kind in MACHINES:
            raise ToolError(f"{kind}: QEMU cannot keep this board's flash in a file")
        self.elf = elf or str(firmware(self._environment(), "firmware.elf"))
        self.arguments: tuple[str, ...] = ()  # more of QEMU's
        self._inherited: tuple[int, ...] = ()  # file descriptors that they name
        self.url = ""
        self.samples_url: str | None = None
        self._process: subprocess.Popen[Any] | None = None
        self._sockets: list[socket.socket] = []
        self._qmp: socket.socket | None = None
        self._folder: Path | None = None
        self._batch = 0

    def _machine(self) -> Machine:
        return MACHINES[self.kind]

    def _environment(self) -> str:
        """The environment of platformio.ini whose firmware runs."""
        return self.kind

    def _emulator(self) -> tuple[list[str], dict[str, str]]:
        """The emulator's command, and what its environment needs beside ours."""
        return [self.machine.command], {}

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ended(self) -> str:
        return why_ended(self._process)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _listen(self, port: int = 0) -> socket.socket:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        s.listen(4)
        return s

    def at_ports(self, first: int) -> None:
        """Listen at the ports `first` (link) and `first` + 1 (samples) from the next start on."""
        self.url = f"socket://127.0.0.1:{first}"
        self.samples_url = f"socket://127.0.0.1:{first + 1}" if self.machine.samples == "uart" else None

    def start(self) -> None:
        uart = self.machine.samples == "uart"
        ports = [int(u.rsplit(":", 1)[1]) for u in (self.url, self.samples_url) if u] or [0] * (
            2 if uart else 1
        )
        self._sockets = [self._listen(p) for p in ports]
        ours, theirs = socket.socketpair()
        command, environment = self._emulator()
        command += self._arguments(theirs.fileno())
        process = self._process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(*(s.fileno() for s in self._sockets), theirs.fileno(), *self._inherited),
            cwd=self._folder,
            env={**os.environ, **environment},
        )
        theirs.close()
        self._qmp = ours
        self._qmp.settimeout(10)
        urls = [f"socket://127.0.0.1:{s.getsockname()[1]}" for s in self._sockets]
        self.url, self.samples_url = urls[0], urls[1] if uart else None
        try:
            self._command("qmp_capabilities")
        except (OSError, ValueError):
            process.kill()
            assert process.stderr is not None  # it is a pipe
            message = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise ToolError(f"QEMU did not start: {(message or ['no message'])[0]}") from None

    def _arguments(self, control: int) -> list[str]:
        """Machine, serial ports, unique id, flash. control: file descriptor for QMP."""
        machine = self.machine
        command = [*machine.args, "-kernel", self.elf, "-nodefaults", "-display", "none", "-monitor", "none"]
        if self.flash and machine.memory:
            command[1] += ",memory-backend=fl"
            file = f"size={machine.memory},mem-path={Path(self.flash).absolute()},share=on"
            command += ["-object", f"memory-backend-file,id=fl,{file}"]
        command += ["-chardev", f"socket,id=qmp,fd={control}", "-mon", "chardev=qmp,mode=control"]
        for name in machine.serials if machine.samples == "uart" else ("link",):
            command += [*self._channel(name), "-serial", f"chardev:{name}" if name else "null"]
        if machine.uid_at is not None:
            for i, part in enumerate(struct.unpack("<2I", self.uid.ljust(8, b"\0")[:8])):
                command += ["-device", f"loader,addr={machine.uid_at + 4 * i:#x},data={part:#x},data-len=4"]
        if machine.samples != "uart":
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="quantfl-board-"))
            (self._folder / "uid").write_bytes(self.uid.ljust(8, b"\0")[:8])
            (self._folder / "samples").unlink(missing_ok=True)
            command += ["-semihosting-config", "enable=on,target=native"]
        return [*command, *self.arguments]

    def _channel(self, name: str) -> list[str]:
        """Where a serial port leads."""
        s = self._sockets[("link", "samples").index(name)]
        return ["-chardev", f"socket,id={name},fd={s.fileno()},server=on,wait=off,nodelay=on"]

    def _command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """One QMP command; events and the greeting are skipped."""
        if self._qmp is None:
            raise self._not_started()
        self._qmp.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        buffer = b""
        while True:
            data = self._qmp.recv(4096)
            if not data:
                raise ValueError("QEMU closed its control channel")
            buffer += data
            for line in buffer.split(b"\n")[:-1]:
                answer: dict[str, Any] = json.loads(line)
                if "return" in answer or "error" in answer:
                    return answer
            buffer = buffer.rsplit(b"\n", 1)[1]

    def _not_started(self) -> ToolError:
        return ToolError(f"{self.name} has not been started")

    def _running(self) -> subprocess.Popen[Any]:
        if self._process is None:
            raise self._not_started()
        return self._process

    def stop(self) -> None:
        self.kill()
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()
        for s in (*self._sockets, self._qmp):
            if s is not None:
                s.close()
        self._sockets, self._qmp, self._process = [], None, None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for s in self._sockets:
            s.close()

    def reset(self) -> None:
        """The reset button: RAM is lost, flash stays; its sensor starts anew."""
        if self._folder is not None:
            (self._folder / "samples").unlink(missing_ok=True)
        self._command("system_reset")

    def pause(self) -> None:
        """Stop the board's clock; `resume` lets it go on."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._running().pid, signal.SIGCONT)

    def feed(self, x: np.ndarray, labels: np.ndarray) -> int:
        if self.samples_url is not None:
            return send_samples(self.samples_url, x, labels)
        records = sample_records(x, labels)
        self._batch += 1
        if self._folder is None:
            raise self._not_started()
        part = self._folder / "samples.part"
        part.write_bytes(struct.pack("<I", self._batch) + records)
        part.replace(self._folder / "samples")  # the board sees the old batch or the new one
        return len(records)

    def memory(self, at: int, size: int) -> bytes:
        """What lies in the board's memory, as a debugger reads it. ToolError when there is none."""
        with tempfile.TemporaryDirectory(prefix="quantfl-memory-") as folder:
            path = Path(folder) / "memory"
            answer = self._command("memsave", val=at, size=size, filename=str(path))
            if "error" in answer:
                raise ToolError(
                    f"{self.name}: memory at {at:#x} cannot be read: "
                    f"{answer['error'].get('desc', 'no reason given')}"
                )
            return path.read_bytes()

    def stack(self) -> tuple[int, int]:
        """Bytes of stack that the board has, and how many it has needed since it was reset: it paints its
        stack when it starts."""
        found = symbols(self.elf)
        limit, top = found["__stack_limit"], found["__stack_top"]
        words = struct.unpack(f"<{(top - limit) // 4}I", self.memory(limit, top - limit))
        untouched = next((i for i, w in enumerate(words) if w != PAINT), len(words))
        return top - limit, top - limit - 4 * untouched

    def cpu_seconds(self) -> float:
        """Processor time the emulator has used."""
        text = Path(f"/proc/{self._running().pid}/stat").read_text()
        fields = text.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
