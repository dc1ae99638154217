"""What holds for every emulated board, asked of a board that is attached. Its package is replaced."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from quantfl import diagnosis
from quantfl.device import Device
from quantfl.package.convert import convert
from tests.hardware.conftest import REPORT
from tests.support import ROOT

MICRO = ROOT / "models" / "micro" / "micro_int8.tflite"


def on(port: str | None, work):
    """Open the board, ask it who it is, and do `work(device)`."""
    if port is None:
        pytest.skip("no board: pytest tests/hardware --port URL")

    async def go():
        async with Device(port, patience=30) as device:
            await device.hello(30)
            return await work(device)

    return asyncio.run(go())


def test_it_says_who_it_is_and_its_kernels_give_the_known_answers(port):
    async def go(device):
        return device.info, await device.selftest(120)

    info, (cases, failed, first) = on(port, go)
    REPORT.append(f"{port}: {info.board}, id {info.uid}, firmware {info.firmware}, protocol {info.protocol}")
    REPORT.append(
        f"{port}: RAM {info.ram}, arena {info.arena}, flash {info.flash}, longest package {info.store}"
    )
    REPORT.append(f"{port}: {failed} of {cases} cases of the self-test fail, the first is {first}")
    assert info.selftest == 0 and cases > 0 and failed == 0 and info.arena > 0


def test_it_takes_a_package_once_and_keeps_it(port):
    package = convert(MICRO).package

    async def go(device):
        before = device.counters()
        moved = await device.push(package, timeout=300)
        sent = device.counters() - before
        return moved, await device.push(package, timeout=60), device.info.package, sent

    moved, again, held, sent = on(port, go)
    if moved:
        REPORT.append(
            f"{port}: pushed {len(package)} bytes; {sent.tx_retransmission} sent again, "
            f"{sent.rx_bad_frames} frames damaged"
        )
    assert not again and held == hashlib.sha256(package).hexdigest()


def test_both_ends_count_the_same_bytes(port):
    async def go(device):
        for _ in range(20):
            await device.status(30)
        return await device.compare(60)

    comparison = on(port, go)
    assert comparison.steady and comparison.balanced, comparison


def test_the_doctor_finds_no_fault(port):
    if port is None:
        pytest.skip("no board: pytest tests/hardware --port URL")
    found = asyncio.run(diagnosis.boards([port], baud=921_600, timeout=30, named=True))
    REPORT.extend(f"{f.state}: {f.what} {f.remedy}".strip() for f in found)
    assert [f for f in found if f.state == "fault"] == []
