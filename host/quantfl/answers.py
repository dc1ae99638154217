"""What boards answer, read as what it is: bytes from somebody else.

Each function takes the body of one answer (docs/PROTOCOL.md) and returns its values, or raises ValueError
in a few words: a wrong length, an unknown code, a number out of its range or not finite, bytes left over.
INFO is read by quantfl.board_info. `PARSERS` has an entry for every kind of message.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantfl.board_info import parse_info
from quantfl.core import lib
from quantfl.core.head import Score
from quantfl.core.link import unpack_counters
from quantfl.link.session import Answer
from quantfl.messages import STATES, DeviceStatus, loss_of

#: Longest answer that a host takes, as it says in its handshake (quantfl.core.link.Link).
LONGEST = 1 << 20
SAMPLES_MAX = 65_535
TRAIN_HEAD = 5  # bytes before the delta in an answer to TRAIN
STATS_HEAD = 10  # bytes before the coded sums in an answer to STATS
RESUME_DIGEST = 32
_STATUS = struct.Struct("<BBHHIHIHHH")
_STATUS_FLAGS = 0x1F
#: Rounding may take a mean of losses so far below zero.
_LOSS_MIN = -1e-3


@dataclass(frozen=True)
class TrainAnswer:
    """samples trained on; loss in nats; digest: low 16 bits of the board's digest of its traffic counters."""

    samples: int
    loss: float
    digest: int
    delta: bytes


def _length(body: bytes, size: int) -> None:
    if len(body) != size:
        raise ValueError(f"{len(body)} bytes where there should be {size}")


def parse_nothing(body: bytes) -> None:
    """An answer that only says that it was done (CONFIG, KEYS)."""
    _length(body, 0)


def parse_head_hash(body: bytes) -> int:
    """The name of a global head (UPDATE, PUT_END, and whoever refuses as STALE)."""
    _length(body, 4)
    return int.from_bytes(body, "little")


def parse_offset(body: bytes, length: int = 2**32 - 1) -> int:
    """PUT_BEGIN, PUT_DATA: the offset in an object of `length` bytes from which to go on."""
    _length(body, 4)
    offset = int.from_bytes(body, "little")
    if offset > length:
        raise ValueError(f"offset {offset} in an object of {length} bytes")
    return offset


def parse_train(body: bytes) -> TrainAnswer:
    """TRAIN, TRAIN_UPDATE."""
    if not TRAIN_HEAD < len(body) <= LONGEST:
        raise ValueError(f"{len(body)} bytes")
    samples, loss, digest = struct.unpack_from("<HBH", body)
    if samples == 0:
        raise ValueError("a delta of no samples")
    return TrainAnswer(samples, loss_of(loss), digest, body[TRAIN_HEAD:])


def parse_evaluation(body: bytes) -> Score:
    """EVAL."""
    _length(body, 12)
    count, correct, loss = struct.unpack("<IIf", body)
    if count > SAMPLES_MAX or correct > count:
        raise ValueError(f"{correct} of {count} samples")
    if not math.isfinite(loss) or loss < _LOSS_MIN:
        raise ValueError(f"a loss of {loss:g}")
    return Score(count, correct, loss)


def parse_status(body: bytes) -> DeviceStatus:
    """STATUS."""
    _length(body, _STATUS.size)
    state, flags, samples, capacity, head, round_, rejected, held, global_hits, hits = _STATUS.unpack(body)
    if state not in STATES:
        raise ValueError(f"state {state}")
    if flags & ~_STATUS_FLAGS:
        raise ValueError(f"flags {flags:#x}")
    if samples > capacity:
        raise ValueError(f"{samples} samples where {capacity} fit")
    if held > samples or global_hits > held or hits > held:
        raise ValueError(f"{global_hits} and {hits} right of {held} held back of {samples} samples")
    return DeviceStatus(
        state=STATES[state],
        has_package=bool(flags & 1),
        has_config=bool(flags & 2),
        has_delta=bool(flags & 4),
        samples=samples,
        capacity=capacity,
        head=head,
        round=round_,
        rejected=rejected,
        personalised=bool(flags & 16),
        held=held,
        global_hits=global_hits,
        hits=hits,
    )


def parse_selftest(body: bytes) -> tuple[int, int, int]:
    """SELFTEST: cases run, how many failed, number of the first that failed (from 1; 0: none)."""
    _length(body, 6)
    cases, failed, first = struct.unpack("<3H", body)
    if failed > cases or first > cases or (failed == 0) != (first == 0):
        raise ValueError(f"{failed} of {cases} cases failed, first of them {first}")
    return cases, failed, first


def parse_stats(body: bytes) -> bytes:
    """STATS: the body, whose three parts are as long as it says (read by closed_form.Sums.add)."""
    if not STATS_HEAD < len(body) <= LONGEST:
        raise ValueError(f"{len(body)} bytes")
    samples, scatter, sums = struct.unpack_from("<HII", body)
    if samples == 0:
        raise ValueError("sums of no samples")
    if scatter == 0 or sums == 0 or STATS_HEAD + scatter + sums >= len(body):
        raise ValueError(f"parts of {scatter} and {sums} bytes in an answer of {len(body)}")
    return body


def parse_resume(body: bytes, head: int) -> tuple[bytes, bytes, bytes]:
    """RESUME: the `head` bytes that stand before the object, SHA-256 of the whole object, what was missing of
    it."""
    start = head + RESUME_DIGEST
    if not start <= len(body) <= LONGEST:
        raise ValueError(f"{len(body)} bytes")
    return body[:head], body[head:start], body[start:]


#: Kind of message -> what reads the body of an answer to it.
PARSERS: Mapping[int, Callable[[bytes], Any]] = {
    lib.QFL_MSG_INFO: parse_info,
    lib.QFL_MSG_PUT_BEGIN: parse_offset,
    lib.QFL_MSG_PUT_DATA: parse_offset,
    lib.QFL_MSG_PUT_END: parse_head_hash,
    lib.QFL_MSG_CONFIG: parse_nothing,
    lib.QFL_MSG_TRAIN: parse_train,
    lib.QFL_MSG_TRAIN_UPDATE: parse_train,
    lib.QFL_MSG_UPDATE: parse_head_hash,
    lib.QFL_MSG_EVAL: parse_evaluation,
    lib.QFL_MSG_STATUS: parse_status,
    lib.QFL_MSG_COUNTERS: unpack_counters,
    lib.QFL_MSG_STATS: parse_stats,
    lib.QFL_MSG_SELFTEST: parse_selftest,
    lib.QFL_MSG_KEYS: parse_nothing,
    lib.QFL_MSG_RESUME: lambda body: parse_resume(body, TRAIN_HEAD),
}


class PartialAnswer:
    """What has come of a long answer before the link broke, so that only the rest is asked for.

    kind, number, body: of the request; head: bytes before the object in its answer.
    """

    def __init__(self, kind: int, number: int | None, body: bytes, head: int):
        self.kind, self.number, self.body, self.head = kind, number, body, head
        self.data = b""

    @property
    def named(self) -> bytes:
        """How RESUME names the answer."""
        return (
            bytes((lib.QFL_MSG_TRAIN,)) + self.body[:4]
            if self.head
            else bytes((lib.QFL_MSG_STATS,)) + self.body
        )

    def take(self, partial: bytes) -> None:
        """Keep the front of an answer, or of the part that RESUME brings."""
        if len(partial) < 2 or (self.number is not None and partial[1] != self.number):
            return
        if partial[0] == self.kind | lib.QFL_MSG_ANSWER:
            self.data = partial[2 + self.head :]
        elif partial[0] == lib.QFL_MSG_RESUME | lib.QFL_MSG_ANSWER:
            self.data += partial[2 + self.head + RESUME_DIGEST :]
        if len(self.data) > LONGEST:  # no answer is so long
            self.data = b""

    def whole(self, answer: Answer) -> Answer | None:
        """The answer as it would have come without a break; None: the pieces do not fit together, so it is
        asked anew."""
        before, self.data = self.data, b""
        if answer.status < 0:
            return None
        try:
            head, digest, missing = parse_resume(answer.body, self.head)
        except ValueError:
            return None
        data = before + missing
        if len(data) > LONGEST or hashlib.sha256(data).digest() != digest:
            return None
        return replace(answer, kind=self.kind, body=head + data)
