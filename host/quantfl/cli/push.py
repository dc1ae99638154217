"""`quantfl push`: make a package current on boards."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quantfl.cli import complete

if TYPE_CHECKING:
    from quantfl.link.keys import KeyRing


def command(
    package: str = typer.Argument(..., help="A package made by `quantfl convert`."),
    urls: list[str] = typer.Argument(..., help="Ports of the boards.", autocompletion=complete.ports),
    baud: int = typer.Option(921_600, min=300, help="Bits per second on a serial port."),
    timeout: float = typer.Option(120.0, min=1, help="Seconds for each board."),
    keys: Path = typer.Option(
        None, "--keys", envvar="QUANTFL_KEYS", help="Key file: talk to boards that hold its keys only."
    ),
    trace: Path = typer.Option(
        None, "--trace", help="Write every frame to this file (quantfl trace, Wireshark)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Send PACKAGE to boards; a push that broke off goes on where it stopped. Exit code: that of the first
    failure."""
    from quantfl.cli.output import console, print_json
    from quantfl.link.keys import KeyRing
    from quantfl.link.trace import tracing
    from quantfl.package.flatfile import read_file
    from quantfl.package.program import open_package

    _check_order(package, urls)
    data = read_file(Path(package))
    open_package(data)
    ring = KeyRing.load(keys) if keys else None
    with tracing(trace):
        rows = asyncio.run(_push(data if ring is None else ring.sign(data), urls, baud, timeout, ring))
    code = next((row.pop("exit_code") for row in rows if "exit_code" in row), 0)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            if "error" in row:
                console().print(
                    f"{row['url']}  {row['error']}",
                    style="red",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
            else:
                moved = f"{row['up_bytes'] + row['down_bytes']:,} bytes on the wire"
                text = f"pushed, {moved}" if row["moved"] else "had it already"
                console().print(
                    f"{row['url']}  {row['package'][:12]}  {text}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
    return code


def _check_order(package: str, urls: list[str]) -> None:
    """Ports and package given the wrong way round, or two packages: a port is never read as a file, nor a
    file opened as a port."""
    from quantfl.errors import UsageError
    from quantfl.link.ports import is_port

    files = [u for u in urls if "://" not in u and Path(u).is_file()]
    if is_port(package):
        others = [u for u in urls if u not in files]
        rest = " ".join([files[0] if files else "PACKAGE", package, *others])
        raise UsageError(f"{package} is a port, and the package comes first: quantfl push {rest}")
    if files:
        raise UsageError(
            f"{files[0]} is a file, not a port; push sends one package: quantfl push PACKAGE URL…"
        )


async def _push(
    data: bytes, urls: list[str], baud: int, timeout: float, keys: KeyRing | None
) -> list[dict[str, Any]]:
    from quantfl.cli.output import stderr_console
    from quantfl.device import Device
    from quantfl.errors import QuantflError
    from quantfl.report.progress import Bars

    sha = hashlib.sha256(data).hexdigest()

    async def one(url: str) -> dict[str, Any]:
        device = Device(url, baud=baud, keys=keys, patience=timeout)  # time to plug a cable in again
        try:
            await device.open(min(timeout, 10.0))
            await device.read_info()
            moved = await device.push(data, timeout=timeout, progress=lambda at, of: bars.update(url, at, of))
            c = device.counters()
            return {
                "url": url,
                "package": sha,
                "moved": moved,
                "up_bytes": c.rx_bytes,
                "down_bytes": c.tx_bytes,
            }
        except QuantflError as error:
            return {"url": url, "error": str(error), "exit_code": error.exit_code}
        finally:
            await device.close()

    with Bars(stderr_console()) as bars:
        return list(await asyncio.gather(*(one(u) for u in urls)))
