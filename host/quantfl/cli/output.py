"""How verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


#: Columns of output that goes into a file or another program: no line of ours is as long.
UNBOUNDED = 10_000


def console() -> Console:
    """A rich console on stdout: as wide as its terminal, or as COLUMNS says; in a pipe without an edge."""
    from rich.console import Console

    return Console(width=_width(sys.stdout))


def stderr_console() -> Console:
    """A rich console on stderr, for progress beside --json."""
    from rich.console import Console

    return Console(stderr=True, width=_width(sys.stderr))


def _width(stream: TextIO) -> int | None:
    """None: rich finds the width itself."""
    bounded = stream.isatty() or os.environ.get("COLUMNS", "").isdigit() or os.environ.get("FORCE_COLOR")
    return None if bounded else UNBOUNDED
