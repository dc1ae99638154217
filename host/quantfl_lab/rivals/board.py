"""A link and the board at its end, in this process and without time, where a rival codes deltas; all else is
as on a board.

Both ends of the link are the boards' own C (quantfl.core.link), so is the fit (quantfl.core.head); a round's
messages are those of docs/PROTOCOL.md. tests/emulated/test_rival_fleet.py holds bytes and heads against those
of the boards' own firmware.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import CodecError
from quantfl.core.head import FitConfig, Head, head_hash
from quantfl.core.link import Counters, Link
from quantfl.errors import DeviceError, LinkError
from quantfl_lab.rivals.base import Sender, Shapes

MESSAGE_MAX, FRAME_MAX, WINDOW = 4160, 256, 16  # as of a board with 96 KiB or more
_UNANSWERED = (
    lib.QFL_MSG_TRAIN,
    lib.QFL_MSG_TRAIN_UPDATE,
    lib.QFL_MSG_PUT_DATA,
)  # at once: acknowledged by frames of their own
_TRAIN = (lib.QFL_MSG_TRAIN, lib.QFL_MSG_TRAIN_UPDATE)


def uplink_seed(seed: int, round_: int, index: int) -> int:
    """Randomness that a board and the host share for one delta."""
    return int(np.random.SeedSequence([seed, round_, index]).generate_state(1)[0])


def loss_byte(loss: float) -> int:
    """As qfl_device packs it."""
    if not math.isfinite(loss):
        return 255
    scaled, e = loss * 4096, 0
    if scaled < 16:
        return 0
    while scaled >= 32 and e < 15:
        scaled, e = scaled / 2, e + 1
    return e << 4 | int(scaled) - 16 if scaled < 32 else 255


@dataclass
class RivalBoard:
    """A client. features int8 [n, F], labels [n]; fit: hyper-parameters with the client's own seed; sender:
    codes its deltas; apply: decodes what comes down, given data and the hash of the head it changes; seed: of
    the run; watch: sees (round, board, delta)."""

    index: int
    head: Head
    params: np.ndarray
    shapes: Shapes
    features: np.ndarray
    labels: np.ndarray
    fit: FitConfig
    sender: Sender
    apply: Callable[[bytes, int], np.ndarray]
    seed: int
    watch: Callable[[int, int, np.ndarray], None] | None = None
    _put: bytearray = field(default_factory=bytearray)
    _object: tuple[int, int, bytes] = (0, 0, b"")
    _staged: bytes = b""

    def answer(self, message: bytes, digest: int) -> bytes | None:
        """The whole answer to a request, None for one that has none. digest: of this end's counters at
        this moment."""
        kind, number, body = message[0], message[1], message[2:]
        status, out = 0, b""
        if kind == lib.QFL_MSG_PUT_BEGIN:
            self._object, out = struct.unpack("<BI32s", body), bytes(4)
            self._put.clear()
        elif kind == lib.QFL_MSG_PUT_DATA:
            self._put += body[4:]
            return None
        elif kind == lib.QFL_MSG_PUT_END:
            status = self._put_end()
            out = self._held
        elif kind == lib.QFL_MSG_UPDATE:
            flags, result = struct.unpack_from("<BI", body)
            status = self._update(self._staged if flags & lib.QFL_UPDATE_STAGED else body[5:], result)
            out = self._held
        elif kind in _TRAIN:
            try:
                status, out = self._train(kind, number, body, digest)
            except CodecError as error:  # the fit ran away
                status, out = error.status, self._held
        else:
            status = lib.QFL_E_UNSUPPORTED
        refused = (lib.QFL_MSG_FAILED, struct.pack("<b", status)) if status else (0, b"")
        return bytes((kind | lib.QFL_MSG_ANSWER | refused[0], number)) + refused[1] + out

    @property
    def _held(self) -> bytes:
        return struct.pack("<I", head_hash(self.params))

    def _put_end(self) -> int:
        object_, length, sha256 = self._object
        data = bytes(self._put)
        if len(data) != length or hashlib.sha256(data).digest() != sha256:
            return lib.QFL_E_HASH
        if object_ == lib.QFL_OBJECT_HEAD:
            self.params = np.frombuffer(data, "<f4").astype(np.float32)
        else:
            self._staged = data
        return 0

    def _update(self, data: bytes, result: int) -> int:
        """Apply what leads to the head `result`; a qfl_status."""
        held = head_hash(self.params)
        if held == result:
            return 0
        try:
            params = (self.params + self.apply(data, held)).astype(np.float32)
        except CodecError as error:
            return error.status
        if head_hash(params) != result:
            return lib.QFL_E_STALE
        self.params = params
        return 0

    def _train(self, kind: int, number: int, body: bytes, digest: int) -> tuple[int, bytes]:
        target = int.from_bytes(body[:4], "little")
        status = 0 if head_hash(self.params) == target else lib.QFL_E_STALE
        if status and kind == lib.QFL_MSG_TRAIN_UPDATE:
            status = self._update(body[5:], target)
        if status:
            return status, self._held
        config = replace(self.fit, seed=self.fit.seed ^ number * 0x9E3779B9 & 0xFFFFFFFF)
        trained, loss = self.head.fit(self.params, self.features, self.labels, config)
        delta = trained - self.params
        if self.watch is not None:
            self.watch(number, self.index, delta)
        data = self.sender.send(delta, self.shapes, uplink_seed(self.seed, number, self.index))
        return 0, struct.pack("<HBH", len(self.labels), loss_byte(loss), digest) + data


class Line:
    """A clean line between the host and one board; `request` is what quantfl.device does, with no one to wait
    for."""

    def __init__(self, board: RivalBoard):
        self.board = board
        self.host = Link(rto_ms=60_000, rto_min_ms=60_000)
        self._far = Link(initiator=False, message_max=MESSAGE_MAX, frame_max=FRAME_MAX, window=WINDOW)
        self._number, self._answer, self._due = 0, b"", b""
        self._whole = False  # the object's last piece is under way: acknowledged with the answer to PUT_END
        self.host.connect(0x51BD0001 + 4 * board.index, 0)
        self._run()

    def counters(self) -> Counters:
        """The host's counters."""
        return self.host.counters()

    def _move(self, source: Link, sink: Link, take: Callable[[], None]) -> bool:
        data, at = source.pull(0), 0
        while at < len(data):
            at += sink.feed(data[at:], 0)
            take()
        return bool(data)

    def _at_board(self) -> None:
        kind = self._far.peek()
        if kind is None:
            return
        message = self._far.message(ack=kind in _UNANSWERED and not self._whole)
        if kind in _TRAIN:
            self._due = message  # acknowledged first
        else:
            self._reply(message)

    def _reply(self, message: bytes) -> None:
        answer = self.board.answer(message, self._far.counters().digest)
        if answer is not None:
            self._far.send(answer)

    def _at_host(self) -> None:
        message = self.host.message()
        if message is not None:
            self._answer = message

    def _run(self) -> None:
        """Until nothing is under way any more."""
        while True:
            moved = self._move(self.host, self._far, self._at_board)
            moved = self._move(self._far, self.host, self._at_host) or moved
            if moved:
                continue
            if not self._due:
                return
            message, self._due = self._due, b""
            self._reply(message)

    def request(self, kind: int, body: bytes = b"", number: int | None = None) -> bytes:
        """The body of the board's answer. DeviceError: it refuses."""
        if number is None:
            self._number = number = (self._number + 1) & 0xFF
        self._answer = b""
        self.host.send(bytes((kind, number)) + body)
        self._run()
        if kind == lib.QFL_MSG_PUT_DATA:
            return b""
        if not self._answer:
            raise LinkError(f"board {self.board.index} does not answer request {kind}")
        if self._answer[0] & lib.QFL_MSG_FAILED == lib.QFL_MSG_FAILED:
            raise DeviceError(
                f"board {self.board.index} refused request {kind}",
                int.from_bytes(self._answer[2:3], signed=True),
            )
        return self._answer[2:]

    def put(self, object_: int, data: bytes) -> None:
        """Move a whole object."""
        self.request(
            lib.QFL_MSG_PUT_BEGIN, struct.pack("<BI", object_, len(data)) + hashlib.sha256(data).digest()
        )
        for at in range(0, len(data), self.host.piece):
            self._whole = at + self.host.piece >= len(data)
            self.request(lib.QFL_MSG_PUT_DATA, struct.pack("<I", at) + data[at : at + self.host.piece])
        self._whole = False
        self.request(lib.QFL_MSG_PUT_END)

    def update(self, result: int, data: bytes) -> None:
        """SyncPlan the board to head `result`."""
        if len(data) + lib.QFL_UPDATE_HEAD_BYTES > self.host.peer_message_max:
            self.put(lib.QFL_OBJECT_UPDATE, data)
            self.request(lib.QFL_MSG_UPDATE, struct.pack("<BI", lib.QFL_UPDATE_STAGED, result))
        else:
            self.request(lib.QFL_MSG_UPDATE, struct.pack("<BI", 0, result) + data)

    def train(self, round_: int, target: int, update: bytes | None) -> tuple[int, float, bytes]:
        """(samples, loss in nats, coded delta)."""
        kind = lib.QFL_MSG_TRAIN if update is None else lib.QFL_MSG_TRAIN_UPDATE
        body = self.request(kind, struct.pack("<IB", target, 0) + (update or b""), round_ & 0xFF)
        samples, packed, _ = struct.unpack_from("<HBH", body)
        return samples, 0.0 if packed == 0 else (16 + packed % 16) * 2.0 ** (packed // 16 - 12), body[5:]
