"""Boards as native processes: firmware/boards/posix."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from typing import Any

import numpy as np

from quantfl.emulation.base import firmware, send_samples, spawn, why_ended
from quantfl.errors import ToolError


@cache
def _lifeline() -> int:
    """A pipe into which nothing is ever written: boards read its end of file when this process ends. One for
    all of them."""
    read, _write = os.pipe()
    return read


class NativeBoard:
    """The firmware as a process; link and samples are TCP ports on this machine.

    flash: file that keeps its flash over restarts. ram: KiB of arena. ble: its link's port is that of a BLE
    radio (quantfl_lab.ble.adapter), not of a UART. battery: its charge in per cent, None: it does not know.
    """

    kind = "native"

    def __init__(
        self,
        name: str,
        *,
        uid: bytes,
        flash: str | None = None,
        ram: int = 256,
        program: str | None = None,
        ble: bool = False,
        battery: int | None = None,
    ):
        self.name, self.uid, self.flash, self.ram, self.ble, self.battery = (
            name,
            uid,
            flash,
            ram,
            ble,
            battery,
        )
        self.program = program or str(firmware("native", "program"))
        self.url = ""
        self.samples_url: str | None = None
        self._ports = (0, 0)
        self._process: subprocess.Popen[Any] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ended(self) -> str:
        return why_ended(self._process)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def at_ports(self, first: int) -> None:
        """Listen at the ports `first` (link) and `first` + 1 (samples) from the next start on; 0: any."""
        self._ports = (first, first + 1 if first else 0)

    def start(self) -> None:
        command = [
            self.program,
            "--port",
            str(self._ports[0]),
            "--samples",
            str(self._ports[1]),
            "--uid",
            self.uid.hex(),
            "--ram",
            str(self.ram),
            "--die-with-parent",
        ]
        if self.ble:
            command.append("--ble")
        if self.battery is not None:
            command += ["--battery", str(self.battery)]
        if self.flash:
            command += ["--flash", self.flash]
        process = self._process = spawn(
            command, stdin=_lifeline(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None  # it is a pipe
        with process.stdout as told:  # a board that runs keeps no descriptor here but its link's
            line = told.readline()
            if not line.startswith("{"):
                raise ToolError(f"the native board did not start: {(line + told.read()).strip()}")
        ports = json.loads(line)
        self._ports = (ports["port"], ports["samples"])
        self.url = f"socket://127.0.0.1:{ports['port']}"
        self.samples_url = f"socket://127.0.0.1:{ports['samples']}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def reset(self) -> None:
        """A new process on the same ports; flash survives only with a flash file."""
        self.stop()
        self.start()

    def feed(self, x: np.ndarray, labels: np.ndarray) -> int:
        if self.samples_url is None:
            raise ToolError(f"{self.name} has not been started")
        return send_samples(self.samples_url, x, labels)
