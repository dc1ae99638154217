"""A BLE adapter without a radio: a private D-Bus, a fake `org.bluez`, and virtual boards that an unmodified
bleak connects to."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantfl.emulation.base import Board, spawn
from quantfl.errors import ToolError
from quantfl.link.chaos import parse
from quantfl_lab.ble.chaos import check_air

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir={folder}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""
_START_S = 30.0


def missing() -> str | None:
    """None when there can be a virtual adapter, else what is not installed."""
    if sys.platform != "linux":
        return "the virtual BLE adapter speaks BlueZ's D-Bus, which bleak uses on Linux only"
    if shutil.which("dbus-daemon") is None:
        return "dbus-daemon is not installed (package dbus)"
    for module, extra in (
        ("bleak", "quantfl[ble]"),
        ("bumble", "quantfl-lab[ble]"),
        ("dbus_fast", "quantfl-lab[ble]"),
    ):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed (pip install '{extra}')"
    return None


@dataclass(frozen=True)
class BleBoard:
    """A board to be advertised. port: of its link (uart) or of its radio (`mode` radio: firmware started with
    --ble)."""

    name: str
    port: int
    mode: str = "radio"
    battery: int | None = None
    mtu: int = 247

    def address(self, index: int) -> str:
        """Its random static address on the virtual radio."""
        return f"C4:00:00:00:{index >> 8:02X}:{index & 0xFF:02X}"


class BleAdapter:
    """A private bus and the process behind `org.bluez`. `address` is what DBUS_SYSTEM_BUS_ADDRESS has to be.

    acl: bytes per link-layer packet, 251 with data-length extension, 27 without. limit: connections at once.
    chaos: faults of values in the air (docs/CHAOS.md); UsageError when it makes no sense.
    """

    def __init__(
        self,
        boards: list[BleBoard],
        *,
        acl: int = 251,
        limit: int = 5,
        mtu: int = 247,
        chaos: str | None = None,
    ):
        if chaos is not None:
            check_air(parse(chaos), [b.name for b in boards])
        self.boards, self.acl, self.limit, self.mtu, self.chaos = boards, acl, limit, mtu, chaos
        self.address = ""
        self.addresses = [b.address(i + 1) for i, b in enumerate(boards)]
        self._processes: list[subprocess.Popen] = []
        self._folder: tempfile.TemporaryDirectory | None = None

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(p.poll() is None for p in self._processes)

    def start(self) -> None:
        """ToolError when a tool is missing or does not start."""
        reason = missing()
        if reason is not None:
            raise ToolError(reason)
        self._folder = tempfile.TemporaryDirectory(prefix="quantfl-ble-")
        config = Path(self._folder.name) / "bus.conf"
        config.write_text(_BUS.format(folder=self._folder.name))
        try:
            self.address = self._run(
                ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"], "dbus-daemon"
            )
            command = [
                sys.executable,
                "-m",
                "quantfl_lab.ble.bluez",
                f"--acl={self.acl}",
                f"--limit={self.limit}",
                f"--mtu={self.mtu}",
                f"--chaos={self.chaos or ''}",
            ]
            for board, address in zip(self.boards, self.addresses, strict=True):
                battery = "" if board.battery is None else f",battery={board.battery}"
                command += [
                    "--device",
                    f"{board.name},{address},127.0.0.1:{board.port},mode={board.mode},mtu={board.mtu}{battery}",
                ]
            self._run(command, "the virtual adapter", DBUS_SYSTEM_BUS_ADDRESS=self.address)
        except BaseException:
            self.stop()
            raise

    def _run(self, command: list[str], what: str, **env: str) -> str:
        """Start a process and return its first line."""
        process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = process.stdout.readline().strip() if ready else ""
        if not line:
            process.kill()
            last = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise ToolError(f"{what} did not start: {last}")
        return line

    async def simulate(self, member: str, signature: str = "", body: list | None = None):
        """Call org.quantfl.Sim1 of quantfl_lab.ble.bluez; the first value of its answer."""
        from dbus_fast import Message
        from dbus_fast.aio import MessageBus

        bus = await MessageBus(bus_address=self.address).connect()
        try:
            reply = await bus.call(
                Message(
                    destination="org.bluez",
                    path="/org/quantfl",
                    interface="org.quantfl.Sim1",
                    member=member,
                    signature=signature,
                    body=body or [],
                )
            )
            return reply.body[0] if reply.body else None
        finally:
            bus.disconnect()

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                pipe.close()
        self._processes = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> BleAdapter:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def adapter_for(boards: Sequence[Board], chaos: str | None) -> BleAdapter:
    """A virtual BLE adapter over which emulated boards advertise under their names; `start` it."""
    return BleAdapter(
        [
            BleBoard(b.name, int(b.url.rsplit(":", 1)[1]), "radio" if b.kind == "native" else "uart")
            for b in boards
        ],
        chaos=chaos,
    )
