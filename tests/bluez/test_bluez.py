"""The slow tier: the same links and rounds through the real bluetoothd and kernel of a guest machine (`make
test-bluez`)."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from quantfl.device import Device
from quantfl.emulation.native import NativeBoard
from quantfl.errors import LinkError
from quantfl.fleet import api
from quantfl.fleet.config import FleetTable
from quantfl.link import ble
from quantfl.link.ble_model import layers
from quantfl.package.convert import convert
from tests.bluez.guest import Guest, NoImage, missing
from tests.support import DEMO_MODEL, demo_config, need_board, need_digits

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        "QUANTFL_BLUEZ" not in os.environ, reason="the slow tier with the real BlueZ: make test-bluez"
    ),
    pytest.mark.timeout(300),
]
BOARDS = 3
ADDRESSES = [f"C4:00:00:00:00:0{i + 1}" for i in range(BOARDS)]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Three boards on a virtual radio in reach of the guest's adapter."""
    from quantfl_lab.ble.adapter import missing as missing_here

    reason = missing() or missing_here()
    if reason is not None:
        pytest.skip(reason)
    need_board("native")
    folder = tmp_path_factory.mktemp("bluez")
    boards = [NativeBoard(f"b{i}", uid=bytes([0, 0, 0, 1, 0, 0, 0, i]), ble=True) for i in range(BOARDS)]
    for board in boards:
        board.start()
    ports = [b.url.rsplit(":", 1)[1] for b in boards]
    radios = [f"qfl-{i},{ADDRESSES[i]},127.0.0.1:{p},mode=radio,battery=50" for i, p in enumerate(ports)]
    guest = Guest(radios, folder / "console")
    try:
        guest.start()
        guest.serve_bus(folder / "bus")
        yield boards, guest, f"unix:path={folder / 'bus'}"
    except NoImage as error:
        pytest.skip(f"the guest cannot be built from Debian's packages: {error}")
    finally:
        guest.stop()
        for board in boards:
            board.stop()


@pytest.fixture(autouse=True)
def _adapter(monkeypatch, there):
    """bleak's system bus is the guest's."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", there[2])
    yield
    there[1].hang_up()


def run(work):
    async def limited():
        return await asyncio.wait_for(work(), 200)

    return asyncio.run(limited())


def switched_on() -> list[ble.Advertiser]:
    """bluetoothd switches its adapter on some seconds after it has found it; a client that was there before
    may miss it."""
    what: object = None
    for _ in range(30):
        try:
            what = found = run(lambda: ble.scan(3.0))
        except LinkError as error:
            what, found = error, []
        if len(found) == BOARDS:
            return found
        time.sleep(1)
    raise AssertionError(f"the guest's adapter does not see the boards: {what}")


def test_the_adapter_sees_the_boards(there):
    try:
        found = switched_on()
    except AssertionError as error:
        raise AssertionError(f"{error}; {there[1].console()[-1500:]}") from None
    assert sorted(b.name for b in found) == [f"qfl-{i}" for i in range(BOARDS)]
    assert all(-100 < b.rssi < 0 for b in found)


def test_a_package_a_break_and_what_bluetoothd_says(there):
    """A push in whole values, counted as the kernel sends them; an over-long write, in BlueZ's words; a board
    that is reset; one that is absent."""
    boards, guest, _ = there
    package = convert(DEMO_MODEL).package
    boards[0].reset()  # it may have the package of an earlier try

    async def go():
        before = guest.meters()
        async with Device("ble://qfl-0") as device:
            await device.read_info()
            await device.push(package)
            assert (await device.compare()).balanced
            transport = device.session.transport
            await asyncio.sleep(1)  # a last acknowledgement passes through the guest
            after = guest.meters()
            assert max(transport.sent) == 244 and await transport.battery() == 50
            for direction, lengths, (was, now) in (
                ("down", transport.sent, (before["central"]["tx"], after["central"]["tx"])),
                ("up", transport.received, (m["boards"][ADDRESSES[0]]["tx"] for m in (before, after))),
            ):
                passed = {
                    k: now[f"value_{k}"] - was.get(f"value_{k}", 0)
                    for k in ("pdus", "att", "l2cap", "fragments", "acl")
                }
                model = layers(lengths)
                assert passed == {
                    "pdus": lengths.total(),
                    "att": model.att,
                    "l2cap": model.l2cap,
                    "fragments": model.packets,
                    "acl": model.hci,
                }, direction
            reasons, lost = [], asyncio.Event()
            real = transport._lost
            transport._lost = lambda why: (reasons.append(why), lost.set(), real(why))
            rx = transport._client.services.get_characteristic(ble.RX)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(rx), "max_write_without_response_size", 300)
                transport.write(bytes(300))
                await asyncio.wait_for(lost.wait(), 20)
            assert reasons == ["Failed to initiate write"]
            await device.read_info()  # it is connected to again
            boards[0].reset()
            info = await device.read_info()
            assert info.package is None  # the reset board has forgotten it
            assert transport.connections >= 3
        with pytest.raises(LinkError, match="no BLE board nobody advertises"):
            await Device("ble://nobody").open()

    run(go)


def test_a_board_that_bluetoothd_knows_gets_whole_values(there):
    """bluetoothd tells a client that came after the board's first connection no MTU unless it is asked."""
    there[0][0].reset()

    async def go():
        async with Device("ble://qfl-0") as device:
            await device.read_info()
            await device.push(convert(DEMO_MODEL).package)
            return device.session.transport

    transport = run(go)
    assert max(transport.sent) == 244


def test_federated_rounds_with_fewer_places_than_boards(there):
    """The same heads, to the byte, as boards inside this process."""
    need_digits()
    boards, _, _ = there
    plan = {"run": {"rounds": 2, "deadline_s": 120.0, "setup_s": 240.0}}
    table = [
        {"url": f"ble://qfl-{i}", "samples": b.samples_url, "name": f"b{i}"} for i, b in enumerate(boards)
    ]
    config = demo_config(**plan).model_copy(update={"fleet": FleetTable(board=table, ble_connections=2)})

    async def go():
        return await api.quiet_run(config, DEMO_MODEL.parent)

    rounds = run(go)
    assert [r["failed"] for r in rounds.history[1:]] == [{}, {}]
    assert all(sorted(r["contributors"]) == [f"b{i}" for i in range(BOARDS)] for r in rounds.history[1:])
    alike = demo_config(**plan).model_copy(update={"fleet": FleetTable(emulate="inproc", boards=BOARDS)})
    plain = asyncio.run(api.quiet_run(alike, DEMO_MODEL.parent))
    assert [r["head"] for r in rounds.history] == [r["head"] for r in plain.history]
