"""A port that blocks keeps nobody else waiting, and one that opens too late is closed again."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading

import pytest

from quantfl.errors import LinkError
from quantfl.link.clock import run_virtual
from quantfl.link.threads import in_own_thread
from quantfl.link.transport import SerialTransport


def test_blocked_calls_starve_no_other():
    """Sixteen dead ports once took all threads of the shared pool."""
    release = threading.Event()

    async def go() -> int:
        blocked = [asyncio.create_task(in_own_thread(release.wait)) for _ in range(100)]
        answer = await in_own_thread(lambda: 7)
        release.set()
        await asyncio.gather(*blocked)
        return answer

    assert asyncio.run(go()) == 7


def test_errors_come_through_and_late_results_are_disposed_of():
    release, disposed = threading.Event(), threading.Event()

    def slow() -> str:
        release.wait()
        return "port"

    async def go() -> None:
        with pytest.raises(ZeroDivisionError):
            await in_own_thread(lambda: 1 // 0)
        task = asyncio.create_task(in_own_thread(slow, dispose=lambda r: r == "port" and disposed.set()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        while not disposed.is_set():
            await asyncio.sleep(0.01)

    asyncio.run(go())
    assert run_virtual(in_own_thread(lambda: 3)) == 3


def test_a_port_in_use_names_the_process(tmp_path):
    """The second process is told who has the board, and gets it once the first has closed it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        code = (
            "import asyncio; from quantfl.errors import LinkError\n"
            "from quantfl.link.transport import SerialTransport\n"
            "async def go():\n"
            f"    t = SerialTransport({url!r})\n"
            "    try: await t.open(lambda b: None, lambda r: None)\n"
            "    except LinkError as error: print(error); return\n"
            "    await t.close(); print('opened')\n"
            "asyncio.run(go())"
        )

        def other() -> str:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout

        async def go() -> tuple[str, str]:
            transport = SerialTransport(url)
            await transport.open(lambda _: None, lambda _: None)
            while_open = await asyncio.to_thread(other)
            await transport.close()
            return while_open, await asyncio.to_thread(other)

        while_open, after = asyncio.run(go())
    assert f"process {os.getpid()}" in while_open and after.strip() == "opened"


def test_a_port_that_does_not_open_is_given_back():
    async def go() -> None:
        transport = SerialTransport("socket://127.0.0.1:1")
        for _ in range(2):
            with pytest.raises(LinkError, match="cannot open"):
                await transport.open(lambda _: None, lambda _: None)
            assert transport._owned is None

    asyncio.run(go())
