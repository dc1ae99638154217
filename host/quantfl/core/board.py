"""A board inside this process: the firmware's own device on the in-process port (firmware/boards/inproc)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantfl.core import ffi, lib, status_text
from quantfl.core.link import Counters
from quantfl.errors import ToolError

FLASH = 1 << 20
RAM = 256 << 10
_READ = 16384  # as much as its ring holds


class InprocBoard:
    """One emulated board without a process of its own. Not safe for use from two threads at once.

    ram: bytes of its arena, as much as the QEMU Cortex-M4F board has. uid: its unique id, at most 16 bytes.
    """

    def __init__(self, uid: bytes, *, ram: int = RAM, flash: int = FLASH):
        size = lib.qfl_inproc_size(flash, ram)
        self._memory = ffi.new("uint64_t[]", (size + 31) // 8)
        at = int(ffi.cast("uintptr_t", self._memory))
        self._board = ffi.cast("qfl_inproc *", ffi.cast("void *", (at + 15) & ~15))
        self._uid = ffi.from_buffer("uint8_t[]", uid)
        _check(lib.qfl_inproc_init(self._board, flash, ram, self._uid, len(uid)))
        self._out = ffi.new("uint8_t[]", _READ)
        self._samples: tuple[Any, ...] | None = None
        self._device = None
        self.boot()

    def boot(self) -> None:
        """(Re)start the firmware; flash is kept."""
        out = ffi.new("qfl_device **")
        _check(lib.qfl_device_create(out, lib.qfl_inproc_port(self._board)))
        self._device = out[0]

    def reset(self) -> None:
        """A power cycle: RAM is lost, flash stays."""
        lib.qfl_inproc_reset(self._board)
        self.boot()

    def set_samples(self, x: np.ndarray, labels: np.ndarray) -> int:
        """Give the board its local data: x int8 [n, size], labels [n]. Returns the bytes of samples."""
        x = np.ascontiguousarray(x, np.int8).reshape(len(x), -1)
        labels = np.ascontiguousarray(labels, np.uint16)
        self._samples = (x, labels, ffi.from_buffer("int8_t[]", x), ffi.from_buffer("uint16_t[]", labels))
        lib.qfl_inproc_set_samples(self._board, self._samples[2], self._samples[3], len(labels), x.shape[1])
        return x.nbytes + labels.nbytes

    def write(self, data: bytes) -> int:
        """Bytes from the host; returns how many the board's ring took."""
        return int(lib.qfl_inproc_host_write(self._board, ffi.from_buffer("uint8_t[]", data), len(data)))

    def read(self) -> bytes:
        """Bytes the board has sent."""
        return bytes(ffi.buffer(self._out, lib.qfl_inproc_host_read(self._board, self._out, _READ)))

    def poll(self, now_ms: int, slices: int = 64) -> int:
        """Let the firmware work for some slices; returns the ms until it wants to be called again, 0: at
        once."""
        lib.qfl_inproc_set_ms(self._board, now_ms & 0xFFFFFFFF)
        wait = 0
        for _ in range(slices):
            wait = lib.qfl_device_poll(self._device)
            if wait:
                break
        return wait

    @property
    def samples(self) -> int:
        """Samples cached."""
        return int(lib.qfl_device_samples(self._device))

    def counters(self) -> Counters:
        """The board's own counters of its link."""
        c = ffi.new("qfl_link_counters *")
        lib.qfl_device_counters(self._device, c)
        return Counters.of(c)

    def head(self) -> np.ndarray | None:
        """The global head as the board holds it, float32 [params]."""
        n = ffi.new("uint32_t *")
        p = lib.qfl_device_head(self._device, n)
        return None if p == ffi.NULL else np.frombuffer(ffi.buffer(p, 4 * n[0]), np.float32).copy()


def _check(status: int) -> None:
    if status < 0:
        raise ToolError(f"the in-process board does not start: {status_text(status)}")
