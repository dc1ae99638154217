"""What lies below the values of a BLE link: ATT is counted, L2CAP and the air are computed from lengths.

An operating system shows an application values only. Each goes in one ATT packet (Core 5.4, vol. 3, part F,
3.4.5.3 and
3.4.7.1: opcode and handle, 3 bytes), that in one L2CAP frame (part A, 3.1: 4 bytes), and that in link-layer
packets of at most 27 bytes, or 251 with data-length extension (vol. 6, part B, 2.4). On the air each of those
has preamble 1, access address 4, header 2 and CRC 3 (LE 1M; LE 2M has one byte more). Left out, because they
depend on time and not on bytes: empty packets of connection events, and retransmissions of the link layer.
tests/ble compares the model with a controller's own count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

ATT, L2CAP, AIR, HCI = 3, 4, 10, 4
PACKET, PACKET_SHORT = 251, 27  # payload of a link-layer packet with and without data-length extension


@dataclass(frozen=True)
class Layers:
    """Bytes one way. att: counted. l2cap: that and its header. packets: link-layer packets; air: bytes they
    take on the air."""

    values: int
    att: int
    l2cap: int
    packets: int
    air: int

    @property
    def hci(self) -> int:
        """Bytes of the ACL packets between host and controller, with handle and length, without a transport's
        type byte."""
        return self.l2cap + HCI * self.packets


def layers(lengths: Counter[int], packet: int = PACKET) -> Layers:
    """Layers of values: lengths maps the bytes of a value to how many there were; packet: 251 or 27."""
    count = sum(lengths.values())
    values = sum(n * k for n, k in lengths.items())
    packets = sum(-(-(n + ATT + L2CAP) // packet) * k for n, k in lengths.items())
    l2cap = values + (ATT + L2CAP) * count
    return Layers(values, values + ATT * count, l2cap, packets, l2cap + AIR * packets)
