"""`quantfl devices --watch`: serial ports and the boards at them, as they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_PERIOD_S = 1.0


async def watch(say: Callable[[str], None], ask: Callable[[str], Awaitable[list[str]]] | None) -> None:
    """Look at this machine's serial ports once a second, for ever. say: a line for a port that came or went.
    ask: what the board at a USB port says of itself, in lines; None: nobody is asked."""
    from quantfl.link import ports

    known: dict[str, str] = {}
    while True:
        there = {p.url: p for p in ports.serial_ports()}
        for url in sorted(known.keys() - there.keys()):
            say(f"gone  {url}  {known.pop(url)}")
        for url in sorted(there.keys() - known.keys()):
            port = there[url]
            known[url] = port.guess or port.description
            say(f"came  {url}  {known[url]}")
            if ask is not None and port.usb:
                for line in await ask(url):
                    say(f"      {line}")
        await asyncio.sleep(_PERIOD_S)
