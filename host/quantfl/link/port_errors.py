"""Why a port could not be opened, in words: the cause and its remedy, not the words of the libraries
below.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

_ERRNO = re.compile(r"\[Errno (-?\d+)\]")
_LINUX = "sudo usermod -aG dialout $USER, then log in again"
_GROUP = _LINUX if sys.platform == "linux" else "ask whoever runs this machine for it"

_REMEDIES = {
    errno.ENOENT: "there is no such port: is the board plugged in? `quantfl devices` lists those there are",
    errno.ENODEV: "there is no device behind it: unplug the board and plug it in again",
    errno.ENXIO: "there is no device behind it: unplug the board and plug it in again",
    errno.EACCES: f"permission is missing: {_GROUP}",
    errno.EPERM: f"permission is missing: {_GROUP}",
    errno.EBUSY: "another program has it open: end that program (a serial monitor, ModemManager)",
    errno.EAGAIN: "another program has it open: end that program (a serial monitor, ModemManager)",
    errno.EISDIR: "it is a folder, not a port",
    errno.ECONNREFUSED: "nothing listens there: is the board, or the program before it, running?",
    errno.ETIMEDOUT: "nobody answers there: check the address and the network",
    errno.EHOSTUNREACH: "there is no way to that machine: check the address and the network",
    errno.ENETUNREACH: "there is no way to that machine: check the address and the network",
}


def address_fault(url: str) -> str | None:
    """What is wrong with the address of a network port; None: nothing, or it is another kind of port."""
    scheme = url.partition("://")[0]
    if scheme not in ("socket", "rfc2217"):
        return None
    due = f"it is written {scheme}://HOST:PORT, with a port from 1 to 65535"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return due
    return None if parts.hostname and port else due


def _number(error: BaseException) -> int | None:
    """The system's number of an error, wherever a library has put it."""
    text = str(error)
    if "exclusively lock" in text:
        return errno.EBUSY
    if "timed out" in text:
        return errno.ETIMEDOUT
    found = _ERRNO.search(text)
    return int(found[1]) if found else getattr(error, "errno", None)


def opened_by(path: str) -> str | None:
    """The program that has a device open, as far as this machine tells (Linux, programs of one's own)."""
    with contextlib.suppress(OSError):
        real = os.path.realpath(path)
        for link in glob.glob("/proc/[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                pid = link.split("/")[2]
                if int(pid) != os.getpid() and os.readlink(link) == real:
                    name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"{''.join(c for c in name if c.isprintable())} (process {pid})"
    return None


def busy(error: BaseException) -> bool:
    """Whether a port could not be opened because somebody else has it open."""
    return _number(error) in (errno.EBUSY, errno.EAGAIN)


def cause_of(url: str, error: BaseException) -> str:
    """The cause and its remedy, in one line, for a port that could not be opened."""
    wrong = address_fault(url)
    if wrong is not None:
        return wrong
    text = " ".join(str(error).split()) or type(error).__name__
    number = _number(error)
    if number in (errno.EBUSY, errno.EAGAIN) and (holder := opened_by(url)):
        return f"{holder} has it open: end that program"
    if number in _REMEDIES:
        return _REMEDIES[number]
    if number is not None and number < 0:  # getaddrinfo
        return "there is no machine of that name: check its spelling and the network"
    if "protocol" in text and "not known" in text:
        return "there is no such kind of port; known are devices, socket://, rfc2217://, ble://, id://"
    if "no ports found" in text:
        return "no port fits that pattern; `quantfl devices` lists those there are"
    return f"{text}; check the port and its cable or address"
