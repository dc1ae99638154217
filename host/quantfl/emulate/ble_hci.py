"""A virtual controller's HCI (H4) on a TCP port of this machine, with virtual boards in its reach: for a real Bluetooth host.

    python -m quantfl.emulate.ble_hci --port 0 --device NAME,ADDRESS,HOST:PORT[,mode=radio] …

Prints the port. `make test-bluez` gives it to the kernel and bluetoothd of a guest machine.
"""

from __future__ import annotations

import argparse
import asyncio
import socket

from bumble import hci
from bumble.link import LocalLink
from bumble.transport import open_transport

from quantfl.emulate.ble_radio import Peripheral, VirtualController, VirtualPeripheral

ADDRESS = "F0:F1:F2:F3:F4:F5"


class PublicController(VirtualController):
    """A controller that is always seen under its public address. A kernel changes its random address for every scan, also while
    it is connected; bumble's link looks connections up by the random address of the moment."""

    @property
    def random_address(self) -> hci.Address:
        return self._public_address

    @random_address.setter
    def random_address(self, _address: hci.Address) -> None:
        pass


async def _serve(port: int, devices: list[Peripheral], acl: int) -> None:
    link = LocalLink()
    if port == 0:
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
    transport = await open_transport(f"tcp-server:127.0.0.1:{port}")
    controller = PublicController("hci", host_source=transport.source, host_sink=transport.sink, link=link, public_address=ADDRESS)
    controller.le_acl_data_packet_length = acl
    for what in devices:
        await VirtualPeripheral(link, what, acl).start()
    print(port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="HCI of a virtual controller on TCP")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    parser.add_argument("--device", action="append", default=[], type=Peripheral.parse, metavar="NAME,ADDRESS,HOST:PORT")
    parser.add_argument("--acl", type=int, default=251, help="bytes per link-layer packet")
    a = parser.parse_args()
    asyncio.run(_serve(a.port, a.device, a.acl))


if __name__ == "__main__":
    main()
