"""The flash controller of the STM32L4 (RM0351, chapter "Embedded Flash memory (FLASH)"), which QEMU lacks.

It knows what the part enforces: a lock and its keys, PG and PER, units of 8 bytes that are written once
between erases, pages that take their time, errors that have to be cleared, no data cache meanwhile (ES0250).
Power may be cut at any unit of a program or amid an erase.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

ACR, KEYR, SR, CR = 0x00, 0x08, 0x10, 0x14
BASE, PAGE, PAGES_A_BANK, UNIT = 0x08000000, 2048, 256, 8
ERASE_S = 0.022  # DS10198, "Flash memory characteristics": page erase, typical
_KEYS = (0x45670123, 0xCDEF89AB)
_LOCK, _START, _BKER, _PER, _PG = 1 << 31, 1 << 16, 1 << 11, 1 << 1, 1 << 0
_BSY, _ERRORS, _PGSERR, _PGAERR, _PROGERR, _WRPERR = 1 << 16, 0xC3FA, 1 << 7, 1 << 5, 1 << 3, 1 << 4
_DCEN = 1 << 10


class PowerCut(Exception):
    """The moment that a test has asked for."""


@dataclass
class FlashL4:
    """cells: content of the part's flash from `first` (an address) on; what is below is write-protected.

    poke(address, data): the same bytes into the machine's memory. seen: units programmed ("units"), pages
    erased ("erases"), and how often the firmware broke which rule of the part; `misused` counts the latter.
    history: every operation, "unit" or "erase", with its offset in cells. cut_at: number of the operation,
    from 1, that loses power half done.
    """

    cells: bytearray | mmap.mmap
    first: int
    poke: Callable[[int, bytes], None]
    seen: Counter[str] = field(default_factory=Counter)
    cut_at: int | None = None
    history: list[tuple[str, int]] = field(default_factory=list)
    _registers: dict[int, int] = field(default_factory=dict)
    _keys: int = 0
    _erasing: tuple[int, float] | None = None  # offset of a page, time when it is blank

    def __post_init__(self) -> None:
        self.reset()

    @property
    def misused(self) -> dict[str, int]:
        return {what: n for what, n in self.seen.items() if what not in ("units", "erases")}

    def reset(self) -> None:
        """A page that was being erased stays as it is by then."""
        self._registers = {ACR: 0x700, SR: 0, CR: _LOCK}
        self._keys, self._erasing = 0, None

    def _step(self, what: str, at: int) -> bool:
        """Note an operation; True: it is the last one, and half of it is done."""
        self.history.append((what, at))
        return self.cut_at is not None and len(self.history) >= self.cut_at

    def _put(self, at: int, data: bytes) -> None:
        self.cells[at : at + len(data)] = data
        self.poke(self.first + at, data)

    def get(self, register: int, now: float) -> int:
        """now: seconds that the processor has run."""
        if self._erasing is not None and now >= self._erasing[1]:
            self._put(self._erasing[0], b"\xff" * PAGE)
            self._erasing = None
        return self._registers.get(register, 0) | (_BSY if register == SR and self._erasing else 0)

    def set(self, register: int, value: int, now: float) -> None:
        busy = self.get(SR, now) & _BSY
        if register == KEYR:
            self._unlock(value)
        elif register == SR:
            self._registers[SR] &= ~value
        elif register == CR:
            if self._registers[CR] & _LOCK or busy:
                self.seen["control register written while locked" if not busy else "written while busy"] += 1
                return
            self._registers[CR] = value & ~_START
            if value & _START:
                self._erase(value, now)
        else:
            self._registers[register] = value

    def _unlock(self, key: int) -> None:
        if self._keys < len(_KEYS) and key == _KEYS[self._keys]:
            self._keys += 1
            if self._keys == len(_KEYS):
                self._registers[CR] &= ~_LOCK
                self._keys = 0
        else:
            self.seen["wrong key"] += 1
            self._keys = len(_KEYS) + 1  # locked until the next reset

    def _erase(self, value: int, now: float) -> None:
        page = (value >> 3 & 0xFF) + (PAGES_A_BANK if value & _BKER else 0)
        at = BASE + page * PAGE - self.first
        if not value & _PER or value & _PG or self._registers[SR] & _ERRORS:
            self._registers[SR] |= _PGSERR
            self.seen["start without a page erase"] += 1
        elif not 0 <= at <= len(self.cells) - PAGE:
            self._registers[SR] |= _WRPERR
            self.seen["erase outside the store"] += 1
        else:
            self._cache()
            cut = self._step("erase", at)
            self._put(at, b"\xff" * (PAGE // 2))
            if cut:
                raise PowerCut
            self.seen["erases"] += 1
            self._erasing = (at, now + ERASE_S)

    def _cache(self) -> None:
        if self._registers[ACR] & _DCEN:
            self.seen["data cache on"] += 1

    def program(self, to: int, data: bytes, now: float) -> int:
        """What the loop of words and looks at SR does: errors and BSY as it last saw them, 0: all is done."""
        at, error = to - self.first, 0
        state = self.get(SR, now)
        if self._registers[CR] & (_LOCK | _PG) != _PG or state & (_ERRORS | _BSY):
            error = _PGSERR
        elif at % UNIT or len(data) % UNIT:
            error = _PGAERR
        elif at < 0 or at + len(data) > len(self.cells):
            error = _WRPERR
        if error:
            self.seen["program refused"] += 1
            self._registers[SR] |= error
            return error
        self._cache()
        done = 0
        while done < len(data) and not error:
            unit = data[done : done + UNIT]
            if bytes(self.cells[at + done : at + done + UNIT]) != b"\xff" * UNIT and any(unit):
                error = _PROGERR
                break
            if self._step("unit", at + done):
                # what is in a unit then is not defined
                self._put(at, data[:done] + bytes(b | 0x5A for b in unit))
                raise PowerCut
            done += UNIT
        self.seen["units"] += done // UNIT
        self._put(at, data[:done])
        if error:
            self.seen["unit written twice"] += 1
            self._registers[SR] |= error
        return error
