"""The boards quantfl knows, for the fit check. RAM and flash as the parts have them (docs/BOARDS.md)."""

from __future__ import annotations

from dataclasses import dataclass

ERASE_UNIT = 4096


@dataclass(frozen=True)
class Board:
    """ram, flash: bytes of the part. arena: largest block for quantfl after stack, vendor stack and port, bytes.
    store: bytes of flash set aside for two packages, the log of rounds and keys; core: processor."""

    name: str
    core: str
    ram: int
    flash: int
    arena: int
    store: int

    @property
    def slot(self) -> int:
        """Bytes of one of the two places for a package: an eighth of the store holds the log of rounds, two units the keys."""
        return (self.store // 8 * 7 - 2 * ERASE_UNIT) // 2 - ERASE_UNIT


def _b(name: str, core: str, ram_k: int, flash_k: int, arena_k: int, store_k: int) -> Board:
    return Board(name, core, ram_k << 10, flash_k << 10, arena_k << 10, store_k << 10)


#: arena and store of real boards are design values (what their vendor's stacks are documented to leave), those of the
#: emulated boards are what their ports offer.
BOARDS = (
    _b("native", "host", 256, 1024, 256, 1024),
    Board("qemu_m0", "Cortex-M0", 16 << 10, 256 << 10, 13_136, 128 << 10),
    _b("qemu_m4", "Cortex-M4F", 256, 4096, 245, 1024),
    _b("standard_m4", "Cortex-M4F", 256, 4096, 245, 1024),
    _b("qemu_rv32imc", "RV32IMC", 400, 4096, 391, 1024),
    _b("esp32dev", "Xtensa LX6", 320, 4096, 110, 1024),
    _b("esp32-s3-devkitc-1", "Xtensa LX7", 320, 8192, 160, 2048),
    _b("esp32-c3-devkitm-1", "RV32IMC", 320, 4096, 120, 1024),
    _b("adafruit_feather_nrf52840", "Cortex-M4F", 243, 796, 160, 384),
    _b("nano33ble", "Cortex-M4F", 256, 960, 160, 384),
    _b("nucleo_f446re", "Cortex-M4F", 128, 512, 96, 256),
    _b("nucleo_l476rg", "Cortex-M4F", 96, 1024, 72, 512),
    _b("nucleo_h743zi", "Cortex-M7", 512, 2048, 384, 768),
    _b("nucleo_wb55rg_p", "Cortex-M4F", 192, 512, 96, 256),
    _b("pico", "Cortex-M0+", 256, 2048, 192, 1024),
    _b("teensy41", "Cortex-M7", 512, 7936, 384, 2048),
)
