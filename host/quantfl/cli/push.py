"""`quantfl push`: make a package current on boards."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import typer


def command(
    package: Path = typer.Argument(..., help="A package made by `quantfl convert`."),
    urls: list[str] = typer.Argument(..., help="Ports of the boards."),
    baud: int = typer.Option(921_600, min=300, help="Bits per second on a serial port."),
    timeout: float = typer.Option(120.0, min=1, help="Seconds for each board."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Send PACKAGE to boards; a push that broke off goes on where it stopped. Exit code: that of the first failure."""
    from quantfl.cli.output import console, print_json
    from quantfl.package.flatfile import read_file
    from quantfl.package.program import open_package

    data = read_file(package)
    open_package(data)
    rows = asyncio.run(_push(data, urls, baud, timeout))
    code = next((row.pop("exit_code") for row in rows if "exit_code" in row), 0)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            if "error" in row:
                console().print(f"{row['url']}  [red]{row['error']}[/]", highlight=False)
            else:
                moved = f"{row['up_bytes'] + row['down_bytes']:,} bytes on the wire"
                text = f"pushed, {moved}" if row["moved"] else "had it already"
                console().print(f"{row['url']}  {row['package'][:12]}  {text}", highlight=False)
    return code


async def _push(data: bytes, urls: list[str], baud: int, timeout: float) -> list[dict]:
    from quantfl.device import Device
    from quantfl.errors import QuantflError

    sha = hashlib.sha256(data).hexdigest()

    async def one(url: str) -> dict:
        device = Device(url, baud=baud)
        try:
            await device.open(min(timeout, 10.0))
            await device.hello()
            moved = await device.push(data, timeout=timeout)
            c = device.counters()
            return {"url": url, "package": sha, "moved": moved, "up_bytes": c.rx_bytes, "down_bytes": c.tx_bytes}
        except QuantflError as error:
            return {"url": url, "error": str(error), "exit_code": error.exit_code}
        finally:
            await device.close()

    return list(await asyncio.gather(*(one(u) for u in urls)))
