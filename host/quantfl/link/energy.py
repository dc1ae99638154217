"""Energy of bytes on a link, from published figures per payload bit; estimates, for comparing schemes on one
radio.

Each figure: where it is from. All are of radio or transceiver and the CPU that serves it, at one end, either
direction alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Radio:
    """nj_per_bit: nanojoules per bit moved. source: what the figure is computed from."""

    nj_per_bit: float
    source: str


RADIOS = {
    "ble": Radio(
        18.0,
        "nRF52840, BLE 2M PHY with 251-byte packets: 4.8 mA at 3 V transmitting (product specification "
        "1.7), plus CPU",
    ),
    "wifi": Radio(
        60.0,
        "ESP32 at 10 Mb/s, about 200 mA at 3.3 V while active (datasheet 4.x); association, 0.4 J each, "
        "left out",
    ),
    "lora-sf7": Radio(
        30_000.0, "SX1276 at 14 dBm, 44 mA at 3.3 V, 5.47 kb/s at SF7 and 125 kHz (datasheet rev. 7)"
    ),
    "lora-sf12": Radio(
        1_000_000.0,
        "SX1276 at 14 dBm, 44 mA at 3.3 V, 0.25 kb/s at SF12 with its preamble (datasheet rev. 7)",
    ),
    "uart-115200": Radio(180.0, "a Cortex-M4 awake at 5 mA and 3.3 V for the time of 10 line bits per byte"),
    "uart-921600": Radio(22.0, "a Cortex-M4 awake at 5 mA and 3.3 V for the time of 10 line bits per byte"),
}


def radio_of(url: str, otherwise: str) -> str:
    """What a port's bytes go over; emulated boards and sockets have no radio of their own: `otherwise`."""
    if url.startswith("ble://"):
        return "ble"
    return otherwise if url.startswith(("inproc://", "socket://", "rfc2217://", "loop://")) else "uart-921600"


def joules(count: float, radio: str, nj_per_bit: float | None = None) -> float:
    """Energy in joules of `count` bytes at one end of a link. nj_per_bit: a figure of one's own."""
    return 8e-9 * count * (RADIOS[radio].nj_per_bit if nj_per_bit is None else nj_per_bit)
