"""qfl_keystore: the record of keys on a flash whose power is cut after every byte of every operation."""

from __future__ import annotations

import random

import pytest

from quantfl.core import ffi, lib

UNIT, UNITS = 512, 8


class Flash:
    """A region behind a qfl_port. budget: bytes that may still be erased or programmed before the power
    goes."""

    def __init__(self, program_unit: int, erased: int = 0xFF):
        self.data = bytearray([erased]) * (UNIT * UNITS)
        self.program_unit, self.erased = program_unit, erased
        self.budget: int | None = None
        self.port = ffi.new("qfl_port *")
        self._held = [
            ffi.callback("int32_t(void *, qfl_flash_info *)", self._info),
            ffi.callback("int32_t(void *, uint32_t, uint8_t *, uint32_t)", self._read),
            ffi.callback("int32_t(void *, uint32_t, uint8_t *, uint32_t)", self._program),
            ffi.callback("int32_t(void *, uint32_t, uint32_t)", self._erase),
        ]
        names = ("flash_info", "flash_read", "flash_program", "flash_erase")
        for name, call in zip(names, self._held, strict=True):
            setattr(self.port, name, ffi.cast(ffi.typeof(getattr(self.port, name)), call))

    def _info(self, _ctx, out) -> int:
        out.size, out.erase_unit, out.program_unit, out.erased = (
            UNIT * UNITS,
            UNIT,
            self.program_unit,
            self.erased,
        )
        return 0

    def _read(self, _ctx, at, p, n) -> int:
        ffi.buffer(p, n)[:] = self.data[at : at + n]
        return 0

    def _spend(self, at: int, new: bytes, torn: random.Random) -> int:
        n = len(new) if self.budget is None else min(len(new), self.budget)
        self.data[at : at + n] = new[:n]
        if n < len(new):
            self.data[at + n] = torn.randrange(256)  # the byte under way is neither old nor new
            self.budget = 0
            return -1
        if self.budget is not None:
            self.budget -= n
        return 0

    def _program(self, _ctx, at, p, n) -> int:
        assert at % self.program_unit == 0 and n % self.program_unit == 0
        assert all(b == self.erased for b in self.data[at : at + n]) or self.budget == 0, (
            "written twice without an erase"
        )
        return self._spend(at, bytes(ffi.buffer(p, n)), random.Random(at))

    def _erase(self, _ctx, at, n) -> int:
        assert at % UNIT == 0 and n % UNIT == 0 and at >= UNIT * (UNITS - lib.QFL_KEYSTORE_UNITS)
        return self._spend(at, bytes([self.erased]) * n, random.Random(at))

    def open(self):
        keep = ffi.new("qfl_keystore *")
        assert lib.qfl_keystore_open(keep, self.port) == 0
        return keep


def body_of(keep) -> bytes:
    return bytes(ffi.buffer(keep.body))


def make(i: int) -> bytes:
    return random.Random(i).randbytes(lib.QFL_KEYSTORE_BYTES)


@pytest.mark.parametrize("unit", [1, 4, 8, 16, 32, 256])
@pytest.mark.parametrize("erased", [0xFF, 0x00])
def test_the_newest_record_is_found(unit, erased):
    flash = Flash(unit, erased)
    keep = flash.open()
    assert not lib.qfl_keystore_has(keep) and body_of(keep) == bytes(lib.QFL_KEYSTORE_BYTES)
    for i in range(5):
        assert lib.qfl_keystore_write(keep, make(i)) == 0
        assert body_of(keep) == body_of(flash.open()) == make(i)
    assert flash.data[: -2 * UNIT] == bytes([erased]) * (UNIT * (UNITS - 2))


@pytest.mark.parametrize("unit", [1, 8, 256])
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_cut_after_every_byte_leaves_the_old_or_the_new(unit, writes):
    length = UNIT + (96 + unit - 1) // unit * unit
    seen = set()
    for cut in range(length + 1):
        flash = Flash(unit)
        keep = flash.open()
        for i in range(writes):
            assert lib.qfl_keystore_write(keep, make(i)) == 0
        flash.budget = cut
        status = lib.qfl_keystore_write(keep, make(100))
        flash.budget = None
        after = flash.open()
        old = make(writes - 1) if writes else bytes(lib.QFL_KEYSTORE_BYTES)
        assert body_of(after) in (old, make(100))
        assert (body_of(after) == make(100)) == bool(
            status == 0
        ) or cut >= UNIT + 96  # padding of the last unit may be cut
        if status != 0:
            assert body_of(keep) == old  # the writer goes on with the old one
        seen.add(body_of(after) == make(100))
        assert lib.qfl_keystore_write(after, make(200)) == 0 and body_of(flash.open()) == make(200)
    assert seen == {False, True}


def test_a_region_too_small_has_no_record():
    flash = Flash(8)

    def info(ctx, out) -> int:
        flash._info(ctx, out)
        out.size = UNIT * 5
        return 0

    small = ffi.callback("int32_t(void *, qfl_flash_info *)", info)
    flash.port.flash_info = ffi.cast(ffi.typeof(flash.port.flash_info), small)
    keep = ffi.new("qfl_keystore *")
    assert lib.qfl_keystore_open(keep, flash.port) == lib.QFL_E_UNSUPPORTED
    assert lib.qfl_keystore_write(keep, make(1)) == lib.QFL_E_UNSUPPORTED
