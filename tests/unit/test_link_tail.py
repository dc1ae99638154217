"""qfl_link: the tail-loss probe. The last frame of a row, or its acknowledgement, is lost on a line that has
lost frames before."""

from __future__ import annotations

import pytest

from quantfl.core.link import DOWN, UP, Link
from tests.unit.test_link import Line, exchange, feed_all, pieces_of

RTO_MIN = 500  # ms
NOISE = b"\x05\xff\xff\0"


def pair(line: Line, sender: str) -> tuple[Link, Link]:
    return (line.host, line.board) if sender == "host" else (line.board, line.host)


def met(sender: str, *, lossy: bool, **config) -> tuple[Line, Link, Link]:
    """A line, sender and receiver of a session that knows its round trip; lossy: and has seen noise."""
    line = Line(1, **config)
    line.connect()
    exchange(line, [b"x"] * 3, [b"y"] * 3, 100)
    if lossy:
        feed_all(line.host, NOISE, line.now)
        feed_all(line.board, NOISE, line.now)
    return line, *pair(line, sender)


def silence(end: Link, line: Line) -> tuple[int, bytes]:
    """Milliseconds until this end says something by itself, and what."""
    for ms in range(1, 20_000):
        line.now += 1
        data = end.pull(line.now)
        if data:
            return ms, data
    raise AssertionError("it never does")


@pytest.mark.parametrize("sender", ["host", "board"])
@pytest.mark.parametrize("lost", ["frame", "acknowledgement"])
def test_the_last_frame_is_probed_for(sender, lost):
    line, a, b = met(sender, lossy=True)
    before = a.counters(), b.counters()
    a.send(b"last")
    first = a.pull(line.now)
    if lost == "acknowledgement":
        assert feed_all(b, first, line.now) == [b"last"]
        assert b.pull(line.now)
    ms, probe = silence(a, line)
    assert 20 <= ms <= 50 and probe == b"\0" + first  # with the delimiter that ends noise
    got = feed_all(b, probe, line.now)
    assert got == ([b"last"] if lost == "frame" else [])
    feed_all(a, b.pull(line.now), line.now)
    assert a.pending == 0 and not a.pull(line.now + 5000)
    sent, received = a.counters() - before[0], b.counters() - before[1]
    assert sent.tx_retransmission == len(probe)
    if lost == "acknowledgement":
        assert (
            received.rx_retransmission == len(probe)
            and received.tx_acknowledgement - sent.rx_acknowledgement == 8
        )  # the one that was lost


@pytest.mark.parametrize("sender", ["host", "board"])
def test_a_line_that_has_lost_nothing_is_not_probed(sender):
    """However late an acknowledgement comes: a clean link carries the same bytes whatever its speed."""
    line, a, _ = met(sender, lossy=False)
    a.send(b"last")
    assert a.pull(line.now)
    assert silence(a, line)[0] == RTO_MIN


@pytest.mark.parametrize("sender", ["host", "board"])
def test_one_probe_for_a_row_and_then_the_time_outs(sender):
    line, a, _ = met(sender, lossy=True)
    a.send(b"last")
    a.pull(line.now)
    waits = [silence(a, line)[0] for _ in range(4)]
    assert waits[0] <= 50 and waits[1:] == [RTO_MIN, 2 * RTO_MIN, 4 * RTO_MIN]


def test_a_probe_is_none_of_the_tries_after_which_a_host_gives_up():
    tries = []
    for lossy in (False, True):
        line, host, _ = met("host", lossy=lossy, give_up=3)
        host.send(b"nobody hears")
        tries.append(0)
        while host.state == UP:
            tries[-1] += len(pieces_of(host, line.now))
            line.now += 1
        assert host.state == DOWN
    assert tries == [4, 5]


def test_a_busy_peer_is_not_probed():
    line, host, board = met("host", lossy=True)
    board.busy(3000)
    feed_all(host, board.pull(line.now), line.now)
    host.send(b"next")
    assert host.pull(line.now)
    assert silence(host, line)[0] == 3000
    assert silence(host, line)[0] == RTO_MIN


def test_a_quiet_line_is_trusted_again():
    """After 255 acknowledgements without a loss."""
    line, host, _ = met("host", lossy=True)
    for _ in range(255):
        exchange(line, [b"x"], [], 100)
    host.send(b"last")
    host.pull(line.now)
    assert silence(host, line)[0] == RTO_MIN


def test_a_frame_lost_again_with_the_window_full_is_probed_for():
    """Its repetition is the last frame sent, though not the last of the message; nothing comes after it."""
    line, host, board = met("host", lossy=False, window=4)
    host.send(bytes(range(250)))  # four frames
    frames = pieces_of(host, line.now)
    assert len(frames) == 4
    got = feed_all(board, b"".join(frames[1:]), line.now)
    feed_all(host, board.pull(line.now), line.now)
    assert pieces_of(host, line.now) == [b"\0" + frames[0]]  # lost as well
    ms, probe = silence(host, line)
    assert ms <= 50 and probe == b"\0" + frames[0]
    got += feed_all(board, probe, line.now)
    assert got == [bytes(range(250))]


def test_a_probe_finds_out_all_that_is_missing():
    """The last three frames of a message are lost; the probe repeats one, its acknowledgement tells of the
    others."""
    line, host, board = met("host", lossy=True)
    host.send(bytes(range(250)))
    frames = pieces_of(host, line.now)
    feed_all(board, frames[0], line.now)
    start = line.now
    assert silence(host, line)[1] == b"\0" + frames[3]
    line.now -= 1  # the same millisecond again, and on
    feed_all(board, b"\0" + frames[3], line.now)
    exchange(line, [], [], 20)
    assert line.got["board"][-1] == bytes(range(250)) and line.now - start < 60
    assert host.counters().tx_retransmission == sum(len(f) + 1 for f in frames[1:])


@pytest.mark.parametrize("sender", ["host", "board"])
def test_what_is_printed_before_the_session_is_no_loss(sender):
    line = Line(1)
    line.host.connect(5, line.now)
    feed_all(line.host, b"booting...\r\n\0", line.now)
    feed_all(line.board, NOISE, line.now)
    while line.host.state != UP:
        line.step()
    exchange(line, [b"x"], [b"y"], 100)
    a, _ = pair(line, sender)
    a.send(b"last")
    a.pull(line.now)
    assert silence(a, line)[0] == RTO_MIN


CALM = 4000


def test_a_slow_peer_is_no_lost_frame_on_a_line_that_loses_nothing():
    """The demo once sent 24 KB again over a clean socket, because the host was busy for half a second."""
    line, a, b = met("host", lossy=False, rto_calm_ms=CALM)
    before = a.counters()
    a.send(b"last")
    first = a.pull(line.now)
    line.now += CALM - 100  # the peer is stopped
    assert a.pull(line.now) == b""
    assert feed_all(b, first, line.now) == [b"last"]
    feed_all(a, b.pull(line.now), line.now)
    assert a.pending == 0 and (a.counters() - before).tx_retransmission == 0


def test_a_line_that_shows_that_it_loses_frames_is_not_waited_for():
    """Noise, or a second time-out in a row, ends the patience; a single time-out does not."""
    line, a, _ = met("host", lossy=True, rto_calm_ms=CALM)
    a.send(b"last")
    a.pull(line.now)
    assert [silence(a, line)[0] for _ in range(3)][1:] == [RTO_MIN, 2 * RTO_MIN]
    line, a, _ = met("host", lossy=False, rto_calm_ms=CALM)
    a.send(b"last")
    a.pull(line.now)
    assert [silence(a, line)[0] for _ in range(2)] == [CALM, CALM]  # 4 s is the longest there is
