"""Boards that are attached: `pytest tests/hardware --port URL`. Without --port all are skipped."""

from __future__ import annotations

import pytest

REPORT: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--port", action="append", default=[], help="port of a board: /dev/ttyUSB0, ble://NAME")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "port" in metafunc.fixturenames:
        ports = metafunc.config.getoption("--port", default=None) or [None]
        metafunc.parametrize("port", ports, ids=str)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What to paste into an issue."""
    if REPORT:
        terminalreporter.section("report: paste it into an issue")
        for line in REPORT:
            terminalreporter.write_line(line)
