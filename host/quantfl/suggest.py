"""Did you mean: the known name that a mistyped one is like."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def meant(given: str, known: Iterable[str]) -> str:
    """` (is NAME meant?)` where one known name is like `given`; else nothing."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), names, 1, 0.6)
    return f" (is {names[found[0]]} meant?)" if found else ""
