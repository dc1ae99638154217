"""`quantfl devices --watch`: what is said when ports come and go."""

from __future__ import annotations

import asyncio

import pytest

from quantfl.cli import devices_watch
from quantfl.cli.main import main
from quantfl.link.ports import Port

USB = Port("/dev/ttyACM0", "x", "", "0483:374b", guess="STM32 Nucleo (ST-Link V2-1)")
OTHER = Port("/dev/ttyS0", "built in", "")


def test_ports_that_come_and_go_are_said_once_and_usb_ports_are_asked(monkeypatch):
    seen = iter([[OTHER], [OTHER, USB], [OTHER, USB], [OTHER], [OTHER, USB]])
    monkeypatch.setattr("quantfl.link.ports.serial_ports", lambda: next(seen))
    monkeypatch.setattr(devices_watch, "_PERIOD_S", 0.0)
    said: list[str] = []

    async def ask(url: str) -> list[str]:
        return [f"a board at {url}"]

    with pytest.raises(RuntimeError):  # the fifth look was the last one: StopIteration in a coroutine
        asyncio.run(devices_watch.watch(said.append, ask))
    came = ["came  /dev/ttyACM0  STM32 Nucleo (ST-Link V2-1)", "      a board at /dev/ttyACM0"]
    gone = "gone  /dev/ttyACM0  STM32 Nucleo (ST-Link V2-1)"
    assert said == ["came  /dev/ttyS0  built in", *came, gone, *came]


def test_watching_takes_no_urls(capsys):
    assert main(["devices", "--watch", "socket://127.0.0.1:1"]) == 2
    assert "leave URLS" in capsys.readouterr().err


def test_ctrl_c_is_its_ordinary_end(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("quantfl.link.ports.serial_ports", interrupted)
    assert main(["devices", "--watch", "--no-ask"]) == 0
