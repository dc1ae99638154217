"""A software-emulated machine with Debian's kernel and bluetoothd on a virtual controller; its D-Bus comes
out on a socket here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import operator
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from quantfl.emulation.base import spawn
from tests.support import ROOT

IMAGE = ROOT / "build" / "bluez"
BOOT_S = 240.0
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "readelf": "binutils",
}


def missing() -> str | None:
    """What is not installed here, or None."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed (package {package})"
    return None


class NoImage(Exception):
    """The guest cannot be built here; says why."""


class Guest:
    """devices: arguments of quantfl_lab.ble.hci. log: the guest's console."""

    def __init__(self, devices: list[str], log: Path):
        self.devices, self.log = devices, log
        self._processes: list[subprocess.Popen] = []
        self._bus_port = 0
        self._radio: subprocess.Popen | None = None
        self._bus_loop: asyncio.AbstractEventLoop | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    def start(self) -> None:
        builder, built = ROOT / "tools" / "bluez" / "image.py", IMAGE / "initrd"
        if not built.exists() or builder.stat().st_mtime > built.stat().st_mtime:
            made = subprocess.run(
                [sys.executable, str(builder), str(IMAGE)], stderr=subprocess.PIPE, text=True
            )
            if made.returncode:
                raise NoImage(made.stderr.strip().splitlines()[-1])
        radio = spawn(
            [
                sys.executable,
                "-m",
                "quantfl_lab.ble.hci",
                *functools.reduce(operator.iadd, (["--device", d] for d in self.devices), []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._radio = radio
        self._processes.append(radio)
        hci = int(radio.stdout.readline())
        with socket.create_server(("127.0.0.1", 0)) as s:
            self._bus_port = s.getsockname()[1]
        with self.log.open("wb") as console:
            self._processes.append(
                spawn(
                    [
                        "qemu-system-x86_64",
                        "-M",
                        "pc",
                        "-m",
                        "512",
                        "-nodefaults",
                        "-display",
                        "none",
                        "-no-reboot",
                        "-kernel",
                        str(IMAGE / "vmlinuz"),
                        "-initrd",
                        str(IMAGE / "initrd"),
                        "-append",
                        f"console=ttyS0 quiet panic=-1 mitigations=off bus_uid={os.getuid()}",
                        "-serial",
                        "stdio",
                        "-chardev",
                        f"socket,id=hci,host=127.0.0.1,port={hci}",
                        "-device",
                        "virtio-serial-pci",
                        "-device",
                        "virtconsole,chardev=hci",
                        "-netdev",
                        f"user,id=n,hostfwd=tcp:127.0.0.1:{self._bus_port}-:5555",
                        "-device",
                        "virtio-net-pci,netdev=n",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                )
            )
        deadline = time.monotonic() + BOOT_S
        while "Device index 0 attached" not in self.console():
            if time.monotonic() > deadline or any(p.poll() is not None for p in self._processes):
                raise AssertionError(f"the guest did not start: {self.console()[-2000:]}")
            time.sleep(0.2)

    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def meters(self) -> dict:
        """What the kernel and the boards have sent so far (quantfl_lab.ble.radio.Meter)."""
        print(file=self._radio.stdin, flush=True)
        return json.loads(self._radio.stdout.readline())

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._processes = []

    def serve_bus(self, path: Path) -> None:
        """The guest's bus as a Unix socket here, for bleak's D-Bus library; in a thread, so that it outlives
        a test's event loop."""

        async def pump(a: asyncio.StreamReader, b: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await a.read(65536):
                    b.write(data)
                    await b.drain()
            b.close()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", self._bus_port)
            self._clients |= {back, writer}
            await asyncio.gather(pump(reader, back), pump(there, writer))
            self._clients -= {back, writer}

        async def serve() -> None:
            self._bus_loop = asyncio.get_running_loop()
            async with await asyncio.start_unix_server(carry, path) as server:
                serving.set()
                await server.serve_forever()

        serving = threading.Event()
        threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
        assert serving.wait(10)

    def hang_up(self) -> None:
        """End all clients' connections to the bus, as the end of their process would: bleak keeps one for
        each event loop."""

        async def end() -> None:
            for client in list(self._clients):
                client.close()

        asyncio.run_coroutine_threadsafe(end(), self._bus_loop).result(10)
