"""Greet a board, and print what it says of itself.

    python examples/hello_board.py [URL]

URL: a serial port such as /dev/ttyUSB0 or COM3, or ble://NAME. Without it, a virtual board answers.
"""

from __future__ import annotations

import asyncio
import sys

import quantfl


async def greet(url: str) -> None:
    """Ask the board at `url` for its description and its state."""
    async with quantfl.Device(url) as device:
        info = await device.read_info()
        print(f"board      {info.board}, id {info.uid}")
        print(f"firmware   {info.firmware}, protocol {info.protocol}")
        print(f"memory     {info.arena:,} bytes of arena, {info.store:,} bytes for packages")
        print(f"package    {info.package or 'none yet'}")
        cases, failed, _ = await device.selftest()
        print(f"self-test  {cases} cases, {failed} failed")


if len(sys.argv) > 1:
    asyncio.run(greet(sys.argv[1]))
else:
    with quantfl.emulate(1, kind="inproc") as boards:
        asyncio.run(greet(boards[0].url))
