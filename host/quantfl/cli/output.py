"""How verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


def console() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console()


def stderr_console() -> Console:
    """A rich console on stderr, for progress beside --json."""
    from rich.console import Console

    return Console(stderr=True)
