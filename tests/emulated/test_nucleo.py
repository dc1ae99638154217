"""The Nucleo-L476RG's firmware on QEMU's B-L475E-IOT01A, the same part but for its pins (make boards)."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from quantfl.device import Device
from quantfl.package.boards import BOARDS

pytestmark = pytest.mark.emulated
ROOT = Path(__file__).resolve().parents[2]
QEMU = ROOT / ".cache" / "qemu10"
IMAGE = ROOT / ".pio" / "build" / "nucleo_l476rg_qemu" / "firmware.elf"
UID_AT = 0x10007FF0


@pytest.fixture
def nucleo():
    """URL of a board on a machine of its own."""
    program = QEMU / "usr" / "bin" / "qemu-system-arm"
    if not program.exists():
        pytest.skip(f"no QEMU 10 in {QEMU}: tools/qemu10.sh {QEMU} says why or fetches it")
    if not IMAGE.exists():
        pytest.skip("no image: make boards")
    listener = socket.create_server(("127.0.0.1", 0))
    modules = next(QEMU.glob("usr/lib/*/qemu"))
    command = [str(program), "-L", str(QEMU / "usr" / "share" / "qemu"), "-M", "b-l475e-iot01a"]
    command += ["-display", "none", "-monitor", "none", "-chardev", f"socket,id=link,fd={listener.fileno()},"]
    command[-1] += "server=on,wait=off,nodelay=on"
    command += ["-serial", "null", "-serial", "chardev:link", "-serial", "null", "-kernel", str(IMAGE)]
    for i in range(3):
        command += ["-device", f"loader,addr={UID_AT + 4 * i:#x},data={0x11223344 + i:#x},data-len=4"]
    machine = subprocess.Popen(
        command,
        pass_fds=[listener.fileno()],
        env={**os.environ, "QEMU_MODULE_DIR": str(modules)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"socket://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        machine.kill()
        machine.wait()
        listener.close()


def test_the_image_boots_says_hello_and_passes_its_self_test(nucleo):
    async def talk():
        async with Device(nucleo) as device:
            return await device.hello(timeout=60), await device.selftest(timeout=60)

    info, (cases, failed, _) = asyncio.run(talk())
    assert info.board == "nucleo_l476rg" and info.ram == 96 * 1024 and info.flash == 1024 * 1024
    assert info.uid == "443322114533221146332211" and info.selftest == 0 and info.lost == 0
    table = next(b for b in BOARDS if b.name == "nucleo_l476rg")
    assert (info.store, info.arena) == (table.slot, table.arena)
    assert failed == 0 and cases > 0
