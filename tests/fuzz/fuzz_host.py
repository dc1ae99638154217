"""The host's side of every message, against a board that answers anything: `python tests/fuzz/run.py host`.

A real `Device` asks, and what it gets back has been made by mutation from sound answers, or is random. It
goes through `Session`, the parser of its kind (quantfl.answers, quantfl.board_info), the codec and the sums
of the closed form. What must hold: every outcome is a value or one of quantfl's errors, in one short
printable line; nothing takes long, and no answer makes the host keep more memory than it is long.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import cbor2
import numpy as np

from quantfl.answers import PARSERS
from quantfl.core import lib
from quantfl.core.codec import Codec, decode
from quantfl.core.head import FitConfig
from quantfl.core.link import Link
from quantfl.device import Device
from quantfl.errors import QuantflError
from quantfl.link.clock import VirtualLoop
from quantfl.link.keys import PlainLinkWarning
from quantfl.link.message_kinds import ANSWER, FAILED, MESSAGE_KINDS
from quantfl.link.session import Answer, Session
from quantfl.link.transport import Transport
from quantfl.messages import config_bytes
from quantfl.strategy.closed_form import Sums

LAYOUT = [12, 4]
DIMS, CLASSES = 3, 2
HEAD = 0x12345678
PACKAGE = bytes(range(256)) * 8
PARAMS = np.arange(sum(LAYOUT), dtype=np.float32).tobytes()
SLOW_S = 5.0  # of processor time, for one answer
CONFIG = config_bytes(FitConfig(lr=0.01), Codec("dz", 8), run_id=1, seed=2)
INFO = {
    "protocol": 3,
    "firmware": "0.2.0",
    "board": "qemu_m4",
    "uid": bytes(8),
    "ram": 1 << 18,
    "flash": 1 << 20,
    "arena": 1 << 17,
    "store": 1 << 19,
    "state": 1,
    "reset": 0,
    "uptime_ms": 9,
    "lost": 0,
    "operators": 0xFFFFFFFF,
    "selftest": 0,
    "package": hashlib.sha256(PACKAGE).digest(),
    "head": HEAD,
    "params": 16,
    "features": 3,
    "classes": 2,
    "samples": 40,
    "capacity": 100,
    "keys": 0,
    "kept": 1,
    "codecs": 15,
    "kinds": 0x7E,
    "parts": 15,
    "battery": 88,
}


def _coded(values: int, seed: int) -> bytes:
    x = np.random.default_rng(seed).normal(size=values).astype(np.float32)
    return Codec("dz", 8).encode(x, [values])


def _stats() -> bytes:
    upper, sums = _coded(DIMS * (DIMS + 1) // 2, 3), _coded(DIMS * CLASSES, 4)
    counts = Codec("fp32").encode(np.array([20, 20], np.float32), [CLASSES])
    return struct.pack("<HII", 40, len(upper), len(sums)) + upper + sums + counts


def sound_bodies() -> dict[int, list[bytes]]:
    """Kind -> bodies that an honest board may answer with."""
    x = np.random.default_rng(1).normal(size=sum(LAYOUT)).astype(np.float32)
    deltas = [
        struct.pack("<HBH", 40, 0x42, 0x1234) + Codec(kind, levels).encode(x, LAYOUT)
        for kind, levels in (("fp32", 64), ("bu", 16), ("bq", 16), ("dz", 8))
    ]
    digest, hash_ = hashlib.sha256(deltas[3][5:]).digest(), struct.pack("<I", HEAD)
    counters = struct.pack("<20I", *range(20))
    return {
        lib.QFL_MSG_INFO: [cbor2.dumps(INFO), cbor2.dumps({k: INFO[k] for k in list(INFO)[:14]})],
        lib.QFL_MSG_PUT_BEGIN: [bytes(4), struct.pack("<I", len(PACKAGE))],
        lib.QFL_MSG_PUT_DATA: [bytes(4)],
        lib.QFL_MSG_PUT_END: [hash_, hashlib.sha256(PARAMS).digest()[:4]],
        lib.QFL_MSG_CONFIG: [b""],
        lib.QFL_MSG_TRAIN: deltas,
        lib.QFL_MSG_TRAIN_UPDATE: deltas,
        lib.QFL_MSG_UPDATE: [hash_],
        lib.QFL_MSG_EVAL: [struct.pack("<IIf", 40, 30, 0.5)],
        lib.QFL_MSG_STATUS: [struct.pack("<BBHHIHIHHH", 1, 7, 40, 100, HEAD, 3, 0, 4, 3, 3)],
        lib.QFL_MSG_COUNTERS: [counters],
        lib.QFL_MSG_STATS: [_stats()],
        lib.QFL_MSG_SELFTEST: [struct.pack("<3H", 30, 0, 0), struct.pack("<3H", 30, 2, 5)],
        lib.QFL_MSG_KEYS: [b""],
        lib.QFL_MSG_RESUME: [deltas[3][:5] + digest + deltas[3][9:], digest + _stats()[4:]],
    }


SOUND = sound_bodies()
_ODD = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x7F800000,
    0x7FC00000,
    0xFF800000,
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """data after one to four changes: bits, bytes, numbers at a limit, cut, longer, a piece twice or gone."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(8)
        if what == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif what == 2:
            size = rng.choice((1, 2, 4))
            out[at : at + size] = (rng.choice(_ODD) & (1 << 8 * size) - 1).to_bytes(
                size, rng.choice(("little", "big"))
            )
        elif what == 3:
            del out[at:]
        elif what == 4:
            out += rng.randbytes(rng.choice((1, 2, 4, 40)))
        elif what == 5:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif what == 6:
            del out[at : at + rng.randint(1, 8)]
        else:
            out[at:at] = out[at : at + rng.randint(1, 40)]
    return bytes(out)


def body_of(rng: random.Random, kind: int, sound: int) -> bytes:
    """An answer's body: sound (`sound` in 8), random (1 in 16), else mutated from a sound one, at times of
    another kind."""
    if rng.randrange(8) < sound:
        return rng.choice(SOUND[kind])
    dice = rng.randrange(16)
    if dice == 0:
        return rng.randbytes(rng.choice((0, 1, 4, 12, 22, 80, 300)))
    return mutated(rng, rng.choice(SOUND[rng.choice(list(SOUND)) if dice == 1 else kind]))


class Nobody(Transport):
    """A line to nowhere: answers are made by `Scripted`."""

    url = "fuzz://board"

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """Nothing to open."""

    def write(self, data: bytes) -> None:
        """Nothing takes it."""

    async def close(self) -> None:
        """Nothing to close."""


class NoAnswer(Exception):
    """What the board said was no answer to the request."""


class Scripted(Session):
    """A session whose board says whatever `rng` makes up."""

    def __init__(self, rng: random.Random):
        super().__init__(Nobody())
        self.rng, self.said = rng, b""
        self.sound = rng.choice((1, 4, 7))  # answers in eight, so that requests of several steps get far
        board = Link(initiator=False, message_max=1088, frame_max=256)
        self.link.connect(1, 0)
        board.feed(self.link.pull(0), 0)
        self.link.feed(board.pull(0), 0)

    @property
    def up(self) -> bool:
        return True

    async def send(
        self, kind: int, number: int, body: bytes, *, timeout: float, ahead: int | None = None
    ) -> None:
        if self.rng.randrange(16) == 0:
            self._on_message(self.message(kind, number))

    def message(self, kind: int, number: int) -> bytes:
        rng = self.rng
        head, status = kind | ANSWER, b""
        if rng.randrange(4 * self.sound) == 0:
            head, status = head | FAILED, bytes((rng.choice((*range(243, 256), 0, 1, 127, 128)),))
        self.said = bytes((head, number)) + status + body_of(rng, kind, self.sound)
        if rng.randrange(32) == 0:
            self.said = mutated(rng, self.said)
        return self.said

    async def request(
        self,
        kind: int,
        body: bytes = b"",
        *,
        timeout: float,
        number: int | None = None,
        behind: float | None = None,
    ) -> Answer:
        await asyncio.sleep(0.001)
        if self.rng.randrange(8) == 0:  # the front of an answer that a break has cut off
            self.partial = self.message(self.rng.choice((kind, lib.QFL_MSG_RESUME)), number or 0)
        number = self.next_number() if number is None else number
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[kind, number] = future
        try:
            self._on_message(self.message(kind, number))
            if not future.done():
                raise NoAnswer
            return future.result()
        finally:
            self._waiting.pop((kind, number), None)


async def _train(device: Device, update: bytes | None) -> None:
    delta = await device.train(3, HEAD, timeout=0.05, update=update)
    if not 1 <= delta.samples <= 65_535 or not 0 <= delta.loss < 1e6:
        raise AssertionError(f"taken: {delta.samples} samples, loss {delta.loss}")
    if not np.isfinite(decode(delta.data, LAYOUT)).all():
        raise AssertionError("a delta that is not finite was decoded")


async def _sums(device: Device) -> None:
    Sums(DIMS, CLASSES).add(await device.sums(bytes(8), timeout=0.05))


async def _push(device: Device, data: bytes) -> None:
    device.info = None
    await device.push(data, timeout=0.05)


async def _counters(device: Device) -> None:
    await device.read_counters(0.05)
    await device.compare(0.05)


async def _info(device: Device) -> None:
    info = await device.read_info(0.05, provisioning=True)
    if not all(32 <= ord(c) < 127 for c in f"{info.board}{info.firmware}{info.uid}{info.state}{info.reset}"):
        raise AssertionError(f"text that is not plain: {info}")


async def _evaluate(device: Device) -> None:
    score = await device.evaluate(timeout=0.05)
    if not 0.0 <= score.accuracy <= 1.0:
        raise AssertionError(f"taken: {score}")


#: What a host asks, and of which kind the first answer is.
REQUESTS: dict[int, Callable[[Device], Awaitable[object]]] = {
    lib.QFL_MSG_INFO: _info,
    lib.QFL_MSG_PUT_BEGIN: lambda d: _push(d, PACKAGE),
    lib.QFL_MSG_PUT_DATA: lambda d: _push(d, PACKAGE * 3),
    lib.QFL_MSG_PUT_END: lambda d: d.put_head(PARAMS, timeout=0.05),
    lib.QFL_MSG_CONFIG: lambda d: d.configure(CONFIG, timeout=0.05),
    lib.QFL_MSG_TRAIN: lambda d: _train(d, None),
    lib.QFL_MSG_TRAIN_UPDATE: lambda d: _train(d, b"update"),
    lib.QFL_MSG_UPDATE: lambda d: d.update(HEAD, b"update", timeout=0.05),
    lib.QFL_MSG_EVAL: _evaluate,
    lib.QFL_MSG_STATUS: lambda d: d.status(0.05),
    lib.QFL_MSG_COUNTERS: _counters,
    lib.QFL_MSG_STATS: _sums,
    lib.QFL_MSG_SELFTEST: lambda d: d.selftest(0.05),
    lib.QFL_MSG_KEYS: lambda d: d.set_keys(bytes(32), None, timeout=0.05),
    lib.QFL_MSG_RESUME: lambda d: _train(d, None),
}


def plain_line(text: str) -> bool:
    """Whether a message may be shown: one line, not long, nothing that a terminal acts on."""
    return bool(text) and len(text) <= 400 and text.isprintable()


async def one(device: Device, kind: int) -> str:
    """Ask once; returns how it ended. AssertionError, or whatever got through, is a finding."""
    try:
        await REQUESTS[kind](device)
    except NoAnswer:
        return "no answer"
    except (QuantflError, ValueError) as error:  # CodecError is a ValueError, by which admission refuses
        if not isinstance(error, QuantflError) and type(error).__name__ != "CodecError":
            raise
        if not plain_line(str(error)):
            raise AssertionError(f"not a plain line: {str(error)!r}") from None
        return type(error).__name__
    return "taken"


async def fuzz(seed: int, runs: int | None, seconds: float | None, kinds: tuple[int, ...]) -> Counter[str]:
    """Ask until `runs` requests or `seconds` of the machine's time are over; returns how they ended."""
    outcomes: Counter[str] = Counter()
    begun, done = time.monotonic(), 0
    while (runs is None or done < runs) and (seconds is None or time.monotonic() - begun < seconds):
        rng = random.Random(f"{seed}/{done // 256}")
        session = Scripted(rng)
        device = Device(session.transport.url, name="board", session=session)
        for _ in range(256 if runs is None else min(256, runs - done)):
            kind = kinds[rng.randrange(len(kinds))]
            started = time.process_time()
            try:
                outcomes[f"{MESSAGE_KINDS[kind].name} {await one(device, kind)}"] += 1
            except BaseException:
                print(f"{MESSAGE_KINDS[kind].name}: run {done} of seed {seed}, answer {session.said.hex()}")
                raise
            if time.process_time() - started > SLOW_S:
                raise AssertionError(f"{MESSAGE_KINDS[kind].name} took long: {session.said.hex()}")
            if len(session.partial) > 1 << 16 or session._refusals.qsize() > 64:
                raise AssertionError("the host keeps what nobody asked for")
            done += 1
    return outcomes


def run(runs: int | None, seconds: float | None, seed: int, log: Path | None = None) -> tuple[bool, int, int]:
    """(clean, executions, executions per second of processor time)."""
    assert set(REQUESTS) == set(SOUND) == set(PARSERS) == set(MESSAGE_KINDS), "a kind of message is missing"
    before = time.process_time()
    warnings.simplefilter("ignore", PlainLinkWarning)
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            outcomes = runner.run(fuzz(seed, runs, seconds, tuple(REQUESTS)))
    except Exception:
        traceback.print_exc()
        print(f"host: FAILED; repeat it with: --seed {seed}", file=sys.stderr)
        return False, 0, 0
    count, used = outcomes.total(), time.process_time() - before
    if log is not None:
        log.write_text("".join(f"{name}: {n:,}\n" for name, n in outcomes.most_common()))
    return True, count, int(count / max(used, 0.01))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(run(given.runs, None, given.seed))
