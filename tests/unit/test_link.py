"""qfl_link: framing against independent implementations, sessions over lines that lose, flip, repeat and
delay bytes."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import lib
from quantfl.core.link import CLOSED, DOWN, UP, Link, cobs_decode, cobs_encode, crc32
from quantfl.errors import LinkError

cobs = pytest.importorskip("cobs.cobs", reason="the cobs package is not installed")


@given(st.binary(max_size=1200))
def test_crc32_equals_zlib(data):
    assert crc32(data) == zlib.crc32(data)


@given(st.binary(max_size=600) | st.lists(st.sampled_from([0, 1, 255]), max_size=800).map(bytes))
def test_cobs_equals_the_reference(data):
    encoded = cobs_encode(data)
    assert cobs.decode(encoded) == data
    assert len(encoded) <= len(data) + len(data) // 254 + 1
    assert 0 not in encoded
    assert cobs_decode(cobs.encode(data)) == data


@given(st.binary(max_size=300))
def test_cobs_decode_of_anything_agrees_with_the_reference(data):
    try:
        expected = cobs.decode(data) if data else None
    except cobs.DecodeError:
        expected = None
    try:
        got = cobs_decode(data)
    except ValueError:
        got = None
    assert got == expected


class Line:
    """Two links joined by a line with faults; time moves in steps of 1 ms."""

    def __init__(self, seed: int, *, flip=0.0, drop=0.0, dup=0.0, noise=0.0, **config):
        self.rng = random.Random(seed)
        self.flip, self.drop, self.dup, self.noise = flip, drop, dup, noise
        self.host = Link(**config)
        self.board = Link(initiator=False, message_max=5000, frame_max=64, window=config.get("window", 16))
        self.now = 0
        self.got: dict[str, list[bytes]] = {"host": [], "board": []}

    def spoil(self, data: bytes) -> bytes:
        out = bytearray()
        for b in data:
            if self.rng.random() < self.drop:
                continue
            if self.rng.random() < self.flip:
                b ^= 1 << self.rng.randrange(8)
            out.append(b)
            if self.rng.random() < self.dup:
                out.append(b)
        if self.rng.random() < self.noise:
            out = bytearray(self.rng.randbytes(self.rng.randrange(40))) + out
        return bytes(out)

    def step(self) -> None:
        self.now += 1
        for source, sink, name in ((self.host, self.board, "board"), (self.board, self.host, "host")):
            data = self.spoil(source.pull(self.now))
            at = 0
            while at < len(data):
                at += sink.feed(data[at:], self.now)
                message = sink.message()
                if message is not None:
                    self.got[name].append(message)

    def connect(self) -> None:
        self.host_nonce = self.rng.getrandbits(32)
        self.host.connect(self.host_nonce, self.now)
        for _ in range(20_000):
            self.step()
            if self.host.state == UP and self.board.state == UP:
                return
        raise AssertionError("no session")


def exchange(line: Line, down: list[bytes], up: list[bytes], steps: int) -> None:
    todo = {"host": list(down), "board": list(up)}
    for _ in range(steps):
        for name, end in (("host", line.host), ("board", line.board)):
            while todo[name] and end.pending < 3:
                end.send(todo[name].pop(0))
        line.step()
        if not any(todo.values()) and not line.host.pending and not line.board.pending:
            return
    raise AssertionError(f"not delivered after {steps} ms: {line.host.counters()} {line.board.counters()}")


messages = st.lists(st.binary(max_size=900) | st.integers(0, 4000).map(bytes), max_size=12)


@given(messages, messages, st.integers(1, 16))
@settings(deadline=None, max_examples=40)
def test_clean_line_delivers_and_the_counters_agree(down, up, window):
    line = Line(1, window=window)
    line.connect()
    exchange(line, down, up, 20_000)
    for _ in range(5):
        line.step()
    assert line.got == {"board": down, "host": up}
    h, b = line.host.counters(), line.board.counters()
    for category in ("payload", "framing", "acknowledgement", "retransmission", "handshake"):
        assert getattr(h, f"tx_{category}") == getattr(b, f"rx_{category}"), category
        assert getattr(b, f"tx_{category}") == getattr(h, f"rx_{category}"), category
    assert h.tx_retransmission == b.tx_retransmission == 0
    assert h.tx_payload == sum(map(len, down)) and b.tx_payload == sum(map(len, up))


@given(st.integers(0, 2**32 - 1), messages, messages)
@settings(deadline=None, max_examples=60)
def test_faulty_line_delivers_everything_once_and_in_order(seed, down, up):
    rng = random.Random(seed)
    line = Line(
        seed,
        flip=rng.choice([0, 1e-4, 2e-3]),
        drop=rng.choice([0, 1e-4, 2e-3]),
        dup=rng.choice([0, 1e-3]),
        noise=rng.choice([0, 0.02]),
        give_up=255,
    )
    line.connect()
    exchange(line, down, up, 400_000)
    assert line.got == {"board": down, "host": up}


def test_every_byte_received_is_counted():
    line = Line(3, flip=0.002, drop=0.001, noise=0.05, give_up=255)
    fed = {"board": 0, "host": 0}
    for name, end in (("board", line.board), ("host", line.host)):
        original = end.feed

        def feed(data, now, name=name, original=original):
            n = original(data, now)
            fed[name] += n
            return n

        end.feed = feed
    line.connect()
    exchange(line, [bytes(3000)] * 10, [bytes(range(256)) * 8] * 10, 400_000)
    for name, end in (("board", line.board), ("host", line.host)):
        end.feed(b"\1\0", line.now)  # ends a piece under way
        assert end.counters().rx_bytes == fed[name]


def test_a_dead_peer_is_noticed():
    line = Line(1, give_up=3)
    line.connect()
    line.host.send(b"anybody?")
    for now in range(line.now, line.now + 60_000):
        line.host.pull(now)
        if line.host.state == DOWN:
            break
    assert line.host.state == DOWN
    with pytest.raises(LinkError, match="present state"):
        line.host.send(b"x")


def test_a_board_without_the_session_says_so():
    line = Line(5)
    line.connect()
    line.board = Link(initiator=False, message_max=5000, frame_max=64)  # it was reset
    line.host.send(b"hello")
    for _ in range(10):
        line.step()
    assert line.host.state == DOWN
    line.connect()
    exchange(line, [b"again"], [b"yes"], 100)
    assert line.got["board"][-1:] == [b"again"]


def test_a_new_session_drops_frames_of_the_old_one():
    line = Line(9)
    line.connect()
    line.host.send(b"old" * 500)
    stale = line.host.pull(line.now)
    line.connect()
    at = 0
    while at < len(stale):
        at += line.board.feed(stale[at:], line.now)
    assert line.board.message() is None
    exchange(line, [b"new"], [], 1000)
    assert line.got["board"] == [b"new"]


def test_too_long_a_message_is_refused_before_it_is_sent():
    line = Line(1)
    line.connect()
    with pytest.raises(LinkError, match="5001"):
        line.host.send(bytes(5001))


@given(st.binary(max_size=400), st.integers(0, 7))
@settings(max_examples=300)
def test_arbitrary_frames_do_no_harm(body, type_):
    """Well-formed frames with arbitrary content, as an attacker would send them; the session must survive."""
    line = Line(2)
    line.connect()
    frame = bytes([(body[0] & 0xF8 if body else 0) | type_]) + body[1:]
    wire = cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0"
    for end in (line.board, line.host):
        end.feed(wire, line.now)
        end.message()
        end.pull(line.now)
    line.connect()
    exchange(line, [b"still here"], [b"me too"], 5000)


def text_between_frames(line: Line, rng: random.Random) -> bytes:
    """A board's bytes with what its user's firmware prints between frames."""
    out = b""
    while data := line.board.pull_some(line.now):
        out += (
            b"t=%d ms: %s\r\n"
            % (line.now, bytes(rng.choices(b"abcdefghij 0123456789", k=rng.randrange(120))))
            + data
        )
    return out


def feed_all(end: Link, data: bytes, now: int) -> list[bytes]:
    got, at = [], 0
    while at < len(data):
        at += end.feed(data[at:], now)
        message = end.message()
        if message is not None:
            got.append(message)
    return got


@pytest.mark.parametrize("seed", range(5))
def test_printf_between_frames_costs_no_frame(seed):
    """Text before every frame is skipped and counted, and no frame behind it has to come again."""
    rng, line = random.Random(seed), Line(1)
    line.connect()
    messages, got, noise = [rng.randbytes(rng.randrange(900)) for _ in range(20)], [], 0
    todo = list(messages)
    for _ in range(2000):
        line.now += 1
        while todo and line.board.pending < 3:
            line.board.send(todo.pop(0))
        before = line.board.counters().tx_bytes
        data = text_between_frames(line, rng)
        noise += len(data) - (line.board.counters().tx_bytes - before)
        got += feed_all(line.host, data, line.now)
        feed_all(line.board, line.host.pull(line.now), line.now)
    assert got == messages
    assert line.host.counters().rx_noise == noise > 1000
    assert line.board.counters().tx_retransmission == 0


def test_resynchronises_within_one_frame():
    """After a break anywhere in a frame the next one is taken."""
    for cut in range(1, 60, 7):
        line = Line(4)
        line.connect()
        line.board.send(bytes(range(1, 57)))
        line.board.send(b"second")
        first, second = line.board.pull_some(line.now), line.board.pull_some(line.now)
        assert first and second
        got = feed_all(
            line.host, first[:cut] + second, line.now
        )  # the rest of the first was lost, its delimiter too
        assert line.host.counters().rx_noise == cut
        feed_all(line.board, line.host.pull(line.now), line.now)
        exchange(line, [], [], 3000)
        assert got + line.got["host"] == [bytes(range(1, 57)), b"second"]
        assert line.host.counters().rx_noise == cut


def test_a_frame_dropped_for_want_of_place_comes_again_at_once():
    """Frames of the next message ahead of a gap are told, so nothing waits for a time-out."""
    line = Line(6)
    line.connect()
    line.host.send(b"a" * 64)
    line.host.send(b"b" * 64)
    lost, behind = line.host.pull_some(line.now), line.host.pull_some(line.now)
    assert lost and not feed_all(line.board, behind, line.now)
    exchange(line, [], [], 10)
    assert line.got["board"] == [b"a" * 64, b"b" * 64]


def pieces_of(end: Link, now: int) -> list[bytes]:
    """What is due, frame by frame."""
    return list(iter(lambda: end.pull_some(now), b""))


@pytest.mark.parametrize(("each", "count"), [(10, 7), (150, 5)])  # messages of one frame and of three
def test_behind_a_lost_frame_all_others_come_again_once(each, count):
    """Frames without a place are repeated in order and before anything new, however often the board says
    so."""
    line = Line(8)
    line.connect()
    sent = [bytes([i]) * each for i in range(count)]
    for m in sent:
        line.host.send(m)
    frames = pieces_of(line.host, line.now)
    before = line.host.counters()
    words = []
    for f in frames[1:]:
        assert not feed_all(line.board, f, line.now)
        words += pieces_of(line.board, line.now)
    again: list[bytes] = []
    for w in words:  # each of them by itself, as on a fast line
        line.host.feed(w, line.now)
        again += pieces_of(line.host, line.now)
    got = []
    for f in again:
        got += feed_all(line.board, f, line.now)
    assert got == sent
    used = line.host.counters() - before
    stored = -(-each // 64) - 1  # of the first message, behind its lost frame
    assert used.tx_frames == len(again) == len(frames) - stored
    assert line.board.counters().rx_retransmission == sum(map(len, frames[1 + stored :]))


@given(
    st.lists(st.integers(0, 700).map(lambda n: random.Random(n).randbytes(n)), min_size=8, max_size=40),
    st.integers(0, 2**16),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_any_queue_on_a_line_with_faults(down, seed, queue):
    """More messages in flight than two bits could number, and frames of any of them lost, to hosts that do
    not give up after the usual eight tries in a row, which happens on such a line."""
    line = Line(seed, drop=0.002, flip=0.0005, queue=queue, give_up=40)
    line.connect()
    todo, most = list(down), 0
    for _ in range(60_000):
        while todo and line.host.pending < queue:
            line.host.send(todo.pop(0))
        most = max(most, line.host.pending)
        line.step()
        if not todo and not line.host.pending:
            break
    assert line.got["board"] == down and most == queue


def test_queues_out_of_range_are_refused():
    for queue in (8, 255):
        with pytest.raises(ValueError, match=f"queue {queue}"):
            Link(queue=queue)
    line = Line(1)
    line.connect()
    for i in range(lib.QFL_LINK_QUEUE_MAX):
        line.host.send(bytes([i]))
    with pytest.raises(LinkError, match="busy"):
        line.host.send(b"one more")


@pytest.mark.parametrize("older", ["host", "board"])
def test_an_end_of_another_version_is_told_so(older):
    """SYN and SYNACK keep their place over versions: no session, and the host knows why."""
    host, board = Link(), Link(initiator=False)
    host.connect(5, 0)

    def aged(piece: bytes) -> bytes:
        plain = bytearray(cobs_decode(piece.strip(b"\0"))[:-4])
        assert plain[1] == lib.QFL_LINK_VERSION == 2
        plain[1] = 1
        return b"\0" + cobs_encode(bytes(plain) + crc32(bytes(plain)).to_bytes(4, "little")) + b"\0"

    syn = host.pull(0)
    board.feed(aged(syn) if older == "host" else syn, 0)
    synack = board.pull(0)
    assert cobs_decode(synack.strip(b"\0"))[1] == 2  # what an older host reads ours from
    assert (board.state == UP) == (older == "board")
    host.feed(aged(synack) if older == "board" else synack, 0)
    assert host.state == (DOWN if older == "board" else UP)


def test_a_busy_peer_is_left_in_peace():
    """A board that erases flash announces it; the host neither repeats nor gives up until then."""
    line = Line(1, quiet_ms=1000, give_up=2)
    line.connect()
    line.host.send(b"erase")
    line.step()
    line.board.busy(9000)
    feed_all(line.host, line.board.pull(line.now), line.now)
    assert line.host.peer_busy(line.now) == 9000
    line.host.send(b"next")
    assert line.host.pull(line.now)  # not heard: the board is deaf
    for _ in range(8990):
        line.now += 1
        assert line.host.pull(line.now) == b""
    assert line.host.state == UP
    exchange(line, [], [], 3000)
    assert line.got["board"] == [b"erase", b"next"]
    assert line.host.counters().tx_retransmission > 0


def test_silence_is_asked_about_and_answered():
    line = Line(1, quiet_ms=500)
    line.connect()
    sent = line.host.counters().tx_bytes
    for _ in range(5000):
        line.step()
    assert line.host.state == UP
    h, b = line.host.counters(), line.board.counters()
    assert 9 <= (h.tx_bytes - sent) // 12 <= 12  # ten questions of a dozen bytes
    assert (
        h.tx_acknowledgement == b.rx_acknowledgement > 0 and b.tx_acknowledgement == h.rx_acknowledgement > 0
    )


def test_a_link_that_dies_between_requests_is_noticed():
    line = Line(1, quiet_ms=500)
    line.connect()
    for _ in range(500 + 3 * 2000 + 10):
        line.now += 1
        line.host.pull(line.now)
    assert line.host.state == DOWN


def test_a_board_notices_a_dead_host():
    line = Line(1)
    line.board = Link(initiator=False, message_max=5000, frame_max=64, quiet_ms=2000)
    line.connect()
    line.board.send(b"nobody will hear this")
    for _ in range(2100):
        line.now += 1
        line.board.pull(line.now)
    assert line.board.state == CLOSED
    line.host.send(b"back again")  # the host had only been asleep: it is told, and opens a new session
    line.step()
    line.step()
    assert line.host.state == DOWN
    line.connect()
    exchange(line, [b"x"], [b"y"], 100)
    assert (line.got["board"], line.got["host"]) == ([b"x"], [b"y"])


def test_no_word_of_an_acknowledgement_does_harm():
    """All second bytes and lengths an ACK may have, in a plain session."""
    for n in range(12):
        for what in range(256):
            line = Line(2)
            line.connect()
            line.host.send(b"q")
            line.host.pull(line.now)
            frame = bytes([1 | (line.host_nonce & 3) << 6, 0, 0, 0, what]) + b"\xff" * 12
            frame = frame[:n] or b"\x01"
            line.host.feed(cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0", line.now)
            line.host.pull(line.now)
            assert line.host.state == UP
            assert line.host.peer_busy(line.now) <= 120_000


@pytest.mark.parametrize("zeros", [0, 1, 2, 500])
def test_zero_bytes_beyond_one_delimiter_are_noise(zeros):
    """Whoever pours zeros on a line must not make them look like acknowledgements, or like any frame."""
    line = Line(1)
    line.connect()
    exchange(line, [b"\x09\x01"], [], 1000)
    before, other = line.host.counters(), line.board.counters()
    line.host.feed(bytes(zeros), line.now)
    line.board.send(b"\x89\x01")
    line.host.feed(line.board.pull(line.now), line.now)
    assert line.host.message() == b"\x89\x01"
    moved, sent = line.host.counters() - before, line.board.counters() - other
    first_leads = min(zeros, 1)  # it may lead the frame that follows
    assert moved.rx_noise == zeros - first_leads
    assert moved.rx_payload == sent.tx_payload == 2
    assert moved.rx_framing == sent.tx_framing + first_leads
    line.host.feed(bytes(zeros), line.now)
    line.board.feed(line.host.pull(line.now), line.now)
    assert (line.host.counters() - before).rx_acknowledgement == 0
    assert line.host.uncounted == zeros  # whether one of them leads a frame is not known yet
