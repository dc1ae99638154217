"""What a board says of itself is somebody else's bytes: each of these once killed, hung or fooled the
host."""

from __future__ import annotations

from decimal import Decimal

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.board_info import parse_info, uid_of
from quantfl.messages import DeviceInfo

GOOD = {
    "protocol": 3,
    "firmware": "0.1.0",
    "board": "qemu_m4",
    "uid": b"\x01\x02",
    "ram": 262144,
    "flash": 4194304,
    "arena": 1000,
    "store": 5000,
    "state": 1,
    "reset": 0,
    "uptime_ms": 12,
    "lost": 0,
    "operators": 0xFFFFFFFF,
    "selftest": 0,
}


def with_(**fields) -> bytes:
    return cbor2.dumps(GOOD | fields)


def test_a_sound_description_is_read():
    info = parse_info(with_(package=bytes(32), head=7, battery=88, kept=1))
    assert (
        info.uid == "0102" and info.ram == 262144 and info.package == "00" * 32 and info.battery_percent == 88
    )
    assert (
        info.persisted == ("package",) and info.state == "idle" and parse_info(with_(newer="x")).uid == "0102"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": 3_000_000_000},
        {"uid": 2**40},
        {"uid": "00"},
        {"uid": bytes(65)},
        {"package": 3_000_000_000},
        {"package": b"\0"},
        {"ram": float("inf")},
        {"ram": float("nan")},
        {"ram": Decimal("1E+200000000")},
        {"ram": "9" * 500},
        {"ram": True},
        {"ram": -1},
        {"ram": 2**32},
        {"kept": -1},
        {"kept": 1.5},
        {"battery": -1},
        {"battery": float("nan")},
        {"operators": 1 << 3000},
        {"selftest": None},
        {"state": [1]},
        {"reset": {}},
        {"board": 7},
        {"board": ""},
        {"board": "x" * 65},
        {"firmware": b"0.1"},
        {"head": -1},
        {"classes": 70_000},
        {"protocol": 256},
        {"keys": []},
    ],
    ids=lambda fields: str(fields)[:24],
)
def test_a_field_of_another_kind_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields)) + "|tag|bytes") as error:
        parse_info(with_(**fields))
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 900_000,
        b"\x81" * 100_000 + b"\x00",
        b"\x81" * 900 + b"\x00",
        bytes.fromhex("9b4000000000000000"),
        bytes.fromhex("ba7fffffff"),
        bytes.fromhex("5b0000010000000000"),
        bytes.fromhex("d81c81d81d00"),
        bytes.fromhex("c4821a7fffffff01"),
        bytes.fromhex("d81e820100"),
        bytes.fromhex("c06161"),
        bytes.fromhex("d9010280"),
        bytes.fromhex("bf616101ff"),
        bytes.fromhex("5f4101ff"),
        b"\xa1\x01\x02",
        b"\x80",
        b"\xf6",
        b"\x61a",
        b"\xa0",
        b"\xd8\x23\x78\x1e" + b"(a+)+" * 6,
        b"\xa1\x61\xff\x00",
        cbor2.dumps(GOOD) + b"\x00",
        cbor2.dumps(GOOD)[:-1],
    ],
    ids=lambda d: d[:12].hex(),
)
def test_nonsense_is_refused_before_anything_is_made_of_it(data):
    with pytest.raises(ValueError):
        parse_info(data)
    assert uid_of(data) == ""


def test_text_is_harmless_on_a_terminal():
    info = parse_info(with_(board="\x1b]0;owned\x07\x1b[2J native", firmware="[link=x]y[/link]\u202e"))
    assert info.board == "??0?owned???2J native" and "[" not in info.firmware and info.firmware.isascii()


@given(st.binary(max_size=400))
@settings(max_examples=600, deadline=None)
def test_any_bytes_give_a_description_or_a_refusal(data):
    try:
        assert isinstance(parse_info(data), DeviceInfo)
    except ValueError as error:
        assert "\n" not in str(error)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*GOOD, "package", "head", "battery", "kept", "x"]), VALUES, max_size=4)
)
@settings(max_examples=600, deadline=None)
def test_any_fields_give_a_description_or_a_refusal(fields):
    try:
        info = parse_info(with_(**fields))
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert 0 <= info.ram < 2**32 and len(info.uid) <= 64 and info.board.isascii() and info.board.isprintable()
