"""The boards quantfl knows, for the fit check: RAM, flash, and what a firmware on them has and leaves
(docs/BOARDS.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantfl.core import ffi, lib

#: Masks of a firmware from which nothing has been left out (qfl_options.h).
ALL_OPERATORS, ALL_KINDS = 0xFFFFFFFF, 0x7E
_K = 1 << 10


@dataclass(frozen=True)
class Board:
    """ram, flash: bytes of the part. arena: the block of RAM that is quantfl's beside stack, vendor's stack
    and port, bytes, 16-byte aligned. stack: bytes of stack of its firmware, None: the vendor's. core:
    processor; pointer: bytes of a pointer on it.

    store: bytes of flash set aside for two packages, the log of rounds and keys; log: of these for the log;
    erase, unit: bytes erased and programmed at once. operators, kinds: QFL_NN_OPS and QFL_HEAD_KINDS of its
    build. emulated: `quantfl emulate` boots it, and it is held against this table; of the others arena, store
    and log are design values.
    """

    name: str
    core: str
    ram: int
    flash: int
    arena: int
    store: int
    log: int
    erase: int = 4096
    unit: int = 4
    stack: int | None = None
    pointer: int = 4
    operators: int = ALL_OPERATORS
    kinds: int = ALL_KINDS
    emulated: bool = False

    @property
    def slot(self) -> int:
        """Bytes of the longest package that the store takes, computed by the code that divides it on the
        board; 0: none."""
        info = ffi.new(
            "qfl_flash_info *",
            {
                "size": self.store,
                "erase_unit": self.erase,
                "program_unit": self.unit,
                "log_size": self.log,
                "erased": 0xFF,
            },
        )
        return int(lib.qfl_store_room(info))


def _emulated(
    name: str, core: str, arena: int, *, ram: int = 256 * _K, flash: int = 4096 * _K, **more: Any
) -> Board:
    return Board(
        name,
        core,
        ram,
        flash,
        arena,
        **{"store": 1024 * _K, "log": 128 * _K, "stack": 4096, "emulated": True} | more,
    )


def _real(
    name: str, core: str, ram: int, flash: int, arena: int, store: int, log: int, erase: int, unit: int
) -> Board:
    """ram, flash, arena, store, log: in KiB."""
    return Board(name, core, ram * _K, flash * _K, arena * _K, store * _K, log * _K, erase, unit)


#: The arena of an emulated board is what the linker leaves between the port's variables and the stack. Erase
#: and program units of the others are those of the parts; a NUCLEO-F446RE, whose units are 128 KiB, has room
#: for neither a log nor keys.
BOARDS = (
    _emulated("native", "host", 256 * _K, flash=1024 * _K, stack=None, pointer=8),
    _emulated(
        "qemu_m0",
        "Cortex-M0",
        13_136,
        ram=16 * _K,
        flash=256 * _K,
        store=128 * _K,
        log=16 * _K,
        erase=1024,
        stack=2640,
    ),
    _emulated("qemu_m3", "Cortex-M3", 251_792),
    _emulated("qemu_m4", "Cortex-M4F", 251_792),
    _emulated("standard_m4", "Cortex-M4F", 251_792, operators=0xFFE, kinds=0x02),
    _emulated("qemu_m7", "Cortex-M7", 251_792),
    _emulated("qemu_m33", "Cortex-M33", 251_792),
    _emulated("qemu_m55", "Cortex-M55", 251_776, flash=512 * _K),
    _emulated("qemu_rv32imc", "RV32IMC", 401_328, ram=400 * _K),
    _real("esp32dev", "Xtensa LX6", 320, 4096, 110, 1024, 128, 4096, 4),
    _real("esp32-s3-devkitc-1", "Xtensa LX7", 320, 8192, 160, 2048, 256, 4096, 4),
    _real("esp32-c3-devkitm-1", "RV32IMC", 320, 4096, 120, 1024, 128, 4096, 4),
    _real("adafruit_feather_nrf52840", "Cortex-M4F", 243, 796, 160, 384, 48, 4096, 4),
    _real("nano33ble", "Cortex-M4F", 256, 960, 160, 384, 48, 4096, 4),
    _real("nucleo_f446re", "Cortex-M4F", 128, 512, 96, 256, 0, 128 * _K, 4),
    # Linked: the arena is what the linker leaves, as for the emulated boards.
    Board("nucleo_l476rg", "Cortex-M4F", 96 * _K, 1024 * _K, 85_904, 512 * _K, 64 * _K, 2048, 8, 4096),
    _real("nucleo_h743zi", "Cortex-M7", 512, 2048, 384, 768, 256, 128 * _K, 32),
    _real("nucleo_wb55rg_p", "Cortex-M4F", 192, 512, 96, 256, 32, 4096, 8),
    _real("pico", "Cortex-M0+", 256, 2048, 192, 1024, 128, 4096, 256),
    _real("teensy41", "Cortex-M7", 512, 7936, 384, 252, 64, 4096, 256),
)
