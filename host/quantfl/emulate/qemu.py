"""Boards in QEMU: the firmware ELF that PlatformIO built, on an emulated MPS2 AN386 (Cortex-M4F)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np

from quantfl.emulate.base import firmware, send_samples, spawn
from quantfl.errors import ToolError

_UID_AT = 0x21200000
_MACHINE = ["-M", "mps2-an386"]


class QemuBoard:
    """One emulated board; its two UARTs are TCP ports on this machine, bound by us so that no port is raced for.

    flash: file that backs the PSRAM in which the flash lies, so that it survives the machine.
    """

    kind = "qemu_m4"

    def __init__(self, name: str, *, uid: bytes, flash: str | None = None, elf: str | None = None):
        self.name, self.uid, self.flash = name, uid, flash
        self.elf = elf or str(firmware("qemu_m4", "firmware.elf"))
        self.url, self.samples_url = "", None
        self._process: subprocess.Popen | None = None
        self._sockets: list[socket.socket] = []
        self._qmp: socket.socket | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _listen(self, port: int = 0) -> socket.socket:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        s.listen(4)
        return s

    def start(self) -> None:
        ports = [int(u.rsplit(":", 1)[1]) for u in (self.url, self.samples_url) if u] or [0, 0]
        self._sockets = [self._listen(p) for p in ports]
        ours, theirs = socket.socketpair()
        link, samples = (s.fileno() for s in self._sockets)
        command = ["qemu-system-arm", *_MACHINE, "-kernel", self.elf, "-nodefaults", "-display", "none",
                   "-monitor", "none",
                   "-chardev", f"socket,id=link,fd={link},server=on,wait=off,nodelay=on", "-serial", "chardev:link",
                   "-chardev", f"socket,id=samples,fd={samples},server=on,wait=off", "-serial", "chardev:samples",
                   "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]  # fmt: skip
        for i, part in enumerate(np.frombuffer(self.uid.ljust(8, b"\0")[:8], "<u4")):
            command += ["-device", f"loader,addr={_UID_AT + 4 * i:#x},data={int(part):#x},data-len=4"]
        if self.flash:
            command[1:3] = ["-M", "mps2-an386,memory-backend=fl", "-object",
                            f"memory-backend-file,id=fl,size=16M,mem-path={self.flash},share=on"]  # fmt: skip
        self._process = spawn(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(link, samples, theirs.fileno()),
        )  # fmt: skip
        theirs.close()
        self._qmp = ours
        self._qmp.settimeout(10)
        self.url, self.samples_url = (f"socket://127.0.0.1:{s.getsockname()[1]}" for s in self._sockets)
        try:
            self._command("qmp_capabilities")
        except (OSError, ValueError):
            self._process.kill()
            message = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise ToolError(f"QEMU did not start: {(message or ['no message'])[0]}") from None

    def _command(self, name: str) -> dict:
        """One QMP command; events and the greeting are skipped."""
        self._qmp.sendall(json.dumps({"execute": name}).encode() + b"\n")
        buffer = b""
        while True:
            data = self._qmp.recv(4096)
            if not data:
                raise ValueError("QEMU closed its control channel")
            buffer += data
            for line in buffer.split(b"\n")[:-1]:
                answer = json.loads(line)
                if "return" in answer or "error" in answer:
                    return answer
            buffer = buffer.rsplit(b"\n", 1)[1]

    def stop(self) -> None:
        self.kill()
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()
        for s in (*self._sockets, self._qmp):
            if s is not None:
                s.close()
        self._sockets, self._qmp, self._process = [], None, None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for s in self._sockets:
            s.close()

    def reset(self) -> None:
        """The reset button: RAM is lost, flash stays."""
        self._command("system_reset")

    def pause(self) -> None:
        """Stop the board's clock; `resume` lets it go on."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def feed(self, x: np.ndarray, labels: np.ndarray) -> int:
        return send_samples(self.samples_url, x, labels)

    def cpu_seconds(self) -> float:
        """Processor time the emulator has used."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = text.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


