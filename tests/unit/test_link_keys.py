"""Sessions with keys: who gets one, what a line with an enemy on it can do, and that no nonce comes twice."""

from __future__ import annotations

import hashlib
import random
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import ffi, lib
from quantfl.core.link import (
    CONNECTING,
    DOWN,
    KEY_UNKNOWN,
    KEY_WRONG,
    NAMED,
    NOT_REFUSED,
    PEER_KEYED,
    PEER_PLAIN,
    UP,
    Counters,
    Link,
    cobs_decode,
    cobs_encode,
    crc32,
)

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
UID = b"board-17"
SEAL = lib.QFL_LINK_SEAL


def host_link(key: bytes | None = KEY, *, seed: int = 1, **config) -> Link:
    link = Link(**config)
    if key is not None:
        link.secure(hashlib.sha256(b"host%d" % seed).digest())
    return link


def board_link(key: bytes | None = KEY, *, seed: int = 1, frame_max: int = 64, window: int = 16) -> Link:
    link = Link(initiator=False, message_max=5000, frame_max=frame_max, window=window)
    if key is not None:
        link.secure(hashlib.sha256(b"board%d" % seed).digest(), uid=UID, key=key)
    return link


class Wire:
    """Host and board with a man in the middle: `spoil(piece, to)` gets every encoded frame and returns the
    bytes that arrive."""

    def __init__(self, host: Link, board: Link, keys: dict[bytes, list[bytes]] | None = None, spoil=None):
        self.host, self.board = host, board
        self.keys = {UID: [KEY]} if keys is None else keys
        self.spoil = spoil or (lambda piece, to: piece)
        self.now, self.nonce = 0, 100
        self.got: dict[str, list[bytes]] = {"host": [], "board": []}
        self.sent: dict[str, list[bytes]] = {"host": [], "board": []}  # pieces on the wire by who sent them

    def connect(self) -> None:
        self.nonce += 1
        self.host.connect(self.nonce, self.now)

    def deliver(self, to: str, data: bytes) -> None:
        link, at = (self.host if to == "host" else self.board), 0
        while at < len(data):
            at += link.feed(data[at:], self.now)
            message = link.message()
            if message is not None:
                self.got[to].append(message)
        if to == "host" and link.state == NAMED:
            known = self.keys.get(link.peer_uid)
            if known is None:
                link.set_key(None)
            elif not any(link.set_key(k) for k in known):
                link.reject()

    def step(self, ms: int = 1) -> None:
        self.now += ms
        for source, name, to in ((self.host, "host", "board"), (self.board, "board", "host")):
            for piece in pieces(source.pull(self.now)):
                self.sent[name].append(piece)
                self.deliver(to, self.spoil(piece, to))

    def run(self, until=lambda: False, ms: int = 20_000) -> bool:
        end = self.now + ms
        while self.now < end and not until():
            waits = [w for w in (self.host.wait(self.now), self.board.wait(self.now)) if w > 0]
            self.step(max(1, min([*waits, 50])))
        return until()

    def up(self) -> bool:
        self.connect()
        return self.run(lambda: self.host.state in (UP, DOWN), 3000) and self.host.state == UP

    def ask(self, message: bytes, answer: bytes) -> None:
        """One request and its answer, both checked."""
        before = len(self.got["board"]), len(self.got["host"])
        self.host.send(message)
        assert self.run(lambda: len(self.got["board"]) > before[0])
        self.board.send(answer)
        assert self.run(
            lambda: len(self.got["host"]) > before[1] and not self.host.pending and not self.board.pending
        )
        assert self.got["board"][before[0] :] == [message]
        assert self.got["host"][before[1] :] == [answer]


def pieces(data: bytes) -> list[bytes]:
    """Encoded frames, each with the delimiters around it."""
    out, at = [], 0
    while at < len(data):
        start = at
        while data[at] == 0:
            at += 1
        at = data.index(0, at) + 1
        out.append(data[start:at])
    return out


DATA, ACK, FIN = (0, 5), 1, 5  # types of frames; FIN is DATA that ends its message


def frame(piece: bytes) -> bytes:
    return cobs_decode(piece.strip(b"\0"))


def encode(plain: bytes) -> bytes:
    """A frame with a checksum, as anybody can make one."""
    return b"\0" + cobs_encode(plain + crc32(plain).to_bytes(4, "little")) + b"\0"


def is_sealed_type(piece: bytes) -> bool:
    return frame(piece)[0] & 7 in (*DATA, ACK)


def test_a_session_with_keys():
    w = Wire(host_link(), board_link())
    assert w.up() and w.host.sealed
    secret = b"\x09\x01" + b"labels nobody else may read " * 20
    w.ask(secret, secret[::-1])
    assert w.board.sealed and w.host.peer_uid == UID
    wire = b"".join(w.sent["host"] + w.sent["board"])
    assert b"labels" not in wire and b"slebal" not in wire and b"slebal"[::-1] not in wire


def test_counters_show_what_keys_cost():
    runs = {}
    for key in (None, KEY):
        w = Wire(host_link(key), board_link(key))
        assert w.up()
        for i in range(5):
            w.ask(bytes((9, i)) + bytes(500), bytes((0x89, i)) + bytes(range(200)))
        runs[key] = w
    plain, keyed = runs[None], runs[KEY]
    for a, b in ((plain.host, keyed.host), (plain.board, keyed.board)):
        p, k = a.counters(), b.counters()
        frames = sum(is_sealed_type(x) for x in keyed.sent["host" if b is keyed.host else "board"])
        assert k.tx_security == SEAL * frames and p.tx_security == 0
        assert (k.tx_payload, k.tx_framing, k.tx_acknowledgement) == (
            p.tx_payload,
            p.tx_framing,
            p.tx_acknowledgement,
        )
        assert k.tx_bytes == sum(map(len, keyed.sent["host" if b is keyed.host else "board"]))
    assert astuple(keyed.host.counters().swapped)[:13] == astuple(keyed.board.counters())[:13]


def test_the_bytes_are_those_of_the_document():
    """docs/SECURITY.md's derivation with hashlib, and another implementation of the cipher, read a recorded
    session."""
    aead = pytest.importorskip(
        "cryptography.hazmat.primitives.ciphers.aead", reason="needs the Python package cryptography"
    )
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x09\x07request", b"\x89\x07" + b"answer " * 30)
    syn, synack = frame(w.sent["host"][0])[:-4], frame(w.sent["board"][0])[:-4]
    assert (
        len(syn) == 30
        and syn[13] == 1
        and synack[13] == 1
        and synack[14 : 15 + len(UID)] == bytes((len(UID),)) + UID
    )
    said = syn + synack[:-16]
    assert (
        hashlib.blake2b(b"quantfl board proof 1\0" + said, key=KEY, digest_size=16).digest() == synack[-16:]
    )
    keys = hashlib.blake2b(b"quantfl session keys 1\0" + said, key=KEY, digest_size=64).digest()
    read = {"host": b"", "board": b""}
    for name, key, direction in (("host", keys[:32], 1), ("board", keys[32:], 2)):
        for count, piece in enumerate((p for p in w.sent[name] if is_sealed_type(p)), start=1):
            f = frame(piece)
            header = 3 if f[0] & 7 in DATA else len(f) - 18
            assert int.from_bytes(f[-18:-16], "little") == count
            nonce = bytes((direction, 0, 0, 0)) + count.to_bytes(8, "little")
            read[name] += aead.ChaCha20Poly1305(key).decrypt(nonce, f[header:-18] + f[-16:], f[:header])
    assert read == {"host": b"\x09\x07request", "board": b"\x89\x07" + b"answer " * 30}


@pytest.mark.parametrize(
    ("host", "board", "keys", "refusal"),
    [
        (KEY, OTHER, {UID: [KEY]}, KEY_WRONG),
        (KEY, KEY, {UID: [OTHER, bytes(32)]}, KEY_WRONG),
        (KEY, KEY, {b"another": [KEY]}, KEY_UNKNOWN),
        (KEY, None, {UID: [KEY]}, PEER_PLAIN),
        (None, KEY, {}, PEER_KEYED),
    ],
    ids=["board has another key", "host has other keys", "unknown board", "plain board", "plain host"],
)
def test_no_session_without_the_same_key(host, board, keys, refusal):
    w = Wire(host_link(host), board_link(board), keys)
    assert not w.up()
    assert w.host.state == DOWN and w.host.refusal == refusal
    assert not w.host.sealed and not w.board.sealed
    if board is not None:
        assert w.board.state != UP


def test_a_second_key_may_be_the_right_one():
    w = Wire(host_link(), board_link(OTHER), {UID: [KEY, OTHER]})
    assert w.up() and w.host.sealed and w.host.refusal == NOT_REFUSED


def test_an_enemy_cannot_talk_the_ends_down():
    """Whatever is cut off or changed in the handshake, no session without keys comes up."""

    def strip_challenge(piece, to):
        f = frame(piece)
        return encode(f[:13]) if f[0] & 7 in (2, 3) and len(f) > 17 else piece

    def only(target, change):
        return lambda piece, to: change(piece, to) if to == target else piece

    for spoil in (strip_challenge, only("board", strip_challenge), only("host", strip_challenge)):
        w = Wire(host_link(), board_link(), spoil=spoil)
        assert not w.up()
        assert not w.host.sealed and w.board.state != UP
        assert w.host.state == CONNECTING or w.host.refusal == PEER_PLAIN
    w = Wire(host_link(None), board_link())
    w.deliver(
        "board",
        encode(
            bytes((2 | 1 << 6, 2))
            + (1).to_bytes(4, "little")
            + bytes((16, 64, 0))
            + (5000).to_bytes(4, "little")
        ),
    )
    w.step()
    w.deliver("board", encode(bytes((FIN | 1 << 6, 0, 0)) + b"\x09\x01"))  # a plain request all the same
    w.step()
    assert w.got["board"] == [] and w.board.state != UP


def _flips(data: bytes, rng: random.Random):
    """Every byte in turn, one bit of it."""
    for i in range(len(data)):
        yield data[:i] + bytes((data[i] ^ 1 << rng.randrange(8),)) + data[i + 1 :]


def test_one_flipped_bit_anywhere_in_a_session():
    """Each byte of each frame in turn is spoiled once: messages arrive whole, in order and once, or the
    session says why not."""
    clean = Wire(host_link(), board_link())
    assert clean.up()
    clean.ask(b"\x09\x01" + bytes(90), b"\x89\x01" + bytes(range(100)))
    rng, tried = random.Random(5), 0
    for sender in ("host", "board"):
        for number, piece in enumerate(clean.sent[sender]):
            for position in range(len(piece)):
                bit, seen = 1 << rng.randrange(8), {"host": 0, "board": 0}

                def spoil(data, to, sender=sender, number=number, position=position, bit=bit, seen=seen):
                    source = "board" if to == "host" else "host"
                    seen[source] += 1
                    if source == sender and seen[source] == number + 1 and position < len(data):
                        return data[:position] + bytes((data[position] ^ bit,)) + data[position + 1 :]
                    return data

                w = Wire(host_link(), board_link(), spoil=spoil)
                assert w.up(), (sender, number, position)
                w.ask(b"\x09\x01" + bytes(90), b"\x89\x01" + bytes(range(100)))
                tried += 1
    assert tried > 300


def test_every_changed_frame_is_refused():
    """With correct framing around it, as an enemy would send it: nothing of it is used."""
    w = Wire(host_link(), board_link())
    assert w.up()
    w.host.send(b"\x09\x01" + bytes(40))
    (piece,) = pieces(w.host.pull(w.now))
    f = frame(piece)
    for i in range(len(f)):
        for bit in range(8):
            bad = bytearray(f)
            bad[i] ^= 1 << bit
            w.deliver("board", b"\0" + cobs_encode(bytes(bad)) + b"\0")
    for cut in range(len(f)):
        w.deliver("board", b"\0" + cobs_encode(f[:cut]) + b"\0")
        w.deliver("board", encode(f[: cut + 1]))
    assert w.got["board"] == [] and w.board.state != UP
    w.deliver("board", piece)
    assert w.got["board"] == [b"\x09\x01" + bytes(40)]


@pytest.mark.parametrize("asked", [False, True], ids=["opening", "open"])
def test_frames_shorter_than_a_header(asked):
    w = Wire(host_link(), board_link())
    assert w.up()
    if asked:
        w.ask(b"\x09\x01", b"\x89\x01")
    epoch = (w.nonce & 3) << 6
    for n in range(1, 6):
        for kind in range(8):
            for count in range(1, 5):
                f = bytes((kind | epoch,)) + bytes(n - 1) + count.to_bytes(2, "little") + bytes(16)
                for to in ("board", "host"):
                    w.deliver(to, b"\0" + cobs_encode(f) + b"\0")
    w.ask(b"\x09\x02", b"\x89\x02")


def test_replayed_frames_are_taken_once():
    w = Wire(host_link(), board_link())
    assert w.up()
    for i in range(20):
        w.ask(bytes((9, i)) + bytes(200), bytes((0x89, i)) + bytes(150))
    before = w.board.counters(), w.host.counters()
    for name, to in (("host", "board"), ("board", "host")):
        for piece in list(w.sent[name]):
            if is_sealed_type(piece):
                w.deliver(to, piece)
    assert len(w.got["board"]) == len(w.got["host"]) == 20
    for (link, old), name in zip(((w.board, before[0]), (w.host, before[1])), ("host", "board"), strict=True):
        moved = link.counters() - old
        assert moved.rx_noise == sum(len(p) for p in w.sent[name] if is_sealed_type(p))
        assert moved.rx_bytes == moved.rx_noise
    w.ask(b"\x09\x63", b"\x89\x63")  # and the session goes on


def test_a_recorded_session_opens_nothing():
    """False host: all a host ever sent, sent again. False board: all a board ever said."""
    old = Wire(host_link(), board_link())
    assert old.up()
    old.ask(b"\x0d\x01 change the key", b"\x8d\x01")
    board = board_link(seed=2)
    w = Wire(host_link(seed=3), board)
    for piece in old.sent["host"]:
        w.deliver("board", piece)
        w.board.pull(w.now)
    assert w.got["board"] == [] and board.state != UP
    assert w.up()  # what the false host left behind does not keep the right one out
    w.ask(b"\x09\x01", b"\x89\x01")
    for piece in old.sent["host"]:  # and does not end the session under way
        w.deliver("board", piece)
    w.run(ms=100)
    w.ask(b"\x09\x02", b"\x89\x02")

    victim = host_link(seed=4)
    w = Wire(victim, board_link(seed=5), spoil=lambda piece, to: b"" if to == "board" else piece)
    w.connect()
    for _ in range(4):
        w.run(lambda: victim.state == DOWN, 300)
        for piece in old.sent["board"]:
            if frame(piece)[0] & 7 == 3:  # with the nonce of today, as an enemy would
                f = bytearray(frame(piece)[:-4])
                f[0] = f[0] & 0x3F | (w.nonce & 3) << 6
                f[2:6] = w.nonce.to_bytes(4, "little")
                w.deliver("host", encode(bytes(f)))
            else:
                w.deliver("host", piece)
    assert victim.state == DOWN and victim.refusal == KEY_WRONG and w.got["host"] == []


def test_own_frames_sent_back():
    """Each direction has a key of its own: a mirror is no peer."""
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x09\x01" + bytes(100), b"\x89\x01" + bytes(100))
    for name in ("host", "board"):
        for piece in [p for p in w.sent[name] if is_sealed_type(p)]:
            w.deliver(name, piece)
    assert (len(w.got["host"]), len(w.got["board"])) == (1, 1)
    w.ask(b"\x09\x02", b"\x89\x02")


def test_truncated_handshakes():
    """The line goes dead after each byte of the handshake and comes back: the next try succeeds."""
    clean = Wire(host_link(), board_link())
    assert clean.up()
    total = {"board": len(clean.sent["host"][0]), "host": len(clean.sent["board"][0])}
    for to, size in total.items():
        for keep in range(size):
            left = {"n": keep}

            def spoil(piece, target, to=to, left=left):
                if target != to or left["n"] is None:
                    return piece
                out, left["n"] = piece[: left["n"]], None
                return out

            w = Wire(host_link(), board_link(), spoil=spoil)
            assert w.up()
            w.ask(b"\x09\x01", b"\x89\x01")


def test_strangers_cannot_end_a_session():
    """A SYN with any challenge is answered, but the session under way ends only when its sender proves that
    it has the key."""
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x09\x01", b"\x89\x01")
    stranger = host_link(seed=9)
    for i in range(30):
        stranger.connect(1000 + i, w.now)
        w.deliver("board", stranger.pull(w.now))
        w.board.pull(w.now)
    plain = host_link(None)
    plain.connect(77, w.now)
    w.deliver("board", plain.pull(w.now))
    w.board.pull(w.now)
    w.ask(b"\x09\x02" + bytes(300), b"\x89\x02")


def test_a_reset_board_says_so():
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x09\x01", b"\x89\x01")
    w.board = board_link(seed=2)
    w.host.send(b"\x09\x02")
    assert w.run(lambda: w.host.state == DOWN, 500)
    assert w.got["board"] == [b"\x09\x01"]
    assert w.up()
    w.ask(b"\x09\x03", b"\x89\x03")


def test_a_new_key_holds_from_the_next_session_on():
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x0d\x01", b"\x8d\x01")
    w.board.set_key(OTHER)
    w.ask(b"\x09\x01", b"\x89\x01")
    assert not w.up() and w.host.refusal == KEY_WRONG
    w.keys[UID] = [OTHER]
    assert w.up()
    w.ask(b"\x09\x02", b"\x89\x02")


def test_a_first_key_lets_the_plain_answer_through():
    w = Wire(host_link(None), board_link(None))
    assert w.up()
    w.host.send(b"\x0d\x01")
    assert w.run(lambda: len(w.got["board"]) == 1)
    w.board.secure(bytes(32), uid=UID, key=KEY)
    w.board.send(b"\x8d\x01")
    assert w.run(lambda: w.got["host"] == [b"\x8d\x01"] and not w.board.pending)
    assert not w.up() and w.host.refusal == PEER_KEYED
    w.host.secure(bytes(32))
    assert w.up() and w.host.sealed


def test_a_board_whose_key_is_taken_away_is_plain_again():
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x0e\x01", b"\x8e\x01")
    w.board.set_key(None)
    w.ask(b"\x09\x01", b"\x89\x01")  # the session goes on as it is
    w.host.require_keys(False)
    assert w.up() and not w.host.sealed
    w.ask(b"\x09\x02", b"\x89\x02")
    assert not w.board.sealed


def test_sessions_never_share_keys():
    w, seen = Wire(host_link(), board_link()), set()
    for i in range(40):
        assert w.up()
        w.ask(bytes((9, i)), b"\x89same answer")
        last = [p for p in w.sent["board"] if frame(p)[0] & 7 in DATA][-1]
        seen.add(frame(last)[3:-18])
    assert len(seen) == 40


@pytest.mark.parametrize("seed", range(6))
def test_no_nonce_comes_twice(seed):
    """A line that loses a third of all frames: every retransmission is sealed anew, with a counter of its
    own."""
    rng = random.Random(seed)

    def spoil(piece, to):
        if not is_sealed_type(piece) or rng.random() > 0.33:
            return piece
        return b""

    w = Wire(host_link(give_up=200), board_link(frame_max=32, window=8), spoil=spoil)
    assert w.up()
    for i in range(12):
        w.host.send(bytes((9, i)) + rng.randbytes(400))
        assert w.run(lambda i=i: len(w.got["board"]) == i + 1, 120_000)
        w.board.send(bytes((0x89, i)) + rng.randbytes(300))
        assert w.run(lambda i=i: len(w.got["host"]) == i + 1, 120_000)
    again = w.host.counters().tx_retransmission + w.board.counters().tx_retransmission
    assert again > 2000
    for name in ("host", "board"):
        counts = [frame(p)[-18:-16] for p in w.sent[name] if is_sealed_type(p)]
        assert len(counts) == len(set(counts))
        assert [int.from_bytes(c, "little") for c in counts] == list(range(1, len(counts) + 1))


def test_counters_beyond_sixteen_bits():
    w = Wire(host_link(), board_link())
    assert w.up()
    for i in range(66_000):
        w.host.send(b"\x03\x00")
        for piece in pieces(w.host.pull(w.now)):
            w.deliver("board", piece)
        w.host.feed(w.board.pull(w.now), w.now)
        if i == 40_000:
            kept = piece
    assert w.host.pending == 0 and len(w.got["board"]) == 66_000
    w.deliver("board", kept)  # its counter's low bits lie ahead again; it is old all the same
    assert len(w.got["board"]) == 66_000
    w.ask(b"\x09\x01", b"\x89\x01")


@pytest.mark.parametrize("end", ["host", "board"])
def test_a_session_ends_before_its_counter(end):
    """The count of sealed frames is found in the link's memory and set to its end, as 2^31 frames would."""
    w = Wire(host_link(), board_link())
    assert w.up()
    link = getattr(w, end)
    w.ask(b"\x09\x01", b"\x89\x01" + bytes(900))  # many frames one way, few the other
    memory = memoryview(ffi.buffer(link._memory)).cast("B").cast("I")

    def sealed() -> int:
        return sum(is_sealed_type(p) for p in w.sent[end])

    places = [i for i, v in enumerate(memory) if v == sealed()]
    w.ask(b"\x09\x02", b"\x89\x02")
    places = [i for i in places if memory[i] == sealed()]
    w.ask(b"\x09\x03", b"\x89\x03")
    (place,) = [i for i in places if memory[i] == sealed()]
    memory[place] = 0x7FFFFFFF
    count = sealed()
    w.host.send(b"\x09\x04")
    w.run(lambda: w.host.state == DOWN, 60_000)
    assert w.host.state == DOWN and sealed() == count
    assert w.up()
    w.ask(b"\x09\x05", b"\x89\x05")


class Noisy:
    """Drops, flips, repeats and swaps whole frames and bits."""

    def __init__(self, seed: int):
        self.rng, self.held = random.Random(seed), {"host": b"", "board": b""}

    def __call__(self, piece: bytes, to: str) -> bytes:
        r = self.rng.random()
        out, self.held[to] = self.held[to], b""
        if r < 0.06:
            return out
        if r < 0.12:
            i = self.rng.randrange(len(piece))
            return piece[:i] + bytes((piece[i] ^ 1 << self.rng.randrange(8),)) + piece[i + 1 :] + out
        if r < 0.2:
            return piece + out + piece
        if r < 0.3:
            self.held[to] = piece
            return out
        if r < 0.35:
            return self.rng.randbytes(self.rng.randrange(30)) + piece + out
        return piece + out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 900), min_size=1, max_size=6))
def test_messages_over_a_bad_line(seed, sizes):
    rng = random.Random(seed)
    w = Wire(host_link(give_up=200), board_link(), spoil=Noisy(seed))
    assert w.up()
    sent = [bytes((9, i)) + rng.randbytes(n) for i, n in enumerate(sizes)]
    for i, message in enumerate(sent):
        w.host.send(message)
        assert w.run(lambda i=i: len(w.got["board"]) > i, 200_000)
        w.board.send(message[::-1])
        assert w.run(lambda i=i: len(w.got["host"]) > i, 200_000)
    assert w.got == {"board": sent, "host": [m[::-1] for m in sent]}
    w.spoil = lambda piece, to: piece
    assert w.run(lambda: not w.host.pending and not w.board.pending, 200_000)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=8), st.booleans())
def test_any_bytes_do_no_harm(blobs, framed):
    w = Wire(host_link(), board_link())
    assert w.up()
    w.ask(b"\x09\x01", b"\x89\x01")
    for blob in blobs:
        data = encode(blob) if framed else b"\0" + blob + b"\0"
        if framed and blob[0] & 7 == 4:
            continue  # RST needs no key: it can end a session, which docs/SECURITY.md says
        w.deliver("board", data)
        w.deliver("host", data)
    w.ask(b"\x09\x02", b"\x89\x02")
    assert len(w.got["board"]) == 2


def test_misuse_is_refused():
    with pytest.raises(ValueError):
        Link().secure(bytes(31))
    with pytest.raises(ValueError):
        Link(initiator=False).secure(bytes(32), uid=bytes(17), key=KEY)
    with pytest.raises(ValueError):
        Link().set_key(KEY)  # no board has named itself
    board = Link(initiator=False)
    with pytest.raises(ValueError):
        board.set_key(KEY)  # no seed
    link = Link(
        initiator=False, frame_max=16, window=1, message_max=64
    )  # the smallest link has room for the handshake
    link.secure(bytes(32), uid=bytes(16), key=KEY)
    w = Wire(host_link(), link, {bytes(16): [KEY]})
    assert w.up()
    w.ask(b"\x09" + bytes(60), b"\x89" + bytes(60))
    assert isinstance(w.host.counters(), Counters)
