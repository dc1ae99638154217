"""The C libraries of firmware/lib, bound with cffi: what runs on a board runs here, byte for byte.

`ffi` and `lib` are the raw binding; the modules beside this file wrap one C library each with numpy arrays
and quantfl's errors.
"""

from __future__ import annotations

import mmap

from quantfl.errors import ToolError

try:
    from quantfl.core._qfl import ffi, lib
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ToolError(
        f"the C libraries are not built for this Python ({error}): run `pip install -e .` with a C "
        "compiler present"
    ) from error


def status_text(status: int) -> str:
    """What a negative qfl_status means, with its number."""
    text: bytes = ffi.string(lib.qfl_status_text(status))
    return f"{text.decode()} (status {status})"


def zeroed(size: int) -> mmap.mmap:
    """Zeroed memory of `size` bytes, page-aligned: only what is written takes room. For sizes of many pages:
    the C library's allocator clears parts of them."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


__all__ = ["ffi", "lib", "status_text", "zeroed"]
