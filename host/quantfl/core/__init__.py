"""The C libraries of firmware/lib, bound with cffi: what runs on a board runs here, byte for byte.

`ffi` and `lib` are the raw binding; the modules beside this file wrap one C library each with numpy arrays
and quantfl's errors.
"""

from __future__ import annotations

from quantfl.errors import ToolError

try:
    from quantfl.core._qfl import ffi, lib
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ToolError(
        f"the C libraries are not built for this Python ({error}): run `pip install -e .` with a C "
        "compiler present"
    ) from error

#: Names of negative qfl_status values, for messages.
STATUS_TEXT = {
    -1: "an argument is out of range",
    -2: "not enough memory",
    -3: "bytes that do not parse",
    -4: "a version this firmware does not know",
    -5: "not supported by this firmware",
    -6: "a checksum or SHA-256 does not match",
    -7: "not possible in the present state",
    -8: "names a version, round or run that is not the present one",
    -9: "busy",
    -10: "flash or link failed",
    -11: "NaN or infinity",
    -12: "a number outside its permitted bounds",
    -13: "not authenticated, or signed by somebody else",
}


def status_text(status: int) -> str:
    """What a negative qfl_status means, with its number."""
    return f"{STATUS_TEXT.get(status, 'unknown status')} (status {status})"


__all__ = ["STATUS_TEXT", "ffi", "lib", "status_text"]
