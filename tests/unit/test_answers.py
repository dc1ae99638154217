"""Every answer of a board is somebody else's bytes: what is wrong with one is that board's failure, in one
line."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.answers import LONGEST, PARSERS, PartialAnswer, parse_offset, parse_resume, parse_train
from quantfl.core import lib
from quantfl.core.link import Counters
from quantfl.device import Device
from quantfl.errors import DeviceError, QuantflError
from quantfl.link.clock import run_virtual
from quantfl.link.message_kinds import ANSWER, FAILED, MESSAGE_KINDS
from quantfl.link.session import Answer
from tests.fuzz import fuzz_host
from tests.fuzz.fuzz_host import HEAD, REQUESTS, SOUND, Scripted, mutated, plain_line

NAMES = {number: kind.name for number, kind in MESSAGE_KINDS.items()}


def test_every_kind_of_message_has_a_parser_and_a_request():
    assert set(PARSERS) == set(REQUESTS) == set(SOUND) == set(MESSAGE_KINDS)


@pytest.mark.parametrize("kind", PARSERS, ids=NAMES.get)
def test_sound_answers_are_read(kind):
    for body in SOUND[kind][: 1 if kind == lib.QFL_MSG_RESUME else None]:
        PARSERS[kind](body)


@pytest.mark.parametrize("kind", PARSERS, ids=NAMES.get)
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_random_and_mutated_answers_are_read_or_refused_in_a_plain_line(kind, data):
    if data.draw(st.booleans()):
        body = data.draw(st.binary(max_size=400))
    else:
        rng = random.Random(data.draw(st.integers(0, 2**32)))
        body = mutated(rng, rng.choice(SOUND[kind]))
    try:
        PARSERS[kind](body)
    except ValueError as error:
        assert plain_line(str(error))


#: Of a fixed length: whatever is longer or shorter is refused.
FIXED = [
    k
    for k in PARSERS
    if k
    not in (
        lib.QFL_MSG_INFO,
        lib.QFL_MSG_TRAIN,
        lib.QFL_MSG_TRAIN_UPDATE,
        lib.QFL_MSG_STATS,
        lib.QFL_MSG_RESUME,
    )
]


@pytest.mark.parametrize("kind", FIXED, ids=NAMES.get)
def test_not_a_byte_more_or_less(kind):
    body = SOUND[kind][0]
    for wrong in {body + b"\0", body + bytes(100), body[:-1], body[1:], body[: len(body) // 2]} - {body}:
        with pytest.raises(ValueError):
            PARSERS[kind](wrong)


STATUS_FIELDS = (
    *("state", "flags", "samples", "capacity", "head", "round", "rejected"),
    *("held", "global_hits", "hits"),
)


def status(**fields) -> bytes:
    sound = dict(
        zip(
            STATUS_FIELDS,
            struct.unpack("<BBHHIHIHHH", SOUND[lib.QFL_MSG_STATUS][0]),
            strict=True,
        )
    )
    return struct.pack("<BBHHIHIHHH", *(sound | fields).values())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (lib.QFL_MSG_STATUS, status(state=5)),
        (lib.QFL_MSG_STATUS, status(flags=0x20)),
        (lib.QFL_MSG_STATUS, status(samples=101)),
        (lib.QFL_MSG_STATUS, status(held=41)),
        (lib.QFL_MSG_STATUS, status(global_hits=5)),
        (lib.QFL_MSG_STATUS, status(hits=5)),
        (lib.QFL_MSG_EVAL, struct.pack("<IIf", 40, 41, 0.5)),
        (lib.QFL_MSG_EVAL, struct.pack("<IIf", 65_536, 1, 0.5)),
        (lib.QFL_MSG_EVAL, struct.pack("<IIf", 40, 4, math.nan)),
        (lib.QFL_MSG_EVAL, struct.pack("<IIf", 40, 4, math.inf)),
        (lib.QFL_MSG_EVAL, struct.pack("<IIf", 40, 4, -1.0)),
        (lib.QFL_MSG_SELFTEST, struct.pack("<3H", 30, 31, 1)),
        (lib.QFL_MSG_SELFTEST, struct.pack("<3H", 30, 1, 0)),
        (lib.QFL_MSG_SELFTEST, struct.pack("<3H", 30, 0, 1)),
        (lib.QFL_MSG_TRAIN, b""),
        (lib.QFL_MSG_TRAIN, SOUND[lib.QFL_MSG_TRAIN][0][:5]),
        (lib.QFL_MSG_TRAIN, bytes(2) + SOUND[lib.QFL_MSG_TRAIN][0][2:]),
        (lib.QFL_MSG_TRAIN_UPDATE, bytes(5)),
        (lib.QFL_MSG_UPDATE, struct.pack("<I", HEAD + 1)),
        (lib.QFL_MSG_UPDATE, struct.pack("<I", HEAD) + b"\0"),
        (lib.QFL_MSG_CONFIG, b"\0"),
        (lib.QFL_MSG_KEYS, b"\0"),
        (lib.QFL_MSG_STATS, bytes(11)),
        (lib.QFL_MSG_STATS, struct.pack("<HII", 40, 2**32 - 1, 2**32 - 1) + bytes(50)),
        (lib.QFL_MSG_STATS, struct.pack("<HII", 0, 4, 4) + bytes(50)),
        (lib.QFL_MSG_COUNTERS, bytes(79)),
        (lib.QFL_MSG_COUNTERS, bytes(84)),
        (lib.QFL_MSG_INFO, b""),
    ],
)
def test_wrong_answers_are_the_boards_failure_in_one_line(kind, body):
    """Through a device, as a run meets them."""

    class Wrong(Scripted):
        def message(self, kind: int, number: int) -> bytes:
            return bytes((kind | ANSWER, number)) + body

    async def go() -> None:
        session = Wrong(random.Random(1))
        session.rng.randrange = lambda _n: 1  # no answer is cut off
        await REQUESTS[kind](Device("fuzz://board", name="board-07", session=session))

    with pytest.raises(DeviceError) as caught:
        run_virtual(go())
    assert plain_line(str(caught.value)) and "board-07" in str(caught.value)


@pytest.mark.parametrize("kind", PARSERS, ids=NAMES.get)
@pytest.mark.parametrize("status", [0, 1, 127])
def test_a_refusal_without_an_error_is_no_success(kind, status):
    class Refuses(Scripted):
        def message(self, kind: int, number: int) -> bytes:
            return bytes((kind | ANSWER | FAILED, number, status)) + SOUND[kind][0]

    async def go() -> None:
        session = Refuses(random.Random(1))
        session.rng.randrange = lambda _n: 1
        await REQUESTS[kind](Device("fuzz://board", session=session))

    with pytest.raises(DeviceError, match="is no error"):
        run_virtual(go())


@pytest.mark.parametrize("body", [b"", bytes(3), bytes(5), bytes(200)])
@pytest.mark.parametrize("kind", [lib.QFL_MSG_TRAIN, lib.QFL_MSG_UPDATE])
def test_a_stale_board_names_the_head_it_holds_in_four_bytes(kind, body):
    class Stale(Scripted):
        def message(self, kind: int, number: int) -> bytes:
            return bytes((kind | ANSWER | FAILED, number, lib.QFL_E_STALE & 0xFF)) + body

    async def go() -> None:
        session = Stale(random.Random(1))
        session.rng.randrange = lambda _n: 1
        await REQUESTS[kind](Device("fuzz://board", session=session))

    with pytest.raises(DeviceError, match="make no sense"):
        run_virtual(go())


def test_offsets_lie_within_the_object():
    assert parse_offset(struct.pack("<I", 100), 100) == 100
    with pytest.raises(ValueError, match="offset 101"):
        parse_offset(struct.pack("<I", 101), 100)


def test_what_a_board_sends_again_and_again_is_not_kept():
    """Refusals that nobody waits for, and pieces of an answer that never ends."""
    session = Scripted(random.Random(1))
    for number in range(10_000):
        session._on_message(
            bytes((lib.QFL_MSG_PUT_DATA | ANSWER | FAILED, number & 0xFF, lib.QFL_E_STATE & 0xFF)) + bytes(4)
        )
    assert session.refusals.qsize() <= 64
    part = PartialAnswer(lib.QFL_MSG_TRAIN, 3, bytes(5), 5)
    part.take(bytes((lib.QFL_MSG_TRAIN | ANSWER, 3)) + bytes(1000))
    for _ in range(30):
        part.take(bytes((lib.QFL_MSG_RESUME | ANSWER, 3)) + bytes(100_000))
        assert len(part.data) <= LONGEST
    assert part.whole(Answer(lib.QFL_MSG_RESUME, 3, 0, b"", Counters())) is None


def test_a_resumed_answer_is_whole_or_asked_anew():
    body = SOUND[lib.QFL_MSG_TRAIN][3]
    part = PartialAnswer(lib.QFL_MSG_TRAIN, 3, bytes(5), 5)
    part.take(bytes((lib.QFL_MSG_TRAIN | ANSWER, 3)) + body[:9])
    resumed = SOUND[lib.QFL_MSG_RESUME][0]
    whole = part.whole(Answer(lib.QFL_MSG_RESUME, 3, 0, resumed, Counters()))
    assert whole is not None and whole.body == body and parse_train(whole.body).samples == 40
    for wrong in (resumed[:-1], resumed + b"\0", resumed[:20], b""):
        part.take(bytes((lib.QFL_MSG_TRAIN | ANSWER, 3)) + body[:9])
        assert part.whole(Answer(lib.QFL_MSG_RESUME, 3, 0, wrong, Counters())) is None
    with pytest.raises(ValueError):
        parse_resume(bytes(36), 5)


def test_the_fuzz_target_runs_clean():
    clean, count, _ = fuzz_host.run(4000, None, 7)
    assert clean and count == 4000


def test_the_fuzz_target_sees_what_gets_through(monkeypatch):
    """An error that is none of quantfl's, and a message of two lines."""

    async def lets_through(_device: Device) -> None:
        raise KeyError("traceback")

    monkeypatch.setitem(REQUESTS, lib.QFL_MSG_EVAL, lets_through)
    assert not fuzz_host.run(500, None, 7)[0]

    async def two_lines(_device: Device) -> None:
        raise QuantflError("one\ntwo")

    monkeypatch.setitem(REQUESTS, lib.QFL_MSG_EVAL, two_lines)
    assert not fuzz_host.run(500, None, 7)[0]
