"""A virtual controller's HCI (H4) on a TCP port of this machine, with virtual boards in its reach: for a real
Bluetooth host.

    python -m quantfl_lab.ble.hci --port 0 --device NAME,ADDRESS,HOST:PORT[,mode=radio] …

Prints the port. `make test-bluez` gives it to the kernel and bluetoothd of a guest machine. For every line of
its input it prints, as JSON, what has passed so far: `central`, from the kernel, and `boards` by address
(quantfl_lab.ble.radio.Meter).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import socket
import sys

from bumble import hci
from bumble.link import LocalLink
from bumble.snoop import Snooper
from bumble.transport import open_transport

from quantfl_lab.ble.radio import Meter, Peripheral, VirtualController, VirtualPeripheral

ADDRESS = "F0:F1:F2:F3:F4:F5"
INTERVAL_MS = 100  # between advertisements: each is work for an emulated kernel
_ENHANCED = 1 << 9  # in the LE event mask: LE Enhanced Connection Complete


class KernelController(VirtualController):
    """A controller for a kernel, always seen under its public address. A kernel changes its random address
    for every scan, also while it is connected; bumble's link looks connections up by the random address of
    the moment. meter: what the kernel has sent."""

    def __init__(self, *args, **kwargs):
        self.meter = Meter()
        super().__init__(*args, **kwargs)

    def on_packet(self, packet: bytes) -> None:
        self.meter.snoop(packet, Snooper.Direction.HOST_TO_CONTROLLER)
        super().on_packet(packet)

    @property
    def random_address(self) -> hci.Address:
        return self._public_address

    @random_address.setter
    def random_address(self, _address: hci.Address) -> None:
        pass

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        # Core 5.4, vol. 4, part E, 7.7.65.10: where the enhanced event is unmasked it takes the other's
        # place. On a controller with link-layer privacy or extended advertising Linux waits for it alone:
        # after 4 s it gives up a connection that is in use.
        if isinstance(packet, hci.HCI_LE_Connection_Complete_Event) and self.le_event_mask & _ENHANCED:
            fields = {f.name: getattr(packet, f.name) for f in dataclasses.fields(packet)}
            packet = hci.HCI_LE_Enhanced_Connection_Complete_Event(
                **fields,
                local_resolvable_private_address=hci.Address.ANY,
                peer_resolvable_private_address=hci.Address.ANY,
            )
        super().send_hci_packet(packet)


async def _serve(port: int, devices: list[Peripheral], acl: int) -> None:
    link = LocalLink()
    if port == 0:
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
    transport = await open_transport(f"tcp-server:127.0.0.1:{port}")
    controller = KernelController(
        "hci", host_source=transport.source, host_sink=transport.sink, link=link, public_address=ADDRESS
    )
    controller.le_acl_data_packet_length = acl
    boards = {what.address: VirtualPeripheral(link, what, acl, INTERVAL_MS) for what in devices}
    for board in boards.values():
        await board.start()
    print(port, flush=True)
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    while await asked.readline():
        meters = {address: board.host.snooper.snapshot() for address, board in boards.items()}
        print(json.dumps({"central": controller.meter.snapshot(), "boards": meters}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="HCI of a virtual controller on TCP")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    parser.add_argument(
        "--device", action="append", default=[], type=Peripheral.parse, metavar="NAME,ADDRESS,HOST:PORT"
    )
    parser.add_argument("--acl", type=int, default=251, help="bytes per link-layer packet")
    a = parser.parse_args()
    asyncio.run(_serve(a.port, a.device, a.acl))


if __name__ == "__main__":
    main()
