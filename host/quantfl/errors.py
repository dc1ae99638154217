"""Every error a user can meet, each with the exit code that the command line returns for it.

A message is one line: what is wrong, where, and what to do. The command line prints it on stderr
without a traceback. Exit codes are listed in docs/CLI.md; 1 is kept for defects of quantfl itself.
"""

from __future__ import annotations


class QuantflError(Exception):
    """Base of all expected errors. `exit_code` is what `quantfl` exits with."""

    exit_code = 1


class UsageError(QuantflError):
    """The command line or a run description (TOML) is wrong; names the file, line or key."""

    exit_code = 2


class PackageError(QuantflError):
    """A model or package cannot be read, is damaged, or is not a quantfl package."""

    exit_code = 3


class UnsupportedError(PackageError):
    """A well-formed model uses something the device engine does not run; names layer and remedy."""

    exit_code = 4


class LinkError(QuantflError):
    """A port is absent, cannot be opened, or went away."""

    exit_code = 5


class SecurityError(LinkError):
    """Keys are missing, wrong, or asked for by the other end only; nothing was sent to the board.

    Attributes: `refusal` is the link's reason (quantfl.core.link.PEER_PLAIN and so on) or 0.
    """

    exit_code = 10

    def __init__(self, message: str, refusal: int = 0):
        super().__init__(message)
        self.refusal = refusal


class DeviceError(QuantflError):
    """A board refused a request or answered what makes no sense.

    Attributes: `status` is the board's negative qfl_status or None.
    """

    exit_code = 6

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class DataError(QuantflError):
    """A data set is absent, unreadable or does not fit the model."""

    exit_code = 7


class RunError(QuantflError):
    """A run cannot start or go on: no boards left, checkpoint of another run, counters that do not agree."""

    exit_code = 8


class Interrupted(QuantflError):
    """Ended by Ctrl-C; the message says what is kept and how to go on."""

    exit_code = 130


class ToolError(QuantflError):
    """An optional tool or Python extra is missing; names it and how to install it."""

    exit_code = 9
