"""`quantfl keys`: make, list, provision, rotate and remove keys of boards; sign packages
(docs/SECURITY.md)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from quantfl.link.keys import KeyRing

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Keys of boards, and of the owner who signs packages."
)
FILE = typer.Option(Path("keys.toml"), "--file", "-f", envvar="QUANTFL_KEYS", help="The key file.")
URLS = typer.Argument(..., help="Ports of the boards.")
BAUD = typer.Option(921_600, min=300, help="Bits per second on a serial port.")
TIMEOUT = typer.Option(10.0, min=0.1, help="Seconds for each board.")
ANY = typer.Option(False, "--any-package", help="Let the board run packages that the owner has not signed.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def _fingerprint(ring: KeyRing) -> str:
    """The first half of the owner's public key, in hexadecimal digits."""
    return "none" if ring.owner is None else ring.owner.hex()[:16]


@app.command()
def make(file: Path = FILE) -> int:
    """Make a key file with a new signing key and no boards; never overwrites one."""
    from quantfl.link.keys import KeyRing

    ring = KeyRing.make(file)
    typer.echo(f"{file}: new key file, owner {_fingerprint(ring)}; keep it secret, and a copy of it safe")
    return 0


@app.command("list")
def list_(file: Path = FILE, as_json: bool = JSON) -> int:
    """Show the boards of a key file by fingerprints of their keys; the keys themselves are not shown."""
    from quantfl.cli.output import console, print_json
    from quantfl.link.keys import KeyRing

    ring = KeyRing.load(file)
    rows = [
        {
            "uid": b.uid,
            "name": b.name,
            "fingerprint": b.fingerprint,
            "state": b.state,
        }
        for b in ring.boards.values()
    ]
    owner = {"public": ring.owner.hex() if ring.owner else None, "can_sign": ring.can_sign}
    if as_json:
        print_json({"file": str(file), "owner": owner, "boards": rows})
        return 0
    from quantfl.report.tables import Column, FittedTable

    table = FittedTable(
        [Column("board", name=True), Column("name", name=True), Column("key"), Column("state")]
    )
    for row in rows:
        table.add(*row.values())
    console().print(table)
    sign = "signs packages" if ring.can_sign else "checks packages only"
    console().print(f"owner {_fingerprint(ring)}: this file {sign}", highlight=False)
    return 0


@app.command()
def provision(
    urls: list[str] = URLS,
    file: Path = FILE,
    any_package: bool = ANY,
    reset: bool = typer.Option(
        False, "--reset", help="You have erased these boards: give them new keys though the file has some."
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask, also where others may listen."),
    baud: int = BAUD,
    timeout: float = TIMEOUT,
    as_json: bool = JSON,
) -> int:
    """Give boards without keys their first ones. The key travels plainly: use a cable that nobody listens
    on."""
    _ask_where_others_listen(urls, yes)
    options = {"owner": not any_package, "reset": reset, "timeout": timeout}
    return _each(urls, file, baud, as_json, "provision", **options)


def _ask_where_others_listen(urls: list[str], yes: bool) -> None:
    """A first key crosses the link in clear. Over a radio or a network that is the user's decision.
    UsageError without it."""
    import sys

    from quantfl.errors import UsageError
    from quantfl.link.ports import is_private

    exposed = [url for url in urls if not is_private(url)]
    if not exposed or yes:
        return
    text = f"the first key would cross {', '.join(exposed)} in clear, where others may read or change it"
    if not sys.stdin.isatty():
        raise UsageError(f"{text}; use a cable, or --yes if nobody else is on that link")
    typer.confirm(f"quantfl: {text}. Send it?", abort=True, err=True)


@app.command()
def rotate(
    urls: list[str] = URLS,
    file: Path = FILE,
    any_package: bool = ANY,
    baud: int = BAUD,
    timeout: float = TIMEOUT,
    as_json: bool = JSON,
) -> int:
    """Give boards new keys, over links with the old ones. Broken off, it goes on when called again."""
    return _each(urls, file, baud, as_json, "rotate", owner=not any_package, timeout=timeout)


@app.command()
def remove(
    urls: list[str] = URLS,
    file: Path = FILE,
    baud: int = BAUD,
    timeout: float = TIMEOUT,
    as_json: bool = JSON,
) -> int:
    """Take boards' keys away, and out of the file: they talk to anybody then."""
    return _each(urls, file, baud, as_json, "remove", timeout=timeout)


def _each(urls: list[str], file: Path, baud: int, as_json: bool, what: str, **options: Any) -> int:
    from quantfl import provision as actions
    from quantfl.cli.output import console, print_json
    from quantfl.device import Device
    from quantfl.errors import QuantflError
    from quantfl.link.keys import KeyRing

    ring = KeyRing.load(file)

    async def one(url: str) -> dict[str, Any]:
        device = Device(url, baud=baud, keys=ring)
        try:
            uid = await getattr(actions, what)(device, **options)
            return {
                "url": url,
                "uid": uid,
                "fingerprint": ring.boards[uid].fingerprint if uid in ring.boards else None,
            }
        except QuantflError as error:
            return {"url": url, "error": str(error), "exit_code": error.exit_code}
        finally:
            await device.close()

    async def all_() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(one(u) for u in urls)))

    rows = asyncio.run(all_())
    code = next((row.pop("exit_code") for row in rows if "exit_code" in row), 0)
    if as_json:
        print_json(rows)
        return code
    done = {"provision": "has its key", "rotate": "has a new key", "remove": "has no key any more"}[what]
    for row in rows:
        if "error" in row:
            console().print(f"{row['url']}  {row['error']}", style="red", highlight=False, markup=False)
        else:
            mark = f" {row['fingerprint']}" if row["fingerprint"] else ""
            console().print(f"{row['url']}  board {row['uid']} {done}{mark}", highlight=False, markup=False)
    return code


@app.command()
def forget(
    uids: list[str] = typer.Argument(..., help="Ids of boards, as `quantfl keys list` shows them."),
    file: Path = FILE,
) -> int:
    """Drop boards and their keys from the file; the boards keep theirs, and nobody can talk to them any
    more."""
    from quantfl.errors import UsageError
    from quantfl.link.keys import KeyRing

    ring = KeyRing.load(file)
    unknown = [uid for uid in uids if uid not in ring.boards]
    if unknown:
        raise UsageError(f"{file} has no board {unknown[0]}; `quantfl keys list` shows those it has")
    for uid in uids:
        ring.forget(uid)
        typer.echo(f"{file}: board {uid} forgotten")
    return 0


@app.command()
def sign(
    package: Path = typer.Argument(..., help="A package made by `quantfl convert`."),
    out: Path = typer.Option(..., "-o", "--out", help="Where the signed package is written."),
    file: Path = FILE,
) -> int:
    """Sign PACKAGE, so that it can be pushed where the signing key is not."""
    from quantfl.errors import UsageError
    from quantfl.fleet.checkpoint import write_atomic
    from quantfl.link.keys import KeyRing
    from quantfl.package.flatfile import read_file
    from quantfl.package.program import open_package

    ring = KeyRing.load(file)
    if not ring.can_sign:
        raise UsageError(f"{file} has no signing key")
    data = read_file(package)
    open_package(data, str(package))
    write_atomic(out, ring.sign(data))
    typer.echo(f"{out}: signed by owner {_fingerprint(ring)}")
    return 0
