"""Chaos: the language, the faulty line byte by byte, lies, virtual time."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.cli.main import main
from quantfl.core import lib
from quantfl.core.codec import Codec, CodecError, decode
from quantfl.errors import LinkError, UsageError
from quantfl.fleet.chaos import FaultInjector
from quantfl.link.chaos import BOARD, BOOT, DOWN, LIES, LINE, UP, Fault, FaultyTransport, parse
from quantfl.link.clock import VirtualLoop, monotonic, run_virtual
from quantfl.link.transport import Transport
from tests.support import demo_toml


def test_the_example_of_the_docs():
    chaos = parse(
        "flip=1e-5,drop=0.01,dup=0.01,stall=200ms@0.01,disconnect=3,reset@round=2,seed=7; board-03: lie=nan"
    )
    assert chaos.seed == 7
    assert chaos.faults("board-00") == (
        Fault("flip", 1e-5),
        Fault("drop", 0.01),
        Fault("dup", 0.01),
        Fault("stall", 0.2, 0.01),
        Fault("disconnect", 3.0, 1 / 40),
        Fault("reset", 1.0, 1 / 40, 2, 2),
    )
    assert chaos.faults("board-03")[-1] == Fault("lie", "nan")


def test_more_of_the_language():
    assert parse("").faults("x") == ()
    chaos = parse(" up.drop = 0.5@round=2-4 ; a*+c : stuck@round=3, slow=1.5s ;; b: lie=huge@0.3@round=1,")
    assert chaos.faults("b") == (Fault("drop", 0.5, 1.0, 2, 4, "up"), Fault("lie", "huge", 0.3, 1, 1))
    assert (
        chaos.faults("a1")
        == chaos.faults("c")
        == (
            Fault("drop", 0.5, 1.0, 2, 4, "up"),
            Fault("stuck", 1.0, 1.0, 3, 3),
            Fault("slow", 1.5),
        )
    )
    chaos.check(["a1", "c", "b"])
    with pytest.raises(UsageError, match="no board is called 'c'"):
        chaos.check(["a1", "b"])


WRONG = [
    "flop=1",
    "flip=2",
    "flip=x",
    "flip",
    "stall=5",
    "stall=5h",
    "lie=white",
    "stuck=1",
    "drop=0.1@2",
    "up.stuck",
    "drop=0.1@turn=2",
    "up.reset",
    "seed=x",
    "seed=-1",
    "up.lie=nan",
    "drop=0.1@round=x",
]


@pytest.mark.parametrize("spec", WRONG)
def test_wrong_specifications_say_what(spec, tmp_path, capsys):
    assert main(["run", str(demo_toml(tmp_path / "f.toml")), "--chaos", spec]) == 2
    error = capsys.readouterr().err
    assert "--chaos" in error and error.count("\n") == 1


def test_docs_name_every_fault_and_lie():
    from tests.support import ROOT

    text = (ROOT / "docs" / "CHAOS.md").read_text()
    for name in (*LINE, *BOARD):
        assert f"`{name}" in text, name
    for lie in LIES:
        assert f"`{lie}`" in text, lie


class Wire(Transport):
    """A transport that remembers."""

    url = "wire://"

    def __init__(self):
        self.written, self.opened = b"", 0

    async def open(self, on_bytes, on_lost):
        self.opened += 1
        self.on_bytes, self.on_lost = on_bytes, on_lost

    def write(self, data: bytes) -> None:
        self.written += data

    async def close(self) -> None:
        self.on_bytes = None


FRAMES = [bytes([i % 255 + 1] * (i % 40 + 1)) + b"\0" for i in range(400)]


async def passed(spec: str, *, frames=FRAMES, seconds: float = 0.0, reset=None):
    """What comes out at the far end when frames go down; (bytes, line, transport)."""
    wire = Wire()
    t = FaultyTransport(wire, parse(spec).faults("b"), seed="1", now_round=lambda: 1, reset=reset)
    lost = []
    await t.open(lambda data: None, lost.append)
    for frame in frames:
        if lost:
            await t.open(lambda data: None, lost.append)
            lost.clear()
        t.write(frame)
    await asyncio.sleep(seconds)
    line = t.lines[DOWN]
    assert line.taken + line.added == line.given + line.swallowed + t.held(DOWN)
    assert line.given == len(wire.written)
    return wire.written, line, t


def test_without_faults_nothing_changes():
    out, line, _ = run_virtual(passed("drop=0,flip=0"))
    assert out == b"".join(FRAMES) and not line.faults
    assert run_virtual(passed("drop=1@round=2"))[0] == out  # another round
    assert run_virtual(passed("up.drop=1"))[0] == out  # the other direction


def test_each_fault_of_the_line():
    drop, line, _ = run_virtual(passed("drop=0.1"))
    assert 20 < line.faults["drop"] < 65 and set(drop.split(b"\0")) < set(b"".join(FRAMES).split(b"\0"))
    dup, line, _ = run_virtual(passed("dup=0.1"))
    assert dup.count(b"\0") == 400 + line.faults["dup"] > 420
    reorder, line, _ = run_virtual(passed("reorder=0.1", seconds=1))
    assert sorted(reorder.split(b"\0")) == sorted(b"".join(FRAMES).split(b"\0")) and reorder != b"".join(
        FRAMES
    )
    cut, line, _ = run_virtual(passed("cut=0.1"))
    assert len(cut) < sum(map(len, FRAMES)) and line.faults["cut"] > 20
    noise, line, _ = run_virtual(passed("noise=0.1"))
    assert line.added > 20 and noise.count(b"\0") >= 400
    flip, line, _ = run_virtual(passed("flip=1e-3"))
    assert len(flip) == sum(map(len, FRAMES))
    bits = np.unpackbits(np.frombuffer(flip, np.uint8) ^ np.frombuffer(b"".join(FRAMES), np.uint8)).sum()
    assert bits == line.faults["flip"] and 30 < bits < 110


def test_stalls_keep_the_order_and_cost_no_real_time():
    async def go():
        out, line, t = await passed("stall=30s@0.05")
        assert 0 < len(out) < sum(map(len, FRAMES)) and t.held(DOWN)
        started = monotonic()
        await asyncio.sleep(30 * line.faults["stall"] + 1)
        assert t.inner.written == b"".join(FRAMES)
        return monotonic() - started

    began = time.monotonic()
    assert run_virtual(go()) > 60
    assert time.monotonic() - began < 5


def test_disconnects_as_often_as_asked():
    _, line, t = run_virtual(passed("disconnect=3"))
    assert line.faults["disconnect"] == 3 and t.inner.opened == 4


def test_a_reset_comes_in_mid_frame_and_prints_a_boot_log():
    resets = []

    async def go():
        out, line, t = await passed("reset=2@0.1", reset=lambda: resets.append(1), seconds=1)
        return out, line, t.lines[UP]

    out, line, up = run_virtual(go())
    assert len(resets) == 2 and up.added == 2 * len(BOOT) and up.given == 2 * len(BOOT)
    assert line.swallowed > 0 and len(out) == sum(map(len, FRAMES)) - line.swallowed


def test_stuck_is_stuck():
    assert run_virtual(passed("stuck"))[0] == b""


@given(st.integers(0, 10**6), st.lists(st.binary(max_size=60), max_size=60))
@settings(deadline=None, max_examples=60)
def test_the_line_adds_up_whatever_goes_through(seed, chunks):
    spec = "flip=0.001,drop=0.05,dup=0.05,reorder=0.05,cut=0.05,noise=0.05,boot=0.01,stall=1s@0.05"
    spec += f",disconnect=2@0.1,seed={seed}"
    first = run_virtual(passed(spec, frames=chunks, seconds=0.5))
    assert first[0] == run_virtual(passed(spec, frames=chunks, seconds=0.5))[0]  # the same faults again


def test_lines_of_boards_differ_but_repeat():
    async def go(name: str) -> bytes:
        wire = Wire()
        u = FaultInjector(parse("flip=0.01,seed=5"), (4,), Codec("bu"))
        u.session(name, wire, None)
        await u.lines[name].open(lambda data: None, lambda reason: None)
        u.lines[name].write(b"".join(FRAMES))
        return wire.written

    a, b, again = (run_virtual(go(n)) for n in ("a", "b", "a"))
    assert a == again != b


def test_a_line_that_cannot_be_opened_stays_shut():
    class Absent(Wire):
        async def open(self, on_bytes, on_lost):
            raise LinkError("absent")

    async def go():
        t = FaultyTransport(Absent(), (), seed="1", now_round=lambda: 0)
        with pytest.raises(LinkError):
            await t.open(lambda data: None, lambda reason: None)
        t.write(b"x\0")
        return t.lines[DOWN]

    assert run_virtual(go()).swallowed == 2


TENSORS = (40, 8)


def lied(lie: str, codec: str, rounds: int = 2) -> list[tuple[bytes, bytes]]:
    """(true, told) answers of a board in rounds 1 and on."""
    u = FaultInjector(parse(f"b: {lie}"), TENSORS, Codec(codec))
    session = u.session("b", Wire(), None)
    out = []
    for round_ in range(1, rounds + 1):
        u.begin(round_)
        x = np.random.default_rng(round_).standard_normal(48).astype(np.float32)
        truth = (
            bytes((lib.QFL_MSG_TRAIN | 0x80, round_))
            + b"\x14\0\x10\xab\xcd"
            + Codec(codec).encode(x, TENSORS)
        )
        out.append((truth, session.tamper(truth)))
    return out


@pytest.mark.parametrize("codec", ["fp32", "bu", "bq", "dz"])
@pytest.mark.parametrize("lie", LIES)
def test_lies_are_what_they_say(lie, codec):
    (truth, told), (truth2, told2) = lied(f"lie={lie}", codec)
    if lie in ("nan", "shape"):
        with pytest.raises(CodecError):
            decode(told[7:], TENSORS)
    if lie == "huge":
        assert np.linalg.norm(decode(told[7:], TENSORS)) > 1e6
    if lie == "replay":
        assert told == truth and told2[7:] == truth[7:] != truth2[7:]
    if lie == "round":
        assert told[1] == 0 and told2[1] == 1
    if lie == "samples":
        assert told[2:4] == b"\xff\xff" and told[4:] == truth[4:]
    if lie == "garbage":
        assert len(told) == len(truth) and told != truth


def test_lies_only_where_and_when_asked():
    assert lied("lie=huge@round=2", "bu")[0][0] == lied("lie=huge@round=2", "bu")[0][1]
    u = FaultInjector(parse("b: full"), TENSORS, Codec("bu"))
    session = u.session("b", Wire(), None)
    other = bytes((lib.QFL_MSG_INFO | 0x80, 1)) + b"body"
    assert session.tamper(other) == other
    refusal = session.tamper(bytes((lib.QFL_MSG_PUT_BEGIN | 0x80, 9)) + bytes(4))
    assert refusal[0] == lib.QFL_MSG_PUT_BEGIN | 0xC0 and refusal[1] == 9


def test_virtual_time_stands_still_only_with_an_error():
    async def forever():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="stands still"):
        run_virtual(forever())

    async def deadlock():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run_virtual(deadlock())

    async def hours() -> float:
        assert isinstance(asyncio.get_running_loop(), VirtualLoop)
        begun = monotonic()
        await asyncio.sleep(36_000)
        return monotonic() - begun

    assert run_virtual(hours()) == pytest.approx(36_000)
