"""`org.bluez` on a private D-Bus, backed by a central on the virtual radio: what an unmodified bleak finds on
Linux.

    python -m quantfl_lab.ble.bluez --device NAME,ADDRESS,HOST:PORT[,mode=radio][,battery=80][,mtu=23] [--acl
    27] [--chaos SPEC]

The bus is the one DBUS_SYSTEM_BUS_ADDRESS names (quantfl_lab.ble.adapter starts both). `org.quantfl.Sim1` at
/org/quantfl drops connections, loses values, reads meters and the counters of faults in the air. Errors are
worded as bluetoothd 5.66 words them; it was compared with it.
"""

# dbus-fast reads the annotations of methods as objects: no `from __future__ import annotations` here.

import argparse
import asyncio
import json
from typing import Annotated

from bumble.core import AdvertisingData, BaseBumbleError
from bumble.device import Connection, Device, DeviceConfiguration, Peer
from bumble.gatt import Characteristic
from bumble.hci import Address
from bumble.link import LocalLink
from dbus_fast import BusType, DBusError, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import (
    DBusBool,
    DBusBytes,
    DBusDict,
    DBusInt16,
    DBusObjectPath,
    DBusSignature,
    DBusStr,
    DBusUInt16,
)
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from quantfl.link.chaos import Chaos, parse
from quantfl_lab.ble.radio import Meter, Peripheral, VirtualPeripheral, make_host

Strings = Annotated[list[str], DBusSignature("as")]
RO = PropertyAccess.READ
ADAPTER = "/org/bluez/hci0"
CENTRAL = "F0:F1:F2:F3:F4:F5"
FAILED, NOT_CONNECTED = "org.bluez.Error.Failed", "org.bluez.Error.NotConnected"
_QUEUE = 16
_FLAGS = {
    Characteristic.Properties.READ: "read",
    Characteristic.Properties.WRITE: "write",
    Characteristic.Properties.WRITE_WITHOUT_RESPONSE: "write-without-response",
    Characteristic.Properties.NOTIFY: "notify",
    Characteristic.Properties.INDICATE: "indicate",
}


def uuid_text(uuid) -> str:
    """A 128-bit UUID in BlueZ's spelling."""
    text = uuid.to_hex_str("-").lower()
    return text if len(uuid.uuid_bytes) == 16 else f"0000{text}-0000-1000-8000-00805f9b34fb"


class World:
    """Central, peripherals and bus of one process. limit: connections the adapter takes at once."""

    def __init__(self, acl: int, limit: int, mtu: int, chaos: Chaos | None = None):
        self.link, self.chaos = LocalLink(), chaos
        self.mtu, self.acl, self.limit = mtu, acl, limit
        self.host, self.controller = make_host(self.link, "central", CENTRAL, acl)
        self.central = Device(
            config=DeviceConfiguration(name="central", address=Address(CENTRAL)), host=self.host
        )
        self.bus: MessageBus | None = None
        self.connecting = asyncio.Lock()
        self.tasks: set[asyncio.Task] = set()
        self.peripherals: dict[str, VirtualPeripheral] = {}
        self.devices: dict[str, Device1] = {}
        self.most = 0  # connections there have been at once

    async def start(self, peripherals: list[Peripheral]) -> None:
        await self.central.power_on()
        self.bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        self.bus.export(ADAPTER, Adapter1(self))
        self.bus.export("/org/quantfl", Sim1(self))
        self.central.on("advertisement", self._on_advertisement)
        for what in peripherals:
            self.peripherals[what.address] = VirtualPeripheral(self.link, what, self.acl, chaos=self.chaos)
            await self.peripherals[what.address].start()
        await self.bus.request_name("org.bluez")

    def _on_advertisement(self, advertisement) -> None:
        address = advertisement.address.to_string(False)
        device = self.devices.get(address)
        new = device is None
        if new:
            device = self.devices[address] = Device1(self, address)
        device.local_name = advertisement.data.get(AdvertisingData.COMPLETE_LOCAL_NAME) or device.local_name
        for kind in (2, 3, 6, 7):  # incomplete and complete lists of 16- and 128-bit service UUIDs
            for uuids in advertisement.data.get_all(kind):
                device.uuids = list(dict.fromkeys([*device.uuids, *map(uuid_text, uuids)]))
        device.rssi = advertisement.rssi
        if new:
            self.bus.export(device.path, device)
        else:
            device.emit_properties_changed(
                {"RSSI": device.rssi, "UUIDs": device.uuids, "Alias": device.alias}
            )


class Adapter1(ServiceInterface):
    def __init__(self, world: World):
        super().__init__("org.bluez.Adapter1")
        self.world, self.scans = world, 0

    @dbus_property(access=RO)
    def Powered(self) -> DBusBool:
        return True

    @dbus_property(access=RO)
    def Roles(self) -> Strings:
        return ["central"]

    @dbus_property(access=RO)
    def Address(self) -> DBusStr:
        return CENTRAL

    @dbus_method()
    def SetDiscoveryFilter(self, _filter: DBusDict) -> None:
        pass

    @dbus_method()
    async def StartDiscovery(self) -> None:
        self.scans += 1
        if self.scans == 1:
            await self.world.central.start_scanning(filter_duplicates=False)

    @dbus_method()
    async def StopDiscovery(self) -> None:
        if not self.scans:
            raise DBusError(FAILED, "No discovery started")
        self.scans -= 1
        if self.scans == 0:
            await self.world.central.stop_scanning()


class Device1(ServiceInterface):
    def __init__(self, world: World, address: str):
        super().__init__("org.bluez.Device1")
        self.world, self.address = world, address
        self.path = f"{ADAPTER}/dev_{address.replace(':', '_')}"
        self.connection: Connection | None = None
        self.local_name: str | None = None
        self.uuids: list[str] = []
        self.rssi, self.resolved = -60, False
        self.exported: list[str] = []

    @property
    def alias(self) -> str:
        return self.local_name or self.address.replace(":", "-")

    @dbus_property(access=RO)
    def Address(self) -> DBusStr:
        return self.address

    @dbus_property(access=RO)
    def Adapter(self) -> DBusObjectPath:
        return ADAPTER

    @dbus_property(access=RO)
    def Alias(self) -> DBusStr:
        return self.alias

    @dbus_property(access=RO)
    def Name(self) -> DBusStr:
        return self.alias

    @dbus_property(access=RO)
    def UUIDs(self) -> Strings:
        return self.uuids

    @dbus_property(access=RO)
    def RSSI(self) -> DBusInt16:
        return self.rssi

    @dbus_property(access=RO)
    def Paired(self) -> DBusBool:
        return False

    @dbus_property(access=RO)
    def Connected(self) -> DBusBool:
        return self.connection is not None

    @dbus_property(access=RO)
    def ServicesResolved(self) -> DBusBool:
        return self.resolved

    @dbus_method()
    async def Connect(self) -> None:
        world = self.world
        if self.connection is not None:
            return
        async with world.connecting:
            if sum(d.connection is not None for d in world.devices.values()) >= world.limit:
                raise DBusError(FAILED, "le-connection-concurrent-connection-limit")
            try:
                connection = await world.central.connect(Address(self.address), timeout=20)
            except (BaseBumbleError, TimeoutError):
                raise DBusError(FAILED, "le-connection-abort-by-local") from None
        self.connection = connection
        world.most = max(world.most, sum(d.connection is not None for d in world.devices.values()))
        connection.on("disconnection", self._on_disconnection)
        self.emit_properties_changed({"Connected": True})
        task = asyncio.create_task(self._resolve(connection))
        world.tasks.add(task)
        task.add_done_callback(world.tasks.discard)

    async def _resolve(self, connection: Connection) -> None:
        for path in reversed(self.exported):  # bluetoothd keeps GATT objects over a disconnection, too
            self.world.bus.unexport(path)
        self.exported = []
        peer = Peer(connection)
        await peer.request_mtu(self.world.mtu)
        for service in await peer.discover_services():
            at = f"{self.path}/service{service.handle:04x}"
            self._export(at, GattService1(service, self.path))
            for characteristic in await peer.discover_characteristics(service=service):
                where = f"{at}/char{characteristic.handle - 1:04x}"
                self._export(where, GattCharacteristic1(self.world, characteristic, at, connection))
                for descriptor in await peer.discover_descriptors(characteristic=characteristic):
                    self._export(f"{where}/desc{descriptor.handle:04x}", GattDescriptor1(descriptor, where))
        self.resolved = True
        self.emit_properties_changed({"ServicesResolved": True})

    def _export(self, path: str, interface: ServiceInterface) -> None:
        self.world.bus.export(path, interface)
        self.exported.append(path)

    def _on_disconnection(self, *_reason: int) -> None:
        self.connection, self.resolved = None, False
        self.emit_properties_changed({"ServicesResolved": False})
        self.emit_properties_changed({"Connected": False})

    @dbus_method()
    async def Disconnect(self) -> None:
        if self.connection is None:
            raise DBusError(NOT_CONNECTED, "Not Connected")
        await self.connection.disconnect()


class GattService1(ServiceInterface):
    def __init__(self, service, device: str):
        super().__init__("org.bluez.GattService1")
        self.service, self.device = service, device

    @dbus_property(access=RO)
    def UUID(self) -> DBusStr:
        return uuid_text(self.service.uuid)

    @dbus_property(access=RO)
    def Device(self) -> DBusObjectPath:
        return self.device

    @dbus_property(access=RO)
    def Primary(self) -> DBusBool:
        return True


class GattCharacteristic1(ServiceInterface):
    def __init__(self, world: World, characteristic, service: str, connection: Connection):
        super().__init__("org.bluez.GattCharacteristic1")
        self.world, self.characteristic, self.service, self.connection = (
            world,
            characteristic,
            service,
            connection,
        )
        self.value, self.subscriber = b"", None

    @dbus_property(access=RO)
    def UUID(self) -> DBusStr:
        return uuid_text(self.characteristic.uuid)

    @dbus_property(access=RO)
    def Service(self) -> DBusObjectPath:
        return self.service

    @dbus_property(access=RO)
    def Flags(self) -> Strings:
        return [name for flag, name in _FLAGS.items() if self.characteristic.properties & flag]

    @dbus_property(access=RO)
    def MTU(self) -> DBusUInt16:
        return self.connection.att_mtu

    @dbus_property(access=RO)
    def Value(self) -> DBusBytes:
        return self.value

    @dbus_property(access=RO)
    def Notifying(self) -> DBusBool:
        return self.subscriber is not None

    @dbus_method()
    async def ReadValue(self, _options: DBusDict) -> DBusBytes:
        return bytes(await self.characteristic.read_value())

    @dbus_method()
    async def WriteValue(self, value: DBusBytes, options: DBusDict) -> None:
        if self.connection.handle not in self.world.central.connections:
            raise DBusError(FAILED, "Not connected")
        command = "type" in options and options["type"].value == "command"
        if command and len(value) > self.connection.att_mtu - 3:
            raise DBusError(FAILED, "Failed to initiate write")
        try:
            await self.characteristic.write_value(bytes(value), with_response=not command)
        except BaseBumbleError:
            raise DBusError(FAILED, "Operation failed with ATT error: 0x0e") from None
        while self.world.host.le_acl_packet_queue.pending > _QUEUE:
            await asyncio.sleep(0)

    @dbus_method()
    async def StartNotify(self) -> None:
        if self.subscriber is None:  # else for another client, or one that has died
            self.subscriber = self._on_value
            await self.characteristic.subscribe(self.subscriber)

    def _on_value(self, value: bytes) -> None:
        self.value = bytes(value)
        self.emit_properties_changed({"Value": self.value})

    @dbus_method()
    async def StopNotify(self) -> None:
        if self.subscriber is not None:
            await self.characteristic.unsubscribe(self.subscriber)
            self.subscriber = None


class GattDescriptor1(ServiceInterface):
    def __init__(self, descriptor, characteristic: str):
        super().__init__("org.bluez.GattDescriptor1")
        self.descriptor, self.characteristic = descriptor, characteristic

    @dbus_property(access=RO)
    def UUID(self) -> DBusStr:
        return uuid_text(self.descriptor.type)

    @dbus_property(access=RO)
    def Characteristic(self) -> DBusObjectPath:
        return self.characteristic

    @dbus_method()
    async def ReadValue(self, _options: DBusDict) -> DBusBytes:
        return bytes(await self.descriptor.read_value())


class Sim1(ServiceInterface):
    """What tests do to the radio."""

    def __init__(self, world: World):
        super().__init__("org.quantfl.Sim1")
        self.world = world

    @dbus_method()
    async def Drop(self, address: DBusStr) -> None:
        await self.world.peripherals[address].drop()

    @dbus_method()
    async def Silence(self, address: DBusStr) -> None:
        await self.world.peripherals[address].silence()

    @dbus_method()
    def LoseWrites(self, address: DBusStr, count: DBusUInt16) -> None:
        self.world.peripherals[address].drop_writes = count

    @dbus_method()
    def Meters(self) -> DBusStr:
        """JSON: the meters of the central (tx: to boards) and of each peripheral by address (tx: to the
        host), and the most connections there have been. What a controller receives is whole again: fragments
        are counted where they are sent."""
        meters = {a: p.host.snooper.snapshot() for a, p in self.world.peripherals.items()}
        return json.dumps(
            {
                "central": self.world.host.snooper.snapshot(),
                "boards": meters,
                "most_connections": self.world.most,
            }
        )

    @dbus_method()
    def Faults(self) -> DBusStr:
        """JSON: quantfl_lab.ble.chaos.FaultyAir.counters of each peripheral that has faults, by name."""
        return json.dumps(
            {p.what.name: p.air.counters() for p in self.world.peripherals.values() if p.air is not None}
        )

    @dbus_method()
    def Quiet(self) -> None:
        """No faults in the air any more."""
        for peripheral in self.world.peripherals.values():
            if peripheral.air is not None:
                peripheral.air.quiet = True

    @dbus_method()
    def ResetMeters(self) -> None:
        self.world.host.snooper = Meter()
        for peripheral in self.world.peripherals.values():
            peripheral.host.snooper = Meter()


async def _serve(devices: list[Peripheral], acl: int, limit: int, mtu: int, chaos: str) -> None:
    world = World(acl, limit, mtu, parse(chaos) if chaos else None)
    await world.start(devices)
    print("READY", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="org.bluez with virtual BLE boards")
    parser.add_argument(
        "--device", action="append", default=[], type=Peripheral.parse, metavar="NAME,ADDRESS,HOST:PORT"
    )
    parser.add_argument(
        "--acl", type=int, default=251, help="bytes per link-layer packet: 251, or 27 without extension"
    )
    parser.add_argument("--limit", type=int, default=5, help="connections the adapter takes at once")
    parser.add_argument("--mtu", type=int, default=247, help="ATT MTU the central asks for")
    parser.add_argument("--chaos", default="", help="faults of values in the air (docs/CHAOS.md)")
    a = parser.parse_args()
    asyncio.run(_serve(a.device, a.acl, a.limit, a.mtu, a.chaos))


if __name__ == "__main__":
    main()
