"""Where the C libraries for firmware lie: in the installed package, or in a checkout."""

from __future__ import annotations

from pathlib import Path

from quantfl.errors import ToolError

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """The folder that holds qfl_device and the others. ToolError: it is not there."""
    for place in (_PACKAGE / "firmware" / "lib", _PACKAGE.parents[1] / "firmware" / "lib"):
        if (place / "qfl_device").is_dir():
            return place
    raise ToolError("the C libraries are missing: install quantfl from a wheel, or run it from a checkout")
