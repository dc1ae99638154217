"""Bytes of flash that the firmwares built here take: those of their loaded segments, no package included."""

from __future__ import annotations

import struct
from pathlib import Path

from quantfl.emulation.base import firmware
from quantfl.errors import ToolError

#: Environments of platformio.ini: everything, the standard set, what models/digits needs; then other cores
#: with everything.
BUILDS = (
    "qemu_m4",
    "standard_m4",
    "digits_m4",
    "qemu_m0",
    "qemu_m3",
    "qemu_m7",
    "qemu_m33",
    "qemu_m55",
    "qemu_rv32imc",
)


def flash_bytes(elf: Path) -> int:
    """Bytes of a 32-bit little-endian ELF's loaded segments, as they lie in flash."""
    data = elf.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01":
        raise ToolError(f"{elf} is no 32-bit little-endian ELF file; build it again")
    (table,), (entry, count) = struct.unpack_from("<I", data, 28), struct.unpack_from("<2H", data, 42)
    segments = (struct.unpack_from("<5I", data, table + i * entry) for i in range(count))
    return sum(size for kind, _, _, _, size in segments if kind == 1)


def built() -> dict[str, int]:
    """Bytes of flash of every firmware that is built here, by its environment."""
    found = {}
    for build in BUILDS:
        try:
            found[build] = flash_bytes(firmware(build, "firmware.elf"))
        except ToolError:
            continue
    return found
