"""One board over BLE: unmodified bleak, a fake bluetoothd, virtual controllers, the firmware with its BLE
port."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from quantfl.device import Device
from quantfl.errors import LinkError, UsageError
from quantfl.link import ble
from quantfl.link.ble_model import layers
from quantfl.link.transport import open_transport
from quantfl.package.convert import convert
from tests.ble.conftest import run
from tests.support import DEMO_MODEL

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def package() -> bytes:
    return convert(DEMO_MODEL).package


def test_a_package_by_name_and_by_address(air, package):
    there = air(2, battery=87)

    async def go():
        async with Device(there.url(0)) as one, Device(f"ble://{there.adapter.addresses[1].lower()}") as two:
            assert (await one.read_info()).uid == "0000000100000000" and (
                await two.read_info()
            ).uid == "0000000100000001"
            assert await asyncio.gather(one.push(package), two.push(package)) == [True, True]
            assert await one.push(package) is False
            for device in (one, two):
                assert (await device.compare()).balanced
            assert await one.session.transport.battery() == 87
            return one.session.transport

    transport = run(go())
    assert max(transport.sent) == 244  # values as long as the MTU allows
    counters = layers(transport.sent)
    assert len(package) < counters.att < 1.1 * len(package)


@pytest.mark.parametrize("mode", ["radio", "uart"])
def test_the_smallest_mtu_works(air, package, mode):
    """20 bytes per value, as before any negotiation, with a board that knows of it and with one behind a
    serial module."""
    there = air(1, mode=mode, mtu=23)

    async def go():
        async with Device(there.url(0)) as device:
            await device.push(package)
            assert (await device.compare()).balanced
            return device.session.transport

    transport = run(go())
    assert max(transport.sent) == max(transport.received) == 20


@pytest.mark.parametrize(("acl", "mtu"), [(251, 247), (27, 247), (251, 23), (27, 23)])
def test_the_model_of_lower_layers_agrees_with_the_controllers_count(air, package, acl, mtu):
    there = air(1, acl=acl, mtu=mtu)

    async def go():
        async with Device(there.url(0)) as device:
            await device.push(package)
            await device.read_counters()
            await asyncio.sleep(0.2)  # the last acknowledgement is on its way
            ble.configure(4, acl)
            return device.session.transport, await there.meters()

    transport, meters = run(go())
    down, up = meters["central"]["tx"], meters["boards"][there.adapter.addresses[0]]["tx"]
    for lengths, count in ((transport.sent, down), (transport.received, up)):
        model = layers(lengths, acl)
        assert model.att == count["value_att"]
        assert model.l2cap == count["value_l2cap"]
        assert model.packets == count["value_fragments"]
        assert model.hci == count["value_acl"]
        assert model.air == count["value_l2cap"] + 10 * count["value_fragments"]
    carried = transport.carried()
    assert carried["down", "att"] == (down["value_att"], False)
    assert carried["up", "l2cap"] == (up["value_l2cap"], True)


@pytest.mark.parametrize("how", ["Drop", "Silence"])
def test_a_transfer_goes_on_after_the_connection_broke(air, package, how, monkeypatch):
    """The board hangs up in mid-transfer, or its radio falls silent and comes back: nothing is sent twice but
    what was in flight."""
    monkeypatch.setattr(
        ble, "CONNECT_S", 1.0
    )  # the virtual radio does not take up an attempt begun while it was silent
    there = air(1)
    address = there.adapter.addresses[0]

    async def go():
        async with Device(there.url(0), patience=20.0) as device:
            broken = asyncio.Event()

            def progress(done, total):
                if done > total // 2 and not broken.is_set():
                    broken.set()
                    breaking.append(asyncio.create_task(there.simulate(how, "s", [address])))

            breaking = []
            await device.push(package, progress=progress)
            if how == "Silence":
                await breaking[0]
            assert device.info.package is not None
            return device.session.transport, device.session.sessions

    transport, sessions = run(go())
    assert transport.connections == 2 and sessions == 2
    assert layers(transport.sent).values < 1.6 * len(package)


def test_lost_values_are_sent_again(air, package):
    """Write without response loses packets under load: the session acknowledges."""
    there = air(1)

    async def go():
        async with Device(there.url(0)) as device:
            await device.read_info()
            await there.simulate("LoseWrites", "sq", [there.adapter.addresses[0], 5])
            await device.push(package)
            return device.counters()

    counters = run(go())
    assert counters.tx_retransmission > 0


def test_errors_are_one_line(air, monkeypatch):
    there = air(1)

    async def absent():
        for target in ("nobody", "C4:00:00:00:00:99"):
            started = time.monotonic()
            with pytest.raises(LinkError, match=f"no BLE board {target} advertises"):
                await Device(f"ble://{target}").open()
            assert time.monotonic() - started < ble.FIND_S + 1

    async def too_long():
        """What bleak says of a value longer than the MTU allows is an error of ours; the link is opened
        again."""
        async with Device(there.url(0)) as device:
            await device.read_info()
            transport, lost = device.session.transport, asyncio.Event()
            real = transport._lost
            transport._lost = lambda why: (lost.set(), reasons.append(why), real(why))
            rx = transport._client.services.get_characteristic(ble.RX)
            monkeypatch.setattr(type(rx), "max_write_without_response_size", 300)
            transport.write(bytes(300))
            await asyncio.wait_for(lost.wait(), 5)
            monkeypatch.undo()
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", there.adapter.address)
            await device.read_info()

    reasons: list[str] = []
    run(absent())
    run(too_long())
    assert reasons == ["Failed to initiate write"]

    with pytest.raises(UsageError, match="name a board"):
        open_transport("ble://")

    async def no_bluetooth():
        with pytest.raises(LinkError, match="Bluetooth is not available here") as error:
            await Device("ble://x").open()
        assert "\n" not in str(error.value)

    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    run(no_bluetooth())


def test_a_board_that_takes_no_subscription_is_given_up_in_time(air, monkeypatch):
    """Connected, and then silent: one line after NOTIFY_S, its place is free, and the next attempt goes
    through."""
    import bleak

    there = air(1)
    monkeypatch.setattr(ble, "NOTIFY_S", 0.4)
    real, hung = bleak.BleakClient.start_notify, []

    async def start_notify(self, *args, **how):
        if not hung:
            hung.append(self)
            await asyncio.Event().wait()
        await real(self, *args, **how)

    monkeypatch.setattr(bleak.BleakClient, "start_notify", start_notify)

    async def go():
        device = Device(there.url(0))
        started = time.monotonic()
        with pytest.raises(LinkError, match="cannot connect to ble://qfl-0: it does not answer in time"):
            await device.open()
        assert time.monotonic() - started < 3 and hung
        assert not hung[0].is_connected and ble.Adapter.current().turns.taken == 0
        await device.open()
        assert (await device.read_info()).board == "native"
        await device.close()

    run(go())


def test_a_device_without_the_service_is_named(air):
    """Something else that is connectable: refused in one line, and its place is free again."""
    there = air(1)

    async def go():
        original = ble.RX
        ble.RX = "00001234-0000-1000-8000-00805f9b34fb"
        try:
            with pytest.raises(LinkError, match="has no quantfl serial service"):
                await Device(there.url(0)).open()
        finally:
            ble.RX = original
        assert ble.Adapter.current().turns.taken == 0
        async with Device(there.url(0)) as device:
            await device.read_info()

    run(go())


def test_bleak_is_imported_only_for_ble():
    import subprocess
    import sys

    code = (
        "import sys; from quantfl.cli import main; from quantfl.link import ble; print('bleak' in "
        "sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ).stdout
        == "False\n"
    )


def test_devices_lists_what_advertises(air, capsys):
    """Board, firmware, battery and signal of every BLE board in reach, and of those named."""
    import json

    from quantfl.cli.main import main

    there = air(2, battery=64)
    assert main(["devices", "--json", "--timeout", "1.5"]) == 0
    rows = [r for r in json.loads(capsys.readouterr().out) if r["url"].startswith("ble://")]
    assert sorted(r["name"] for r in rows) == ["qfl-0", "qfl-1"]
    for row in rows:
        assert row["board"] == "native" and row["firmware"] and row["battery_percent"] == 64
        assert -100 < row["signal_dbm"] < 0 and row["address"] in there.adapter.addresses
    assert main(["devices", "--json", there.url(1), "ble://absent"]) == 5
    named, absent = json.loads(capsys.readouterr().out)
    assert (
        named["uid"] == "0000000100000001"
        and named["battery_percent"] == 64
        and "no BLE board absent" in absent["error"]
    )
    assert main(["devices", "--timeout", "1.5"]) == 0
    assert "64 %" in capsys.readouterr().out


def test_a_charge_that_only_the_port_knows_is_shown_too(air, capsys):
    """No battery service, nothing advertised: the board tells it in its INFO."""
    import json

    from quantfl.cli.main import main
    from quantfl.emulation.native import NativeBoard

    board = NativeBoard("b0", uid=b"\x01", ble=True, battery=41)
    board.start()
    try:
        there = air(boards=[board])
        assert main(["devices", "--json", "--timeout", "1.5"]) == 0
        rows = [r for r in json.loads(capsys.readouterr().out) if r["url"].startswith("ble://")]
        assert [r["battery_percent"] for r in rows] == [41]
        assert main(["devices", "--json", there.url(0)]) == 0
        assert json.loads(capsys.readouterr().out)[0]["battery_percent"] == 41
    finally:
        board.stop()


def test_devices_without_bluetooth_says_so(monkeypatch, capsys):
    from quantfl.cli.main import main

    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    pytest.importorskip("bleak", reason="bleak is not installed (extra ble)")
    assert main(["devices"]) == 0
    out = capsys.readouterr()
    assert "no BLE boards: cannot scan for BLE boards: Bluetooth is not available here" in " ".join(
        out.err.split()
    )


@pytest.mark.usefixtures("air")  # it skips where tools are missing
def test_boards_of_the_command_line_are_found_by_another_process():
    """`quantfl emulate --ble`, then push and devices as a user would; the emulation ends with its process."""
    import json
    import subprocess
    import sys

    quantfl = [sys.executable, "-m", "quantfl.cli.main"]
    with subprocess.Popen(
        [*quantfl, "emulate", "--ble", "-n", "2", "--json"], stdout=subprocess.PIPE, text=True
    ) as emulation:
        try:
            rows = json.loads(emulation.stdout.readline())
            env = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": rows[0]["dbus_system_bus_address"]}
            assert [r["url"] for r in rows] == ["ble://board-00", "ble://board-01"]
            done = subprocess.run(
                [*quantfl, "devices", "--json", *[r["url"] for r in rows]],
                env=env,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert [r["board"] for r in json.loads(done.stdout)] == ["native", "native"]
        finally:
            emulation.terminate()
    assert emulation.returncode == 0


def test_a_host_that_died_leaves_a_board_that_can_be_reached(air):
    """A connected board does not advertise; the operating system keeps the connection of a process that was
    killed."""
    import subprocess
    import sys

    there = air(1)
    code = (
        "import asyncio, os, signal\nfrom quantfl.device import Device\n"
        "async def go():\n    d = Device('"
        + there.url(0)
        + "')\n    await d.open()\n    await d.read_info()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\nasyncio.run(go())"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == -9

    async def go():
        async with Device(there.url(0)) as device:
            return await device.read_info()

    assert run(go()).board == "native"
