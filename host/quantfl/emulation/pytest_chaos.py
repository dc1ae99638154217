"""A pytest plug-in: `pytest_plugins = ["quantfl.emulation.pytest_chaos"]` gives the fixture `faulty_device`
(docs/CHAOS.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quantfl.core.codec import Codec
from quantfl.device import Device
from quantfl.emulation.base import Board
from quantfl.fleet.chaos import FaultInjector
from quantfl.link.chaos import parse
from quantfl.link.transport import open_transport


@pytest.fixture
def faulty_device() -> Callable[..., Device]:
    """A function (port or emulated board, spec, tensors=(), codec=None) -> Device behind a faulty line.

    `device.session.transport` is the line: `.quiet = True` ends the faults, `.lines` counts them. tensors,
    codec: of the deltas, for lies. Closing the device is the test's business.
    """

    def make(
        board: str | Board, spec: str, *, tensors: tuple[int, ...] = (), codec: Codec | None = None
    ) -> Device:
        url, name, reset = (
            (board, board, None) if isinstance(board, str) else (board.url, board.name, board.reset)
        )
        injector = FaultInjector(parse(spec), tensors, codec or Codec("bu"))
        return Device(url, name=name, session=injector.session(name, open_transport(url), reset))

    return make
