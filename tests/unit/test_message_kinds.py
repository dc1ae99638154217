"""The one table of message kinds: session, trace and ledger read it; dissector and PROTOCOL.md match it."""

from __future__ import annotations

import re

import pytest

from quantfl.core import lib
from quantfl.core.link import BYTE_CATEGORIES, Link
from quantfl.link import trace
from quantfl.link.ledger import MESSAGE_NAMES, Key, Ledger
from quantfl.link.message_kinds import ANSWER, FAILED, MESSAGE_KINDS, category_of, kind_name
from tests.support import ROOT

PROTOCOL = (ROOT / "docs" / "PROTOCOL.md").read_text()
LUA = (ROOT / "tools" / "wireshark" / "quantfl.lua").read_text()
HEADER = (ROOT / "firmware" / "lib" / "qfl_device" / "include" / "qfl_msg.h").read_text()


def test_the_table_is_whole_and_says_what_the_firmware_was_compiled_with():
    rows = re.findall(r"^    X\((\d+), (\w+), (\w+), (\w+),", HEADER, re.MULTILINE)
    assert [(int(n), name, who, what) for n, name, who, what in rows] == [
        (k.number, k.name, k.sender, k.category) for k in MESSAGE_KINDS.values()
    ]
    assert (
        list(MESSAGE_KINDS) == sorted(MESSAGE_KINDS) and len({k.name for k in MESSAGE_KINDS.values()}) >= 15
    )
    for kind in MESSAGE_KINDS.values():
        assert 1 <= kind.number <= lib.QFL_MSG_KIND_MAX and kind.meaning
        assert getattr(lib, f"QFL_MSG_{kind.name}") == kind.number
    assert lib.QFL_LINK_KINDS == lib.QFL_MSG_KIND_MAX + 1 == len(MESSAGE_NAMES)
    assert lib.QFL_MSG_KIND_MAX & (ANSWER | FAILED) == 0


def test_the_dissector_knows_every_kind_by_name_and_category():
    found = re.findall(r'^  \[(\d+)\] = \{ "(\w+)", "(\w+)" \},$', LUA, re.MULTILINE)
    assert {int(n): (name, category) for n, name, category in found} == {
        k.number: (k.name, k.category) for k in MESSAGE_KINDS.values()
    }


def test_the_protocol_page_has_the_table_and_every_body():
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| (\w+) \| (.+) \|$", PROTOCOL, re.MULTILINE)
    assert rows == [(str(k.number), k.name, k.sender, k.category, k.meaning) for k in MESSAGE_KINDS.values()]
    bodies = re.findall(r"^\| (\d+) (\w+) \|", PROTOCOL, re.MULTILINE)
    assert sorted((int(n), name) for n, name in bodies) == sorted(
        (k.number, k.name) for k in MESSAGE_KINDS.values()
    )
    assert f"(`qfl_device`, protocol {lib.QFL_DEVICE_PROTOCOL})" in PROTOCOL


@pytest.mark.parametrize("number", range(1, lib.QFL_MSG_KIND_MAX + 1))
def test_both_ends_trace_and_ledger_name_every_kind(number):
    """A message of each kind is counted as that kind at both ends, in ledger and trace; those of the table
    by their names."""
    host, board = Link(), Link(initiator=False)
    host.connect(5, 0)
    board.feed(host.pull(0), 0)
    host.feed(board.pull(0), 0)
    starts: dict[tuple[str, str], bool] = {}
    for sender, receiver, first in ((host, board, number), (board, host, number | ANSWER | FAILED)):
        sender.send(bytes((first, 1)) + b"body")
        data = sender.pull(0)
        receiver.feed(data, 0)
        assert receiver.message()
        sender.feed(receiver.pull(0), 0)
        payload = BYTE_CATEGORIES.index("payload")
        assert sender.kinds()[0, number, payload] == receiver.kinds()[1, number, payload] == 6
        frame = trace.decode(0.0, "a", trace.SENT, data, starts)
        assert frame.kind == MESSAGE_NAMES[number] + (" refused" if first & FAILED else "")
    assert host.counters().swapped.digest == board.counters().digest
    ledger = Ledger()
    ledger.record(1, "a", host.kinds())
    assert {k.kind for k in ledger.rows} == {MESSAGE_NAMES[number], "LINK"}
    assert ledger.rows[Key(1, "a", "up", MESSAGE_NAMES[number])].payload == 6
    in_table = number in MESSAGE_KINDS
    assert MESSAGE_NAMES[number] == (MESSAGE_KINDS[number].name if in_table else f"kind {number}")
    assert category_of(MESSAGE_NAMES[number]) == (
        MESSAGE_KINDS[number].category if in_table else f"kind {number}"
    )


def test_bytes_in_no_message():
    assert kind_name(0) == kind_name(ANSWER) == "LINK" == category_of("LINK")
