"""quantfl: federated learning that fits a microcontroller.

What most programs need is here: `convert` and `Package` for models, `emulate` for virtual boards, `discover`
and `Device` for real ones, `run` for a whole federation and `History` for what came of it, and every error
(`quantfl.errors`). Modules are imported when a name is first used, so that `import quantfl` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantfl.api import History, Run, convert, describe, discover, emulate, run
    from quantfl.core.codec import Codec, CodecError
    from quantfl.device import Device
    from quantfl.errors import (
        DataError,
        DeviceError,
        LinkError,
        PackageError,
        QuantflError,
        RunError,
        SecurityError,
        ToolError,
        UnsupportedError,
        UsageError,
    )
    from quantfl.package.program import Package

__version__ = "0.1.0"

_WHERE = {
    **dict.fromkeys(("History", "Run", "convert", "describe", "discover", "emulate", "run"), "quantfl.api"),
    **dict.fromkeys(("Codec", "CodecError"), "quantfl.core.codec"),
    "Device": "quantfl.device",
    "Package": "quantfl.package.program",
    **dict.fromkeys(
        (
            "DataError",
            "DeviceError",
            "LinkError",
            "PackageError",
            "QuantflError",
            "RunError",
            "SecurityError",
            "ToolError",
            "UnsupportedError",
            "UsageError",
        ),
        "quantfl.errors",
    ),
}

__all__ = [
    "Codec",
    "CodecError",
    "DataError",
    "Device",
    "DeviceError",
    "History",
    "LinkError",
    "Package",
    "PackageError",
    "QuantflError",
    "Run",
    "RunError",
    "SecurityError",
    "ToolError",
    "UnsupportedError",
    "UsageError",
    "convert",
    "describe",
    "discover",
    "emulate",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'quantfl' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
