"""The stack of the smallest board: what it needs at most, with keys, and that the reading of it would notice
more."""

from __future__ import annotations

import asyncio

import pytest

from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.base import firmware
from quantfl.emulation.elf import symbols
from quantfl.errors import ToolError
from quantfl_lab.bench.stack import measured
from tests.support import need_board

pytestmark = pytest.mark.emulated
MARGIN = 128  # bytes that have to be left


def test_the_micro_bit_has_stack_to_spare():
    need_board("qemu_m0")
    signed, unsigned = ({r["after"]: r for r in measured(signed=s)} for s in (True, False))
    steps = ["its first keys", "a package", "a round", "a reset", "its owner's leave"]
    assert list(signed) == list(unsigned) == steps
    assert all(r["margin_bytes"] >= MARGIN for r in (*signed.values(), *unsigned.values())), signed
    used = {k: r["used_bytes"] for k, r in signed.items()}
    # The signature is the deepest; a reset paints the stack anew, and checks it from less deep.
    assert used["its first keys"] < used["a package"] == used["a round"] > used["a reset"] > 1600
    # An owner that is removed signs for it: since the reset that is deeper than the package's check at start.
    assert used["a reset"] < used["its owner's leave"] <= used["a package"]
    assert max(r["used_bytes"] for r in unsigned.values()) < 1600


@pytest.mark.parametrize("kind", ["qemu_m0", "qemu_m4", "qemu_rv32imc"])
def test_memory_is_read_as_a_debugger_would(kind):
    need_board(kind)
    (board,) = boot_fleet(kind, 1)

    async def hello():
        async with Device(board.url) as device:
            return await device.read_info()

    try:
        info = asyncio.run(hello())
        size, used = board.stack()
        found = symbols(board.elf)
        assert size == found["__stack_top"] - found["__stack_limit"] and 256 < used < size
        assert info.arena == found["__arena_end"] - found["__arena_start"]
        if kind == "qemu_m4":  # a fault counter that is nought, in RAM
            assert board.memory(found["qfl_fault_resets"], 4) == bytes(4)
    finally:
        close_all([board])


def test_a_file_without_symbols_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ToolError, match="not a 32-bit little-endian ELF file"):
        symbols(tmp_path / "x")
    try:
        elf = firmware("native", "program")
    except ToolError as error:
        pytest.skip(str(error))
    with pytest.raises(ToolError, match="not a 32-bit"):
        symbols(elf)
