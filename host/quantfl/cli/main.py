"""`quantfl`: verbs, one-line errors on stderr, exit codes (docs/CLI.md)."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from quantfl import __version__
from quantfl.cli import (
    compare,
    convert,
    demo,
    devices,
    doctor,
    emulate,
    evaluate,
    export,
    flash,
    keys,
    ledger,
    new,
    push,
    report,
    run,
    serve,
    trace,
    watch,
)
from quantfl.cli.plugins import add_verbs
from quantfl.cli.verbs import Verbs
from quantfl.errors import QuantflError

try:  # newer typer carries its own click
    usage = import_module("typer._click.exceptions")
except ImportError:
    usage = import_module("click.exceptions")

app = typer.Typer(
    name="quantfl",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated learning that fits a microcontroller.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _verb in (
    new,
    convert,
    emulate,
    flash,
    doctor,
    devices,
    push,
    run,
    evaluate,
    export,
    report,
    compare,
    ledger,
    trace,
    watch,
    serve,
    demo,
):
    app.command(_verb.__name__.rsplit(".", 1)[-1])(_verb.command)

app.add_typer(keys.app, name="keys")
add_verbs(app)

INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"quantfl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Federated learning that fits a microcontroller."""


def _complain(message: str) -> None:
    red, plain = (
        ("\033[31m", "\033[0m") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    )
    print(f"{red}quantfl: {' '.join(message.split())}{plain}", file=sys.stderr)


def _warn_in_red(show: Callable[..., None]) -> Callable[..., None]:
    """A plain link to a real board is said in red; other warnings as ever."""

    def warn(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if category.__name__ != "PlainLinkWarning":
            show(message, category, *rest, **more)
            return
        from quantfl.cli.output import stderr_console

        stderr_console().print(
            f"quantfl: {message}", style="bold red", highlight=False, markup=False, soft_wrap=True
        )

    return warn


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code. A user's mistake prints one line, never a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn_in_red(warnings.showwarning)
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    try:
        result = app(args=argv, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except QuantflError as error:
        _complain(str(error))
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except usage.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except usage.ClickException as error:
        _complain(f"{error.format_message()} (see --help)")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
