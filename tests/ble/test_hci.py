"""The virtual controller as a kernel sees it: which event ends a connection attempt (Core 5.4, vol. 4, part
E, 7.7.65.1 and .10)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

hci = pytest.importorskip("bumble.hci", reason="bumble is not installed (pip install 'quantfl-lab[ble]')")

COMPLETE, ENHANCED = 0x01, 0x0A


@pytest.mark.parametrize(("mask", "subevent"), [(0x1F, COMPLETE), (0x3FF, ENHANCED)])
def test_a_connection_and_a_cancelled_one_end_in_the_unmasked_event_and_in_no_other(mask, subevent):
    from bumble.link import LocalLink

    from quantfl_lab.ble.hci import ADDRESS, KernelController
    from quantfl_lab.ble.radio import Peripheral, VirtualPeripheral

    there, absent = hci.Address("C4:00:00:00:00:01"), hci.Address("C4:00:00:00:00:02")
    seen: list[tuple[int, int]] = []

    def on_packet(packet: bytes) -> None:
        if packet[:2] == b"\x04\x3e" and packet[3] in (
            COMPLETE,
            ENHANCED,
        ):  # an LE meta event: subevent, status
            seen.append((packet[3], packet[4]))

    def create(peer: hci.Address) -> bytes:
        return bytes(
            hci.HCI_LE_Create_Connection_Command(
                le_scan_interval=96,
                le_scan_window=96,
                initiator_filter_policy=0,
                peer_address_type=1,
                peer_address=peer,
                own_address_type=0,
                connection_interval_min=24,
                connection_interval_max=40,
                max_latency=0,
                supervision_timeout=42,
                min_ce_length=0,
                max_ce_length=0,
            )
        )

    async def until(count: int) -> None:
        async with asyncio.timeout(5):
            while len(seen) < count:
                await asyncio.sleep(0.005)

    async def go() -> None:
        link = LocalLink()
        controller = KernelController(
            "hci", host_sink=SimpleNamespace(on_packet=on_packet), link=link, public_address=ADDRESS
        )
        controller.on_packet(
            bytes(hci.HCI_LE_Set_Event_Mask_Command(le_event_mask=mask.to_bytes(8, "little")))
        )
        await VirtualPeripheral(link, Peripheral("b", str(there), "127.0.0.1", 1), 251).start()
        controller.on_packet(create(there))
        await until(1)
        controller.on_packet(create(absent))
        controller.on_packet(bytes(hci.HCI_LE_Create_Connection_Cancel_Command()))
        await until(2)
        await asyncio.sleep(0.05)

    asyncio.run(go())
    assert seen == [(subevent, 0), (subevent, hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR)]
