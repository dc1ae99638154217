"""A board in this process whose deltas are coded by a rival: everything else as on a board (docs/PROTOCOL.md).

The fit is the boards' own C (quantfl.core.head), so are link and frames (quantfl.core.link); messages are answered here.
tests/emulated/test_rival_fleet.py holds its bytes and heads against those of the boards' own firmware.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields

import numpy as np

from quantfl.bench.rivals.base import Sender, Shapes
from quantfl.core import lib
from quantfl.core.codec import CodecError
from quantfl.core.head import FitConfig, Head, head_hash
from quantfl.core.link import Counters, Link
from quantfl.device import DeviceInfo

PACKAGE = b""  # rivals' boards hold their features and head from the start: nothing is pushed
MESSAGE_MAX, FRAME_MAX, WINDOW = 4160, 256, 16  # as of a board with 96 KiB or more
UNHURRIED_MS = 60_000  # a time-out: bytes in this process are not lost, and fits hold up the loop
_UNANSWERED = (lib.QFL_MSG_TRAIN, lib.QFL_MSG_TRAIN_UPDATE, lib.QFL_MSG_PUT_DATA)  # at once: acknowledged by frames of their own
_LOOPS = 4  # turns of the event loop in which acknowledgements go out before the next fit begins


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


def books(c: Counters) -> int:
    """The digest of one end's counters (docs/PROTOCOL.md, Books)."""
    purposes = ("payload", "framing", "ack", "retransmission", "handshake")
    values = [getattr(c, f"{way}_{p}") for way in ("tx", "rx") for p in purposes]
    return zlib.crc32(struct.pack("<10I", *values)) & 0xFFFF


class Turns:
    """Lets one fit run at a time, after what is under way on all links has been delivered."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        for _ in range(_LOOPS):
            await asyncio.sleep(0)

    async def __aexit__(self, *_exc: object) -> None:
        self._lock.release()


@dataclass
class RivalBoard:
    """A client and its transport (quantfl.link.transport.Transport).

    features int8 [n, F], labels [n]; fit: hyper-parameters with the client's own seed; sender: codes its deltas; apply: decodes what
    comes down, given data and the hash of the head it changes; seed: of the run. watch: called with every delta float32 [params].
    """

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
    turns: Turns
    watch: Callable[[int, int, np.ndarray], None] | None = None
    link: Link = field(init=False)
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"rival://{self.index}"
        self.params = self.params.copy()
        self.link = Link(initiator=False, message_max=MESSAGE_MAX, frame_max=FRAME_MAX, window=WINDOW)
        self._on_bytes: Callable[[bytes], None] | None = None
        self._put = bytearray()
        self._object = (0, 0, b"")
        self._staged = b""
        self._tasks: set[asyncio.Task] = set()

    async def open(self, on_bytes: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        self._on_bytes = on_bytes

    async def close(self) -> None:
        self._on_bytes = None
        for task in self._tasks:
            task.cancel()

    def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            at += self.link.feed(data[at:], 0)
            message = self.link.message(ack=self.link.peek() in _UNANSWERED)
            if message is not None:
                self._answer(message)
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while data := self.link.pull(0):
            loop.call_soon(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if self._on_bytes is not None:
            self._on_bytes(data)

    def _send(self, kind: int, number: int, body: bytes, status: int = 0) -> None:
        refused = lib.QFL_MSG_FAILED if status else 0
        self.link.send(bytes((kind | lib.QFL_MSG_ANSWER | refused, number)) + (struct.pack("<b", status) if status else b"") + body)

    def _answer(self, message: bytes) -> None:
        kind, number, body = message[0], message[1], message[2:]
        if kind in (lib.QFL_MSG_TRAIN, lib.QFL_MSG_TRAIN_UPDATE):
            task = asyncio.get_running_loop().create_task(self._train(kind, number, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == lib.QFL_MSG_CONFIG:
            self._send(kind, number, b"")
        elif kind == lib.QFL_MSG_PUT_BEGIN:
            self._object = struct.unpack("<BI32s", body)
            self._put.clear()
            self._send(kind, number, bytes(4))
        elif kind == lib.QFL_MSG_PUT_DATA:
            self._put += body[4:]
        elif kind == lib.QFL_MSG_PUT_END:
            self._put_end(number)
        elif kind == lib.QFL_MSG_UPDATE:
            flags, result = struct.unpack_from("<BI", body)
            status = self._update(self._staged if flags & lib.QFL_UPDATE_STAGED else body[5:], result)
            self._send(kind, number, self._held, status)
        elif kind == lib.QFL_MSG_COUNTERS:
            c = self.link.counters()
            names = [f"{w}_{p}" for w in ("tx", "rx") for p in ("payload", "framing", "ack", "retransmission", "handshake")]
            self._send(kind, number, struct.pack("<11I", *(getattr(c, n) for n in names), c.rx_noise))
        else:
            self._send(kind, number, b"", lib.QFL_E_UNSUPPORTED)

    def describe(self) -> DeviceInfo:
        """What it would say of itself, as far as a run asks for it; the rest is 0."""
        known = {
            "board": "rival", "package": hashlib.sha256(PACKAGE).hexdigest(), "head": head_hash(self.params),
            "params": self.params.size, "features": self.features.shape[1], "classes": self.head.dims[-1], "samples": len(self.labels),
        }  # fmt: skip
        return DeviceInfo(**{f.name: 0 for f in fields(DeviceInfo) if f.default is MISSING} | known)

    @property
    def _held(self) -> bytes:
        return struct.pack("<I", head_hash(self.params))

    def _put_end(self, number: int) -> None:
        object_, length, sha256 = self._object
        data = bytes(self._put)
        if len(data) != length or hashlib.sha256(data).digest() != sha256:
            self._send(lib.QFL_MSG_PUT_END, number, self._held, lib.QFL_E_HASH)
            return
        if object_ == lib.QFL_OBJECT_HEAD:
            self.params = np.frombuffer(data, "<f4").astype(np.float32)
        else:
            self._staged = data
        self._send(lib.QFL_MSG_PUT_END, number, self._held)

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

    async def _train(self, kind: int, number: int, body: bytes) -> None:
        async with self.turns:
            target = int.from_bytes(body[:4], "little")
            status = 0 if head_hash(self.params) == target else lib.QFL_E_STALE
            if status and kind == lib.QFL_MSG_TRAIN_UPDATE:
                status = self._update(body[5:], target)
            if status:
                self._send(kind, number, self._held, status)
            else:
                trained, loss = self._fit(number)
                delta = trained - self.params
                if self.watch is not None:
                    self.watch(number, self.index, delta)
                head = struct.pack("<HBH", len(self.labels), loss_byte(loss), books(self.link.counters()))
                try:
                    data = self.sender.send(delta, self.shapes, uplink_seed(self.seed, number, self.index))
                except CodecError as error:  # the fit ran away
                    self._send(kind, number, self._held, error.status)
                else:
                    self._send(kind, number, head + data)
            self._flush()

    def _fit(self, round_: int) -> tuple[np.ndarray, float]:
        c = self.fit
        mixed = c.seed ^ round_ * 0x9E3779B9 & 0xFFFFFFFF
        config = FitConfig(c.lr, c.momentum, c.weight_decay, c.prox, c.epochs, c.batch, mixed, c.holdout)
        return self.head.fit(self.params, self.features, self.labels, config)
