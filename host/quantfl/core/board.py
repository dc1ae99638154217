"""A board inside this process: the firmware's own device on the in-process port (firmware/boards/inproc)."""

from __future__ import annotations

import mmap
import tempfile
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

from quantfl.core import ffi, lib, status_text, zeroed
from quantfl.core.link import Counters
from quantfl.errors import ToolError

FLASH = 1 << 20
RAM = 256 << 10
_READ = 16384  # as much as its ring holds
_IMAGES = 8  # packages whose flash images are kept for later boards


class _Buffer(threading.local):
    """Room for what a board has sent, which is copied at once: one for all boards of a thread."""

    def __init__(self) -> None:
        self.bytes = ffi.new("uint8_t[]", _READ)


_buffer = _Buffer()


class FlashImage:
    """A flash image in a file without a name, whose pages boards share until they write them.

    content: bytes of the image. OSError: the file cannot be made.
    """

    def __init__(self, content: bytes):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._file.write(content)
        self._file.flush()
        self.fd, self.size = self._file.fileno(), len(content)
        self.view = lib.qfl_inproc_flash_map(self.fd, self.size)
        if self.view != ffi.NULL:
            weakref.finalize(self, lib.qfl_inproc_flash_unmap, self.view, self.size)

    def map(self) -> Any:
        """A board's view of it, uint8_t *; None where the system has no such thing, or no more of it."""
        view = lib.qfl_inproc_flash_map(self.fd, self.size)
        return None if view == ffi.NULL else view


_erased: dict[int, FlashImage] = {}  # by size
_used: OrderedDict[tuple[int, bytes], FlashImage] = OrderedDict()  # by size and package


def _erased_flash(size: int) -> Any:
    if size not in _erased:
        _erased[size] = FlashImage(b"\xff" * size)
    return _erased[size].map()


class InprocBoard:
    """One emulated board without a process of its own. Not safe for use from two threads at once.

    ram: bytes of its arena, as much as the QEMU Cortex-M4F board has. uid: its unique id, at most 16 bytes.
    """

    def __init__(self, uid: bytes, *, ram: int = RAM, flash: int = FLASH):
        size = lib.qfl_inproc_size(0, ram)
        self._pages = zeroed(size)
        self._memory = ffi.from_buffer("uint8_t[]", self._pages)
        self._board = ffi.cast("qfl_inproc *", self._memory)
        self._uid = ffi.from_buffer("uint8_t[]", uid)
        _check(lib.qfl_inproc_init(self._board, 0, ram, self._uid, len(uid)))
        self._flash, self._flash_size = _erased_flash(flash), flash
        if self._flash is None:
            self._flash = ffi.new("uint8_t[]", b"\xff" * flash)
            self._shares = False
        else:
            weakref.finalize(self, lib.qfl_inproc_flash_unmap, self._flash, flash)
            self._shares = True
        lib.qfl_inproc_use_flash(self._board, self._flash, flash)
        self._samples: tuple[Any, ...] | None = None
        self._device = None
        self.boot()

    def share_flash(self, package: bytes) -> int:
        """Share the pages of flash that another board with this package has as well; returns their bytes.

        The first board with a package leaves an image of its flash for the others. What is read stays the
        same.
        """
        if not self._shares:
            return 0
        key = (self._flash_size, package)
        if key not in _used:
            while len(_used) >= _IMAGES:
                _used.popitem(last=False)
            _used[key] = FlashImage(bytes(ffi.buffer(self._flash, self._flash_size)))
        image = _used[key]
        if image.view == ffi.NULL:
            return 0
        return int(lib.qfl_inproc_flash_share(self._flash, image.fd, image.view, self._flash_size))

    def trim(self) -> None:
        """Give back the memory of its rings where they are empty."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        n = ffi.new("uint32_t *")
        at, page = lib.qfl_inproc_spare(self._board, n), mmap.PAGESIZE
        first, end = (at + page - 1) // page * page, (at + n[0]) // page * page
        if end > first:
            self._pages.madvise(mmap.MADV_DONTNEED, first, end - first)

    @property
    def handle(self) -> Any:
        """The board in C, qfl_inproc *."""
        return self._board

    @property
    def device(self) -> Any:
        """Its firmware in C, qfl_device *; another object after every start."""
        return self._device

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
        out = _buffer.bytes
        return bytes(ffi.buffer(out, lib.qfl_inproc_host_read(self._board, out, _READ)))

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
