"""`quantfl devices`: what boards say of themselves."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer


def command(
    urls: list[str] = typer.Argument(None, help="Ports: /dev/tty…, COM3, socket://host:port, rfc2217://host:port."),
    baud: int = typer.Option(921_600, min=300, help="Bits per second on a serial port."),
    timeout: float = typer.Option(5.0, min=0.1, help="Seconds to wait for each board."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Show boards: firmware, protocol, memory, model and head, samples. Without URLS: list this machine's serial ports.

    Exit code 5 when a named board does not answer; the others are shown nevertheless.
    """
    from quantfl.cli.output import console, print_json

    if not urls:
        return _list_ports(as_json)
    rows = asyncio.run(_ask(urls, baud, timeout))
    if as_json:
        print_json(rows)
    else:
        from rich.table import Table

        table = Table()
        for column in ("port", "board", "uid", "firmware", "RAM", "flash", "state", "package", "head", "samples"):
            table.add_column(column)
        for row in rows:
            if "error" in row:
                table.add_row(row["url"], f"[red]{row['error']}[/]", *[""] * 8)
                continue
            table.add_row(
                row["url"], row["board"], row["uid"], f"{row['firmware']} (protocol {row['protocol']})",
                f"{row['ram'] // 1024} KiB", f"{row['flash'] // 1024} KiB", row["state"],
                (row["package"] or "none")[:12], f"{row['head']:08x}" if row["head"] is not None else "",
                f"{row['samples']} of {row['capacity']}",
            )  # fmt: skip
        console().print(table)
    return 5 if any("error" in row for row in rows) else 0


async def _ask(urls: list[str], baud: int, timeout: float) -> list[dict]:
    from quantfl.device import Device
    from quantfl.errors import DeviceError, LinkError

    async def one(url: str) -> dict:
        device = Device(url, baud=baud)
        try:
            await device.open(timeout)
            return {"url": url} | asdict(await device.hello(timeout))
        except (LinkError, DeviceError) as error:
            return {"url": url, "error": str(error)}
        finally:
            await device.close()

    return list(await asyncio.gather(*(one(u) for u in urls)))


def _list_ports(as_json: bool) -> int:
    from serial.tools import list_ports

    from quantfl.cli.output import console, print_json

    ports = [{"url": p.device, "description": p.description, "hardware": p.hwid} for p in list_ports.comports()]
    if as_json:
        print_json(ports)
        return 0
    for port in ports:
        console().print(f"{port['url']}  {port['description']}  {port['hardware']}", highlight=False)
    if not ports:
        console().print("no serial ports on this machine; name a port, or boot boards with `quantfl emulate`")
    return 0
