"""A port that cannot be opened: the cause and its remedy, not the words of a library."""

from __future__ import annotations

import asyncio
import errno

import pytest

from quantfl.errors import LinkError
from quantfl.link.port_errors import address_fault, cause_of
from quantfl.link.transport import SerialTransport


def refusal(url: str) -> str:
    async def go() -> None:
        await SerialTransport(url).open(lambda _: None, lambda _: None)

    with pytest.raises(LinkError) as error:
        asyncio.run(go())
    assert error.value.exit_code == 5 and "\n" not in str(error.value) and url in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("socket://127.0.0.1", "HOST:PORT"),
        ("socket://host:text", "HOST:PORT"),
        ("socket://127.0.0.1:70000", "1 to 65535"),
        ("socket://127.0.0.1:0", "1 to 65535"),
        ("socket://:7000", "HOST:PORT"),
        ("rfc2217://127.0.0.1", "rfc2217://HOST:PORT"),
        ("socket://127.0.0.1:1", "nothing listens there"),
        ("/dev/no-such-port", "quantfl devices"),
        ("hwgrep://no-such-board", "no port fits"),
        ("carrier-pigeon://x", "no such kind of port"),
    ],
)
def test_the_cause_and_its_remedy(url, words):
    text = refusal(url)
    assert words in text
    assert "NoneType" not in text and "debug|info" not in text and "Errno" not in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "permission is missing"),
        (OSError(errno.EBUSY, "Device or resource busy"), "another program"),
        (OSError("[Errno 11] Could not exclusively lock port /dev/x: [Errno 11] busy"), "another program"),
        (OSError("Could not open port: timed out"), "nobody answers"),
        (OSError("[Errno -2] Name or service not known"), "no machine of that name"),
        (ValueError(""), "ValueError"),
    ],
)
def test_errors_of_the_system_by_number(error, words):
    assert words in cause_of("/dev/ttyUSB0", error)


def test_other_ports_have_no_address():
    assert address_fault("/dev/ttyUSB0") is None and address_fault("COM3") is None
    assert address_fault("socket://[::1]:7000") is None and address_fault("ble://x") is None
