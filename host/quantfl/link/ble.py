"""`ble://NAME-or-ADDRESS`: a board's Nordic-UART-like service through bleak, as a byte stream (docs/BLE.md).

Bytes to the board are writes without response, bytes from it notifications, each at most the negotiated MTU
less 3. Either may be lost; the session above acknowledges. Boards take turns at the adapter (ble_turns.py).
bleak is imported when a BLE port is first opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from quantfl.errors import LinkError, ToolError, UsageError
from quantfl.link.ble_model import PACKET, layers
from quantfl.link.ble_turns import GRACE_S, QUIET_S, SETTLE_S, Turns
from quantfl.link.transport import Transport

if TYPE_CHECKING:
    from bleak import BleakClient
    from bleak.backends.characteristic import BleakGATTCharacteristic
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

SERVICE = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
RX = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"  # host to board: write without response
TX = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"  # board to host: notify
BATTERY_SERVICE = "0000180f-0000-1000-8000-00805f9b34fb"
BATTERY_LEVEL = "00002a19-0000-1000-8000-00805f9b34fb"
FIND_S = 5.0  # for an advertisement
CONNECT_S = 10.0  # for one attempt to connect and read the services
# for the board to take the subscription: the operating system alone would wait 30 s (ATT's transaction
# time-out)
NOTIFY_S = 5.0
OPEN_S = 20.0  # for one attempt to open, notifications included
ATTEMPTS = 3  # to connect to a board that does not simply fail to answer


def _bleak() -> ModuleType:
    try:
        import bleak
    except ImportError:
        raise ToolError("BLE needs bleak: pip install 'quantfl[ble]'") from None
    return bleak


def reason(error: BaseException) -> str:
    """One line for whatever bleak, its backend or the bus below it raised."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if name == "BleakDeviceNotFoundError":
        return "it has stopped advertising"
    if name == "BleakBluetoothNotAvailableError" or isinstance(
        error, FileNotFoundError | ConnectionRefusedError
    ):
        return (
            f"Bluetooth is not available here ({text or name}); is there an adapter, switched on, and is "
            "its service running?"
        )
    return text.removeprefix("[org.bluez.Error.Failed] ") or name


async def value_size(characteristic: BleakGATTCharacteristic) -> int:
    """Bytes in a write without response. bluetoothd (5.66) signals no MTU of a characteristic that it knew
    before it connected, for example because another process had used the board: bleak then says 20, so the
    property is asked for."""
    size = characteristic.max_write_without_response_size
    if size > 20 or sys.platform != "linux":
        return size
    from dbus_fast import BusType, Message
    from dbus_fast.aio import MessageBus

    path, body = characteristic.obj[0], ["org.bluez.GattCharacteristic1", "MTU"]
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        reply = await bus.call(
            Message(
                destination="org.bluez",
                path=path,
                interface="org.freedesktop.DBus.Properties",
                member="Get",
                signature="ss",
                body=body,
            )
        )
    finally:
        bus.disconnect()
    return max(size, reply.body[0].value - 3) if reply.signature == "v" else size


class Adapter:
    """What the BLE links of one event loop share: turns, one scan for all, one connection attempt at a
    time."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Adapter]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.turns = Turns()
        self.packet = PACKET
        self.connecting = asyncio.Lock()
        self.signals: dict[str, int] = {}  # address -> dBm as last advertised
        self._wanted: dict[asyncio.Future[BLEDevice], str] = {}
        self._scan: asyncio.Task[None] | None = None

    @classmethod
    def current(cls) -> Adapter:
        """The running loop's."""
        return cls._of_loop.setdefault(asyncio.get_running_loop(), cls())

    async def find(self, target: str, timeout: float) -> BLEDevice:
        """The BLEDevice that advertises this name or address. LinkError when none does within `timeout` s."""
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()
        self._wanted[found] = target
        if self._scan is None or self._scan.done():
            self._scan = asyncio.create_task(self._scan_for_all())
        try:
            return await asyncio.wait_for(found, timeout)
        except TimeoutError:
            raise LinkError(
                f"no BLE board {target} advertises here ({timeout:g} s of scanning): is it powered, near, "
                "and not connected elsewhere?"
            ) from None
        finally:
            self._wanted.pop(found, None)

    async def _scan_for_all(self) -> None:
        def match(device: BLEDevice, *names: str | None) -> None:
            for future, target in self._wanted.items():
                if not future.done() and (target in names or target.upper() == device.address.upper()):
                    future.set_result(device)

        def seen(device: BLEDevice, advertisement: AdvertisementData) -> None:
            self.signals[device.address] = advertisement.rssi
            match(device, advertisement.local_name, device.name)

        try:
            bleak = _bleak()
            with contextlib.suppress(NotImplementedError):
                # A process that died may have left a board connected: such a board does not advertise.
                for device in await (await bleak.BleakAdapter.get()).get_connected_devices([SERVICE]):
                    match(device, device.name)
            async with bleak.BleakScanner(seen):
                while self._wanted:
                    await asyncio.sleep(0.02)
        except Exception as error:  # bleak lets errors of its backend through: D-Bus, sockets, assertions
            for future in self._wanted:
                if not future.done():
                    future.set_exception(
                        error
                        if isinstance(error, ToolError)
                        else LinkError(f"cannot scan for BLE boards: {reason(error)}")
                    )


def configure(connections: int, packet: int = PACKET) -> None:
    """For the running loop. connections: the adapter's limit. packet: link-layer payload that `carried`
    computes with."""
    adapter = Adapter.current()
    adapter.turns.connections, adapter.packet = connections, packet


class BleTransport(Transport):
    """A link to the board that advertises under a name or an address (on macOS: CoreBluetooth's UUID)."""

    find_s = FIND_S + CONNECT_S  # one attempt at its last address, and one look for it

    def __init__(self, url: str):
        self.url, self.target = url, unquote(url.removeprefix("ble://"))
        if not self.target:
            raise UsageError(
                f"{url}: name a board by its advertised name or its address, e.g. ble://quantfl-01"
            )
        self.sent: Counter[int] = Counter()  # bytes of a value -> values written
        self.received: Counter[int] = Counter()  # -> values notified
        self.connections = 0
        self.yields = 0
        self._requests = 0  # requests under way
        self._done = False  # the owner wants nothing more for now
        self._opening = False
        self._preempted = False
        self._moved = 0.0
        self._adapter: Adapter | None = None
        self._device: BLEDevice | None = None
        self._client: BleakClient | None = None
        self._lost: Callable[[str], None] | None = None
        self.queues = True
        self._out = bytearray()
        self._writing = 0  # bytes of the value that is being written
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None  # disconnects what has failed

    @property
    def _shared(self) -> Adapter:
        """The adapter, which `acquire_turn` has found."""
        assert self._adapter is not None
        return self._adapter

    @property
    def open_s(self) -> float | None:
        """Connecting and reading services takes seconds on a real radio."""
        return OPEN_S

    @property
    def preempted(self) -> bool:
        return self._preempted

    async def acquire_turn(self, timeout: float) -> float:
        """Wait for a place at the adapter, at most `timeout` s; returns how long. LinkError when the board
        does not advertise."""
        adapter = self._adapter = Adapter.current()
        if self._closing is not None:  # bluetoothd refuses notifications on a connection that is ending
            await asyncio.shield(self._closing)
        if self._device is None:
            self._device = await adapter.find(self.target, min(timeout, FIND_S))
        started = asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(adapter.turns.take(self), timeout)
        except TimeoutError:
            raise LinkError(
                f"{self.url}: no place at the BLE adapter within {timeout:g} s; "
                f"{adapter.turns.connections} boards "
                "are connected (fleet.ble_connections)"
            ) from None
        self._moved = asyncio.get_running_loop().time()
        return self._moved - started

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        await self.acquire_turn(FIND_S)
        self._out.clear()  # of an earlier connection
        self._writing = 0
        self._opening = True
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    client, rx = await self._connect(on_bytes)
                    break
                except LinkError:
                    raise
                except (
                    Exception
                ) as error:  # bleak lets errors of its backend through: D-Bus, sockets, assertions
                    # Over the air a connection often fails to come about, or breaks at once, and comes about
                    # the next time.
                    if attempt == ATTEMPTS or isinstance(error, TimeoutError):
                        raise LinkError(f"cannot connect to {self.url}: {reason(error)}") from None
                    await asyncio.sleep(0.2 * attempt)
        except BaseException:
            self._device = None  # looked for anew next time: it may have another address, or be gone
            self._shared.turns.give_back(self)
            raise
        finally:
            self._opening = False
        self._client, self._lost, self._preempted = client, on_lost, False
        self.connections += 1
        self._moved = asyncio.get_running_loop().time()
        self._writer = asyncio.create_task(self._write_all(client, rx))
        if not client.is_connected:
            self._fail("the board ended the connection")

    async def _connect(
        self, on_bytes: Callable[[bytes], None]
    ) -> tuple[BleakClient, BleakGATTCharacteristic]:
        """One attempt: the connected client and the characteristic to write to."""
        client = _bleak().BleakClient(
            self._device, disconnected_callback=self._on_disconnected, timeout=CONNECT_S
        )
        try:
            async with self._shared.connecting:
                await client.connect()
            rx, tx = (client.services.get_characteristic(u) for u in (RX, TX))
            if rx is None or tx is None:
                raise LinkError(f"{self.url} has no quantfl serial service ({SERVICE})")
            async with asyncio.timeout(NOTIFY_S):
                await client.start_notify(tx, lambda _source, value: self._on_value(bytes(value), on_bytes))
        except BaseException:
            await self._disconnect(client)
            raise
        return client, rx

    async def _give_up(self, client: BleakClient) -> None:
        await self._disconnect(client)
        self._shared.turns.give_back(self)

    def _on_value(self, value: bytes, on_bytes: Callable[[bytes], None]) -> None:
        self.received[len(value)] += 1
        self._moved = asyncio.get_running_loop().time()
        on_bytes(value)

    @property
    def unsent(self) -> int:
        return len(self._out) + self._writing

    def write(self, data: bytes) -> None:
        self._out += data
        self._wake.set()

    async def _write_all(self, client: BleakClient, characteristic: BleakGATTCharacteristic) -> None:
        try:
            least = await value_size(characteristic)
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._out:
                    value = bytes(self._out[: max(least, characteristic.max_write_without_response_size)])
                    del self._out[: len(value)]
                    self._writing = len(value)
                    await client.write_gatt_char(characteristic, value, response=False)
                    self._writing = 0
                    self.sent[len(value)] += 1
                    self._moved = asyncio.get_running_loop().time()
        except Exception as error:  # as above
            self._fail(reason(error))

    def _on_disconnected(self, client: BleakClient) -> None:
        if client is self._client:
            self._fail("the board ended the connection, or is out of reach")

    def _fail(self, why: str) -> None:
        lost, self._lost = self._lost, None
        client, self._client = self._client, None
        self._stop_writing()
        if client is not None and client.is_connected:
            self._closing = asyncio.create_task(self._give_up(client))
        elif client is not None:
            self._shared.turns.give_back(self)
        if lost is not None:
            lost(why)

    def _stop_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and writer is not asyncio.current_task():
            writer.cancel()

    @staticmethod
    async def _disconnect(client: BleakClient) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CONNECT_S):
                await client.disconnect()

    def request_begins(self) -> None:
        self._requests += 1
        self._done = False

    def request_ends(self) -> None:
        self._requests -= 1
        self._done = False

    def release_turn(self) -> None:
        """Nothing more is wanted for now: the place may go to another board at once."""
        self._done, self.yields = True, 0

    def willing(self) -> bool:
        if self._opening or self._out:
            return False
        quiet = asyncio.get_running_loop().time() - self._moved
        return quiet >= (QUIET_S if self._requests else SETTLE_S if self._done else GRACE_S)

    async def end_turn(self) -> None:
        if self._requests:
            self.yields += 1
        client, self._client = self._client, None
        lost, self._lost = self._lost, None
        self._stop_writing()
        self._preempted = lost is not None
        if lost is not None:
            lost("another board has its turn at the BLE adapter")
        if client is not None:
            await self._disconnect(client)

    async def close(self) -> None:
        client, self._client = self._client, None
        self._lost = None
        self._stop_writing()
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if client is not None:
            await self._disconnect(client)
        if self._adapter is not None:
            self._adapter.turns.give_back(self)

    async def battery(self) -> int | None:
        """Charge in per cent, where the board has the standard battery service and is connected."""
        client = self._client
        if client is None or client.services.get_characteristic(BATTERY_LEVEL) is None:
            return None
        try:
            value = await client.read_gatt_char(BATTERY_LEVEL)
        except Exception:  # as above; a battery that cannot be read is not known
            return None
        return value[0] if len(value) == 1 and value[0] <= 100 else None

    async def describe(self) -> dict[str, str | int | None]:
        """What `quantfl devices` shows besides INFO: address, signal as last advertised in dBm, battery
        where known."""
        if self._device is None:
            return {}
        address = self._device.address
        found: dict[str, str | int | None] = {
            "address": address,
            "signal_dbm": self._shared.signals.get(address),
        }
        level = await self.battery()
        return found if level is None else found | {"battery_percent": level}

    def carried(self) -> dict[tuple[str, str], tuple[int, bool]]:
        """(direction, layer) -> bytes since the beginning, and whether they are modelled
        (quantfl.link.ble_model)."""
        packet = self._adapter.packet if self._adapter is not None else PACKET
        out: dict[tuple[str, str], tuple[int, bool]] = {}
        for direction, lengths in (("down", self.sent), ("up", self.received)):
            found = layers(lengths, packet)
            out |= {
                (direction, "att"): (found.att, False),
                (direction, "l2cap"): (found.l2cap, True),
                (direction, "air"): (found.air, True),
            }
        return out


@dataclass(frozen=True)
class Advertiser:
    """A BLE device with the serial service. rssi: dBm."""

    url: str
    name: str | None
    address: str
    rssi: int
    battery: int | None


async def scan(timeout: float) -> list[Advertiser]:
    """Boards that advertise the serial service, strongest first. LinkError or ToolError when there is no
    Bluetooth."""
    try:
        found = await _bleak().BleakScanner.discover(timeout=timeout, return_adv=True)
    except ToolError:
        raise
    except Exception as error:  # as above
        raise LinkError(f"cannot scan for BLE boards: {reason(error)}") from None
    boards = []
    for device, advertisement in found.values():
        if SERVICE in (u.lower() for u in advertisement.service_uuids):
            name = advertisement.local_name or device.name
            level = advertisement.service_data.get(BATTERY_SERVICE)
            boards.append(
                Advertiser(
                    f"ble://{device.address}",
                    name,
                    device.address,
                    advertisement.rssi,
                    level[0] if level and level[0] <= 100 else None,
                )
            )
    return sorted(boards, key=lambda b: (-b.rssi, b.address))
