"""A virtual BLE radio: controllers of bumble in one process, and peripherals whose serial service is a
board's UART or radio.

A board is reached at a TCP port, either raw (`uart`: the board knows nothing of BLE, as if a serial-to-BLE
module stood before it) or as records of firmware/boards/common/qfl_ble_records.h (`radio`: the board runs the
port of docs/BLE.md and sees connections, MTU and single writes). bumble 0.0.236 is pinned: this file closes
three gaps of its virtual controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from dataclasses import dataclass

from bumble import hci
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import HCI_ACL_DATA_PACKET, Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.snoop import Snooper
from bumble.transport.common import AsyncPipeSink

from quantfl.link.ble import BATTERY_LEVEL, BATTERY_SERVICE, RX, SERVICE, TX
from quantfl.link.chaos import Chaos
from quantfl_lab.ble.chaos import FaultyAir

CONNECTED, DISCONNECTED, MTU, VALUE = 1, 2, 3, 4  # records to and from a board's radio
_VALUE_OPCODES = (0x1B, 0x52)  # notification, write command: nothing else carries values here
_ATT_CID = 4
_QUEUE = 16  # packets in the controller's queue above which a sender waits; the queue itself has no limit


@dataclass(frozen=True)
class Peripheral:
    """What a virtual board advertises and where it is. mode: `uart` or `radio`. battery: per cent, None: no
    battery service."""

    name: str
    address: str
    host: str
    port: int
    mode: str = "uart"
    battery: int | None = None
    mtu: int = 247

    @classmethod
    def parse(cls, text: str) -> Peripheral:
        """NAME,ADDRESS,HOST:PORT[,key=value…] as given to quantfl_lab.ble.bluez."""
        name, address, at, *rest = text.split(",")
        host, port = at.rsplit(":", 1)
        more = dict(r.split("=", 1) for r in rest)
        return cls(
            name,
            address,
            host,
            int(port),
            more.get("mode", "uart"),
            int(more["battery"]) if "battery" in more else None,
            int(more.get("mtu", 247)),
        )


class Meter(Snooper):
    """Counts what one host and its controller exchange, by layer and direction: tx is host to controller.

    value_*: the ATT packets that carry values of the serial service, with all bytes of the lower layers;
    other_*: the rest.
    """

    def __init__(self) -> None:
        self.tx: Counter[str] = Counter()
        self.rx: Counter[str] = Counter()
        self._class = {"tx": "other", "rx": "other"}

    def snoop(self, hci_packet: bytes, direction: Snooper.Direction) -> None:
        if hci_packet[0] != HCI_ACL_DATA_PACKET:
            return
        way = "tx" if direction == Snooper.Direction.HOST_TO_CONTROLLER else "rx"
        count = getattr(self, way)
        handle, length = struct.unpack_from("<HH", hci_packet, 1)
        if (handle >> 12) & 3 != 1:  # not a continuation
            size, cid = struct.unpack_from("<HH", hci_packet, 5)
            value = cid == _ATT_CID and hci_packet[9] in _VALUE_OPCODES
            self._class[way] = "value" if value else "other"
            count[f"{self._class[way]}_pdus"] += 1
            count[f"{self._class[way]}_att"] += size
        count[f"{self._class[way]}_l2cap"] += length
        count[f"{self._class[way]}_acl"] += length + 4  # with the handle and length of the HCI packet
        count[f"{self._class[way]}_fragments"] += 1

    def snapshot(self) -> dict[str, dict[str, int]]:
        return {"tx": dict(self.tx), "rx": dict(self.rx)}


class VirtualController(Controller):
    """bumble's controller; a cancelled connection ends in an event, and a radio may fall silent."""

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_Command
    ) -> hci.HCI_StatusReturnParameters:
        # Core 5.4, vol. 4, part E, 7.8.13: a cancelled LE Create Connection still ends in a Connection
        # Complete event.
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.send_hci_packet(
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                connection_handle=0,
                role=0,
                peer_address_type=pending.peer_address.address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            )
        )
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def silence(self, peer: Address) -> None:
        """The supervision time-out that a host sees when the other radio has lost its power."""
        for address, connection in list(self.le_connections.items()):
            if address == peer:
                self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)


def make_host(link: LocalLink, name: str, address: str, acl: int) -> tuple[Host, VirtualController]:
    """A host on a virtual controller. acl: bytes in one link-layer packet, 251 with data-length extension, 27
    without."""
    controller = VirtualController(name, link=link, public_address=None)
    controller.random_address = Address(address)
    controller.le_acl_data_packet_length = controller.acl_data_packet_length = acl
    controller.total_num_le_acl_data_packets = 8
    host = Host(controller, AsyncPipeSink(controller))
    host.snooper = Meter()
    return host, controller


class VirtualPeripheral:
    """A connectable device with the serial service, bridged to a board's TCP port. chaos: faults of its
    values in the air."""

    def __init__(
        self, link: LocalLink, what: Peripheral, acl: int, interval_ms: int = 20, chaos: Chaos | None = None
    ):
        self.what = what
        self.host, self.controller = make_host(link, what.name, what.address, acl)
        self.device = Device(
            config=DeviceConfiguration(
                name=what.name,
                address=Address(what.address),
                advertising_interval_min=interval_ms,
                advertising_interval_max=interval_ms,
                gap_service_enabled=True,
            ),
            host=self.host,
        )
        self.device.gatt_server.max_mtu = what.mtu
        self.connection: Connection | None = None
        self.drop_writes = 0  # so many values from the central are lost, as under load
        properties = Characteristic.Properties
        self._tx = Characteristic(TX, properties.NOTIFY, Characteristic.READABLE)
        rx = Characteristic(
            RX,
            properties.WRITE | properties.WRITE_WITHOUT_RESPONSE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=self._on_write),
        )
        self.device.add_service(Service(SERVICE, [rx, self._tx]))
        if what.battery is not None:
            level = Characteristic(
                BATTERY_LEVEL, properties.READ, Characteristic.READABLE, bytes([what.battery])
            )
            self.device.add_service(Service(BATTERY_SERVICE, [level]))
        fields = [(AdvertisingData.FLAGS, b"\x06"), (AdvertisingData.COMPLETE_LOCAL_NAME, what.name.encode())]
        uuid = (AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, bytes(UUID(SERVICE)))
        # The virtual controller reports what is advertised as a scan response as well: everything goes into
        # one packet.
        self.device.advertising_data = bytes(AdvertisingData([*fields, uuid]))
        self.device.scan_response_data = bytes(AdvertisingData(fields[1:]))
        self.device.on("connection", self._on_connection)
        self._writer: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task | None = None
        self.air: FaultyAir | None = None
        if chaos is not None and chaos.faults(what.name):
            self.air = FaultyAir(
                what.name,
                chaos,
                size=self._size,
                to_board=self._to_board,
                to_host=self._notify,
                hang_up=self.drop,
            )

    async def start(self) -> None:
        await self.device.power_on()
        self._pump = asyncio.create_task(self._keep_board())
        await self.device.start_advertising(auto_restart=True)

    def _on_connection(self, connection: Connection) -> None:
        self.connection = connection
        if self.air is not None:
            self.air.connected()
        connection.on("disconnection", self._on_disconnection)
        connection.on(
            "connection_att_mtu_update", lambda: self._record(MTU, struct.pack("<H", connection.att_mtu))
        )
        self._record(CONNECTED, struct.pack("<H", connection.att_mtu))

    def _on_disconnection(self, *_reason: int) -> None:
        self.connection = None
        if self.air is not None:
            self.air.disconnected()
        self._record(DISCONNECTED, b"")

    def _on_write(self, _connection: Connection, value: bytes) -> None:
        if self.drop_writes > 0:
            self.drop_writes -= 1
        elif self.air is not None:
            self.air.down(value)
        else:
            self._to_board(value)

    def _size(self) -> int:
        """Bytes in a value."""
        return (23 if self.connection is None else self.connection.att_mtu) - 3

    def _to_board(self, value: bytes) -> None:
        if self.what.mode == "radio":
            self._record(VALUE, value)
        elif self._writer is not None:
            self._writer.write(value)

    def _record(self, kind: int, body: bytes) -> None:
        if self.what.mode == "radio" and self._writer is not None:
            self._writer.write(struct.pack("<BH", kind, len(body)) + body)

    async def silence(self, seconds: float = 0.3) -> None:
        """Out of reach without a word, and back after a while: both ends see a supervision time-out."""
        link = self.controller.link
        link.remove_controller(self.controller)
        for other in list(link.controllers):
            other.silence(self.device.random_address)
            self.controller.silence(other.random_address)
        await asyncio.sleep(seconds)
        link.add_controller(self.controller)

    async def drop(self) -> None:
        """The board ends the connection."""
        if self.connection is not None:
            await self.connection.disconnect()

    async def _keep_board(self) -> None:
        """Carry values from the board as long as it lives; a board that was reset is connected to again."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, self._writer = await asyncio.open_connection(self.what.host, self.what.port)
                if self.connection is not None:
                    self._record(CONNECTED, struct.pack("<H", self.connection.att_mtu))
                await (self._from_radio(reader) if self.what.mode == "radio" else self._from_uart(reader))
            self._writer = None
            await self.drop()  # a board that was reset has lost its connection
            await asyncio.sleep(0.1)

    async def _from_radio(self, reader: asyncio.StreamReader) -> None:
        while True:
            kind, length = struct.unpack("<BH", await reader.readexactly(3))
            body = await reader.readexactly(length)
            if kind == VALUE:
                await self._up(body)

    async def _from_uart(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(4096):
            at = 0
            while at < len(data) and self.connection is not None:
                size = self._size()
                await self._up(data[at : at + size])
                at += size

    async def _up(self, value: bytes) -> None:
        await (self._notify(value) if self.air is None else self.air.up(value))

    async def _notify(self, value: bytes) -> None:
        connection = self.connection
        if connection is None:
            return
        await self.device.notify_subscriber(connection, self._tx, value)
        while self.host.le_acl_packet_queue is not None and self.host.le_acl_packet_queue.pending > _QUEUE:
            await asyncio.sleep(0)
