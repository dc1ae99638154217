"""`quantfl emulate`: boot boards and keep them running."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quantfl.cli import complete

if TYPE_CHECKING:
    import numpy as np

    from quantfl.emulation.base import Board

    #: One board's samples int8 [n, size] and labels [n].
    _Samples = tuple[np.ndarray, np.ndarray]


def command(
    board: str = typer.Option(
        "native",
        "--board",
        help="native, qemu_m4, or another emulated core: docs/BOARDS.md.",
        autocompletion=complete.kinds,
    ),
    count: int = typer.Option(1, "-n", "--count", min=1, max=64, help="How many boards."),
    seed: int = typer.Option(1, min=0, help="Decides the boards' unique ids and the split."),
    package: Path = typer.Option(
        None, "--package", help="With --data: the package whose input the samples are for."
    ),
    data: str = typer.Option(
        None,
        "--data",
        help="Feed this data set to the boards as their sensors would.",
        autocompletion=complete.data_sets,
    ),
    data_path: Path = typer.Option(None, "--data-path", help="Where the data set lies."),
    split: str = typer.Option("dirichlet:0.3", "--split", help="iid, dirichlet:ALPHA or by-writer."),
    ble: bool = typer.Option(
        False, "--ble", help="Put them on a virtual BLE adapter that bleak finds by DBUS_SYSTEM_BUS_ADDRESS."
    ),
    chaos: str = typer.Option(
        None, "--chaos", help="With --ble: faults of values in the air (docs/CHAOS.md)."
    ),
    battery: int = typer.Option(
        None, "--battery", min=0, max=100, help="Per cent of charge that native boards tell."
    ),
    port_base: int = typer.Option(
        None, "--port-base", min=1, max=65280, help="Boards listen at two ports each from this one on."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the list of boards as one JSON line."),
) -> int:
    """Boot boards, print their ports as a FLEET.toml (with --package one that runs), and keep them running
    until Ctrl-C or until this process ends."""
    from quantfl.cli.plugins import virtual_radio
    from quantfl.emulation import BOARD_KINDS, INSIDE, boot_fleet, close_all
    from quantfl.errors import UsageError
    from quantfl.suggest import meant

    if board not in BOARD_KINDS or board in INSIDE:
        known = [k for k in BOARD_KINDS if k not in INSIDE]
        raise UsageError(
            f"--board {board}: boards that other processes can reach are {', '.join(known)}"
            f"{meant(board, known)}"
        )
    if battery is not None and board != "native":
        raise UsageError(f"--battery: {board} boards have no battery; --board native has")
    if chaos is not None and not ble:
        raise UsageError(
            "--chaos needs --ble: here faults are those of a radio; `quantfl run --chaos` is for any link"
        )
    shards = None
    if data is not None:
        if package is None:
            raise UsageError("--data needs --package: samples are fed in the input quantisation of a model")
        shards = _shards(package, data, data_path, split, count, seed)
    radio = virtual_radio() if ble else None  # what is missing is said before anything boots
    boards = boot_fleet(board, count, seed=seed, ble=ble, battery=battery, port_base=port_base)
    adapter = None
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    try:
        if radio is not None:
            adapter = radio(boards, chaos)
            adapter.start()
        _announce(boards, adapter, as_json, package, (data, data_path))
        _feed(boards, shards)
        return _watch(boards, adapter, stopped)
    except KeyboardInterrupt:
        return 0
    finally:
        if adapter is not None:
            adapter.stop()
        close_all(boards)


def _watch(boards: list[Board], adapter: Any, stopped: list[int]) -> int:
    """Until Ctrl-C, SIGTERM, or the last board's end; says which boards end and why, and lets the others
    live. Returns the exit code: 1 when a board has ended."""
    from quantfl.errors import RunError

    dead: list[Board] = []
    try:
        while not stopped and len(dead) < len(boards):
            if adapter is not None and not adapter.alive:
                raise RunError("the virtual BLE adapter has ended, and with it the way to its boards")
            for b in boards:
                if b not in dead and not b.alive:
                    dead.append(b)
                    left = len(boards) - len(dead)
                    others = f"the other {left} go on" if left > 1 else "the other one goes on"
                    print(
                        f"quantfl: {b.name} ({b.kind}, {b.url}): {b.ended()}; "
                        f"{others if left else 'no board is left'}",
                        file=sys.stderr,
                        flush=True,
                    )
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    return 1 if dead else 0


def _announce(
    boards: list[Board],
    adapter: Any,
    as_json: bool,
    package: Path | None,
    data: tuple[str | None, Path | None],
) -> None:
    import json

    urls = {b: b.url if adapter is None else f"ble://{b.name}" for b in boards}
    if as_json:
        rows = [{"name": b.name, "kind": b.kind, "url": urls[b], "samples": b.samples_url} for b in boards]
        bus = {} if adapter is None else {"dbus_system_bus_address": adapter.address}
        print(json.dumps([row | bus for row in rows]), flush=True)
        return
    if adapter is not None:
        print(f"# export DBUS_SYSTEM_BUS_ADDRESS='{adapter.address}'")
    if package is None:
        print("# A FLEET.toml needs a model besides; --package adds it.")
    else:
        print(f"[model]\npath = {json.dumps(str(package.resolve()))}")
    name, place = data
    if name is not None:  # for the host's test set; the boards have been given theirs
        print(f"\n[data]\nname = {json.dumps(name)}")
        print("" if place is None else f"path = {json.dumps(str(place.resolve()))}\n", end="")
    for b in boards:
        fed = f"samples = {json.dumps(b.samples_url)}\n" if b.samples_url and name is None else ""
        print(
            f"\n[[fleet.board]]  # {b.kind}\nname = {json.dumps(b.name)}\nurl = {json.dumps(urls[b])}\n{fed}",
            end="",
        )
    sys.stdout.flush()


def _shards(package: Path, data: str, path: Path | None, split: str, count: int, seed: int) -> list[_Samples]:
    from quantfl.fleet.config import DataTable, FleetTable, ModelTable, RunConfig, RunTable
    from quantfl.fleet.setup import load_package, shards

    config = RunConfig(
        model=ModelTable(path=str(package)),
        fleet=FleetTable(emulate="native", boards=count),
        run=RunTable(seed=seed),
        data=DataTable(name=data, path=str(path.resolve()) if path else None, split=split),
    )
    return shards(config, load_package(package), Path.cwd()).clients


def _feed(boards: list[Board], shards: list[_Samples] | None) -> None:
    """Each board's samples wait in its channel until a package is on it; feeding must not hold up the
    others."""
    import threading

    for b, part in zip(boards, shards or [], strict=False):
        threading.Thread(target=_feed_one, args=(b, part), daemon=True).start()


def _feed_one(board: Board, part: _Samples) -> None:
    from quantfl.errors import LinkError

    while board.alive:
        try:
            board.feed(*part)
            return
        except LinkError:
            time.sleep(1.0)
