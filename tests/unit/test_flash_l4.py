"""The model of the STM32L4's flash controller: what it enforces (RM0351)."""

from __future__ import annotations

import pytest

from quantfl.emulation import nucleo
from quantfl.emulation.flash_l4 import ACR, CR, KEYR, PAGE, SR, FlashL4, PowerCut
from quantfl.errors import ToolError

FIRST, LOCK, PG, PER, START, BKER, DCEN = 0x08080000, 1 << 31, 1, 2, 1 << 16, 1 << 11, 1 << 10


def unlocked() -> FlashL4:
    f = FlashL4(bytearray(b"\xff" * 4 * PAGE), FIRST, lambda _at, _data: None)
    f.set(ACR, 0, 0.0)
    f.set(KEYR, 0x45670123, 0.0)
    f.set(KEYR, 0xCDEF89AB, 0.0)
    return f


def erase(f: FlashL4, page: int, now: float) -> None:
    f.set(CR, PER | BKER | page << 3, now)
    f.set(CR, PER | BKER | page << 3 | START, now)


def test_it_is_locked_until_both_keys_have_come():
    f = FlashL4(bytearray(b"\xff" * PAGE), FIRST, lambda _at, _data: None)
    f.set(CR, PG, 0.0)
    assert f.get(CR, 0.0) == LOCK and f.program(FIRST, b"x" * 8, 0.0) != 0
    f.set(KEYR, 0xCDEF89AB, 0.0)  # a wrong order locks it until the next reset
    f.set(KEYR, 0x45670123, 0.0)
    f.set(KEYR, 0xCDEF89AB, 0.0)
    assert f.get(CR, 0.0) == LOCK and bytes(f.cells) == b"\xff" * PAGE
    assert set(f.misused) == {"control register written while locked", "program refused", "wrong key"}


def test_a_unit_is_written_once_between_erases():
    f = unlocked()
    f.set(CR, PG, 0.0)
    assert f.program(FIRST, b"12345678" * 2, 0.0) == 0
    assert f.program(FIRST + 16, b"abcdefgh", 0.0) == 0
    assert f.program(FIRST + 8, b"different", 0.0) != 0 and f.program(FIRST + 24, b"new unit", 0.0) != 0
    f.set(SR, 0xC3FB, 0.0)
    assert f.program(FIRST + 16, b"A" * 16, 0.0) == 1 << 3 and f.cells[24] == 0xFF  # nothing behind it
    f.set(SR, 0xC3FB, 0.0)
    assert f.program(FIRST + 16, bytes(8), 0.0) == 0  # all zeros go over anything


def test_an_erase_takes_its_time_and_a_reset_leaves_it_half_done():
    f = unlocked()
    f.set(CR, PG, 0.0)
    f.program(FIRST + PAGE, bytes(PAGE), 0.0)
    erase(f, 1, 1.0)
    assert f.get(SR, 1.01) == 1 << 16 and f.get(SR, 1.03) == 0
    assert bytes(f.cells[PAGE : 2 * PAGE]) == b"\xff" * PAGE and f.misused == {}
    f.set(CR, PG, 2.0)
    f.program(FIRST + PAGE, bytes(PAGE), 2.0)
    erase(f, 1, 3.0)
    f.reset()
    assert f.get(CR, 4.0) == LOCK and f.get(SR, 4.0) == 0
    assert 0 < bytes(f.cells[PAGE : 2 * PAGE]).count(0xFF) < PAGE


def test_the_data_cache_and_pages_of_the_firmware_are_watched():
    f = unlocked()
    f.set(ACR, DCEN, 0.0)
    f.set(CR, PG, 0.0)
    f.program(FIRST, b"12345678", 0.0)
    f.set(CR, PER | START, 0.0)  # the first page of the first bank
    assert set(f.misused) == {"data cache on", "erase outside the store"}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_power_cut_leaves_half_an_operation(at):
    f = unlocked()
    f.cut_at = at

    def work() -> None:
        f.set(CR, PG, 0.0)
        f.program(FIRST, b"\1" * 16, 0.0)
        erase(f, 0, 0.0)

    with pytest.raises(PowerCut):
        work()
    assert len(f.history) == at
    ones = bytes(f.cells[:16]).count(1)
    assert ones == {1: 0, 2: 8, 3: 0}[at]


def test_without_a_qemu_that_knows_the_chip_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTFL_QEMU10", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    nucleo.qemu.cache_clear()
    try:
        with pytest.raises(ToolError, match=r"QEMU 10.*tools/qemu10\.sh") as error:
            nucleo.qemu()
    finally:
        nucleo.qemu.cache_clear()
    assert "\n" not in str(error.value)
