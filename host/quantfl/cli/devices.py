"""`quantfl devices`: what boards say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quantfl.cli import complete

if TYPE_CHECKING:
    from quantfl.link.keys import KeyRing


def command(
    urls: list[str] = typer.Argument(
        None,
        help="Ports: /dev/tty…, COM3, socket://host:port, rfc2217://host:port, ble://NAME.",
        autocompletion=complete.ports,
    ),
    baud: int = typer.Option(921_600, min=300, help="Bits per second on a serial port."),
    timeout: float = typer.Option(
        5.0, min=0.1, help="Seconds to wait for each board; at most 3 of them to scan."
    ),
    ble: bool = typer.Option(
        True, "--ble/--no-ble", help="Without URLS: also look for BLE boards, where there is Bluetooth."
    ),
    ask: bool = typer.Option(
        True, "--ask/--no-ask", help="Without URLS: ask at USB serial ports who is there."
    ),
    keys: Path = typer.Option(
        None, "--keys", envvar="QUANTFL_KEYS", help="Key file: talk to boards that hold its keys only."
    ),
    trace: Path = typer.Option(
        None, "--trace", help="Write every frame to this file (quantfl trace, Wireshark)."
    ),
    watch: bool = typer.Option(
        False, "--watch", help="Without URLS: show ports and boards as they come and go, until Ctrl-C."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> int:
    """Show boards: firmware, protocol, memory, model and head, samples. Without URLS: this machine's serial
    ports, with the boards that answer at those on USB, and the BLE boards in reach with board, firmware,
    battery and signal.

    Exit code 5 when a named board does not answer, 10 when it has another key; the others are shown
    nevertheless.
    """
    from quantfl.cli.output import console, print_json
    from quantfl.link.keys import KeyRing
    from quantfl.link.trace import tracing

    ring = KeyRing.load(keys) if keys else None
    if watch:
        return _watch(urls, baud, timeout, ask, as_json, ring)
    if not urls:
        with tracing(trace):
            return _list(baud, timeout, ble, ask, as_json, ring)
    with tracing(trace):
        rows = asyncio.run(_ask(urls, baud, timeout, ring))
    code = next((row.pop("exit_code") for row in rows if "exit_code" in row), 0)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            for line in _lines(row):
                console().print(
                    line,
                    style="red" if "error" in row else None,
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
    return code


def _watch(
    urls: list[str] | None, baud: int, timeout: float, ask: bool, as_json: bool, ring: KeyRing | None
) -> int:
    from quantfl.cli.devices_watch import watch
    from quantfl.errors import UsageError

    if urls or as_json:
        raise UsageError("--watch shows all serial ports, in lines for people: leave URLS and --json out")

    async def who(url: str) -> list[str]:
        (row,) = await _ask([url], baud, timeout, ring)
        return _lines(row)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(lambda line: print(line, flush=True), who if ask else None))
    return 0


def _lines(row: dict[str, Any]) -> list[str]:
    """A board for people: who it is, and below what it has and holds; or what is wrong."""
    if "error" in row:
        return [f"{row['url']}  {row['error']}"]
    firmware = f"firmware {row['firmware']} (protocol {row['protocol']})"
    who = [row["url"], *_radio(row), row["board"], row["uid"], firmware, row["state"]]
    holds = [f"RAM {row['ram'] // 1024} KiB", f"flash {row['flash'] // 1024} KiB"]
    if row["package"]:
        holds += [
            f"package {row['package'][:12]}",
            f"head {row['head']:08x}",
            f"samples {row['samples']} of {row['capacity']}",
        ]
    else:
        holds.append("no package")
    notes = [f"    {row['flash_note']}"] if row.get("flash_note") else []
    return ["  ".join(who), "    " + ", ".join([*holds, *_battery(row)]), *notes]


def _radio(row: dict[str, Any]) -> list[str]:
    """Name and signal, of a board reached over BLE."""
    signal = row.get("signal_dbm")
    return [*filter(None, [row.get("name")]), *([] if signal is None else [f"{signal} dBm"])]


def _battery(row: dict[str, Any]) -> list[str]:
    return [] if row.get("battery_percent") is None else [f"battery {row['battery_percent']} %"]


async def _ask(
    urls: list[str], baud: int, timeout: float, keys: KeyRing | None = None
) -> list[dict[str, Any]]:
    from quantfl.device import Device
    from quantfl.errors import DeviceError, LinkError, SecurityError

    async def one(url: str) -> dict[str, Any]:
        device = Device(url, baud=baud, keys=keys)
        row: dict[str, Any] = {"url": url}
        try:
            await device.open(timeout)
            info = await device.read_info(timeout)
            row |= asdict(info) | {"flash_note": info.flash_note}
            return row | await device.session.transport.describe()
        except (LinkError, DeviceError) as error:
            return row | {
                "error": str(error),
                "exit_code": error.exit_code if isinstance(error, SecurityError) else 5,
            }
        finally:
            await device.close()

    return list(await asyncio.gather(*(one(u) for u in urls)))


def _list(baud: int, timeout: float, ble: bool, ask: bool, as_json: bool, keys: KeyRing | None) -> int:
    from dataclasses import asdict as plain

    from quantfl.cli.output import console, print_json, stderr_console
    from quantfl.link import ports

    found = {p.url: {k: v for k, v in plain(p).items() if v} for p in ports.serial_ports()}
    found |= {
        url: {"url": url, "description": "from QUANTFL_PORTS"} for url in ports.listed() if url not in found
    }
    if ask:
        for row in asyncio.run(_ask(ports.candidates(), baud, timeout, keys)):
            row.pop("exit_code", None)
            found[row["url"]] |= row
    boards, note = asyncio.run(_ble(baud, timeout, keys)) if ble else ([], None)
    if note is not None:
        stderr_console().print(note, highlight=False, markup=False)
    if as_json:
        print_json([*found.values(), *boards])
        return 0
    for row in found.values():
        what = [row.get("description", ""), row.get("usb", ""), row.get("guess", "")]
        if "uid" in row:
            what = [
                row["board"],
                row["uid"],
                f"firmware {row['firmware']}",
                row["state"],
                *_battery(row),
                *what[1:],
            ]
        elif "error" in row:
            what.append("no quantfl board answers")
        console().print(
            "  ".join([row["url"], *filter(None, what)]), highlight=False, markup=False, soft_wrap=True
        )
    if not found:
        console().print("no serial ports on this machine; name a port, or boot boards with `quantfl emulate`")
    for row in boards:
        state = (
            row["error"] if "error" in row else f"{row['board']}  firmware {row['firmware']}  {row['state']}"
        )
        text = "  ".join([row["url"], *_radio(row), state, *_battery(row)])
        console().print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


async def _ble(baud: int, timeout: float, keys: KeyRing | None) -> tuple[list[dict[str, Any]], str | None]:
    """Boards that advertise the serial service, each asked who it is; and a note when there is no Bluetooth
    here."""
    from quantfl.errors import LinkError, ToolError
    from quantfl.link.ble import scan

    try:
        found = await scan(min(timeout, 3.0))
    except (LinkError, ToolError) as error:
        return [], f"no BLE boards: {error}"
    rows = {row["url"]: row for row in await _ask([a.url for a in found], baud, timeout, keys)}
    for row in rows.values():
        row.pop("exit_code", None)
    boards = []
    for a in found:
        row = rows[a.url] | {"name": a.name, "address": a.address, "signal_dbm": a.rssi}
        if row.get("battery_percent") is None:  # neither the board nor its battery service has told
            row["battery_percent"] = a.battery
        boards.append(row)
    return boards, None
