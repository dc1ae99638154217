"""What other installed packages add: verbs of the command line, and virtual radios for `quantfl emulate`.

A package names them in its pyproject.toml, each as `name = "module:attribute"`:

- `[project.entry-points."quantfl.verbs"]`: a function with typer's annotations, which returns an exit code;
- `[project.entry-points."quantfl.radios"]`: a function (boards, chaos) -> adapter with `start`, `stop`,
  `alive` and `address`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer

from quantfl.errors import ToolError

VERBS, RADIOS = "quantfl.verbs", "quantfl.radios"
#: Verbs of the laboratory, so that `quantfl bench` without it says what is missing.
LABORATORY = {
    "bench": "Measure what the project claims (quantfl-lab).",
    "torture": "Train small fleets under random faults (quantfl-lab).",
}
INSTALL = "pip install quantfl-lab, or pip install -e host/quantfl_lab in a checkout"


def add_verbs(app: typer.Typer) -> None:
    """Add every verb that an installed package offers. One that cannot be imported says so when it is
    called."""
    found = {entry.name: entry for entry in entry_points(group=VERBS)}
    for name in sorted({*found, *LABORATORY}):
        if name not in found:
            app.command(name, help=LABORATORY[name], context_settings={"ignore_unknown_options": True})(
                _missing(name)
            )
            continue
        try:
            verb = found[name].load()
        except Exception as error:
            verb = _broken(name, found[name].value, error)
        app.command(name)(verb)


def _missing(name: str) -> Callable[..., Any]:
    def verb(arguments: list[str] = typer.Argument(None, hidden=True)) -> int:
        raise ToolError(f"`quantfl {name}` belongs to the laboratory, which is not installed: {INSTALL}")

    return verb


def _broken(name: str, value: str, error: Exception) -> Callable[..., Any]:
    reason = f"`quantfl {name}` cannot be loaded from {value}: {type(error).__name__}: {error}"

    def verb(arguments: list[str] = typer.Argument(None, hidden=True)) -> int:
        raise ToolError(reason)

    return verb


def virtual_radio(name: str = "ble") -> Callable[..., Any]:
    """The maker of a virtual radio. ToolError when no installed package has one."""
    for entry in entry_points(group=RADIOS, name=name):
        made: Callable[..., Any] = entry.load()
        return made
    raise ToolError(
        f"the virtual {name.upper()} adapter belongs to the laboratory, which is not installed: {INSTALL}"
    )
