"""Vectors in docs are what the code makes."""

from __future__ import annotations

import re

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig
from quantfl.core.link import Link
from quantfl.messages import config_bytes
from tests.support import ROOT

PROTOCOL = (ROOT / "docs" / "PROTOCOL.md").read_text()


def documented(pattern: str) -> bytes:
    match = re.search(pattern, PROTOCOL)
    assert match, pattern
    return bytes.fromhex(match[1].replace(" ", ""))


def test_frame_vectors():
    host, board = Link(quiet_ms=5000), Link(initiator=False, message_max=4160, frame_max=256)
    host.connect(0x12345678, 0)
    syn = host.pull(0)
    assert syn == documented(r"\| SYN, nonce.*\| `([0-9a-f ]+)` \|")
    board.feed(syn, 0)
    synack = board.pull(0)
    assert synack == documented(r"\| SYNACK, window.*\| `([0-9a-f ]+)` \|")
    host.feed(synack, 0)
    host.send(bytes([9, 1]))
    data = host.pull(0)
    assert data == documented(r"\| DATA, seq 0.*\| `([0-9a-f ]+)` \|")
    board.feed(data, 0)
    assert board.message() == bytes([9, 1])
    assert board.pull(0) == documented(r"\| ACK of it.*\| `([0-9a-f ]+)` \|")
    board.busy(4000)
    assert board.pull(0) == documented(r"\| ACK 1, busy.*\| `([0-9a-f ]+)` \|")
    board.send(b"x")
    host.feed(board.pull(0), 0)
    assert host.message() == b"x" and host.pull(0)
    host.connect(0x12345678 + 4, 0)
    board.feed(host.pull(0), 0)
    host.feed(board.pull(0), 0)
    board.send(b"y")
    host.feed(board.pull(0), 0)
    assert host.message() == b"y"
    board.feed(host.pull(0), 0)
    assert host.pull(5000) == documented(r"\| ACK 1, are you there.*\| `([0-9a-f ]+)` \|")


def test_config_vector():
    config = config_bytes(
        FitConfig(lr=0.05, momentum=0.9, epochs=2, batch=10), Codec("bu", 64), run_id=1, seed=7
    )
    assert config == documented(r"BU\(64\)\):\n`([0-9a-f]+)`")


def test_every_key_of_a_description_is_documented():
    from quantfl.fleet.config import RunConfig

    text = (ROOT / "docs" / "FLEET.md").read_text()
    for table, field in RunConfig.model_fields.items():
        for key in field.annotation.model_fields:
            assert key in text, f"{table}.{key}"


def test_every_data_set_is_documented():
    from quantfl.data.dataset import LOADERS

    text = (ROOT / "docs" / "DATA.md").read_text()
    for name in LOADERS:
        assert f"`{name}`" in text, name


def test_every_exit_code_is_documented():
    from quantfl import errors

    text = (ROOT / "docs" / "CLI.md").read_text()
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.QuantflError):
            assert f"| {value.exit_code} |" in text
