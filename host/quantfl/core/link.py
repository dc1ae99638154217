"""One end of a link session (qfl_link): messages in and out, bytes in and out, every byte counted."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from quantfl.core import ffi, lib, status_text, zeroed
from quantfl.errors import LinkError

CLOSED, CONNECTING, UP, DOWN, NAMED = range(5)
#: Why a session did not come up (qfl_link_refusal).
NOT_REFUSED, PEER_PLAIN, PEER_KEYED, KEY_UNKNOWN, KEY_WRONG = range(5)
NEVER = 0x7FFFFFFF
_PULL = 16 * 1024
_PUT_HEAD, _PIECE_MAX = 6, 4096  # bytes of a PUT_DATA message before its piece of the object; longest piece
BYTE_CATEGORIES = (
    "payload",
    "framing",
    "acknowledgement",
    "retransmission",
    "handshake",
    "security",
    "noise",
)
_SIDE = ("payload", "framing", "acknowledgement", "retransmission", "handshake", "security", "checksum")
#: Counters in their order in an answer to COUNTERS.
COUNTERS_SENT = (
    *(f"tx_{s}" for s in _SIDE),
    *(f"rx_{s}" for s in _SIDE),
    "rx_noise",
    "tx_frames",
    "rx_frames",
    "rx_bad_frames",
)


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes on the wire by category since the link began (qfl_link_counters); `*_frames` count frames."""

    tx_payload: int = 0
    tx_framing: int = 0
    tx_acknowledgement: int = 0
    tx_retransmission: int = 0
    tx_handshake: int = 0
    rx_payload: int = 0
    rx_framing: int = 0
    rx_acknowledgement: int = 0
    rx_retransmission: int = 0
    rx_handshake: int = 0
    rx_noise: int = 0
    tx_security: int = 0
    rx_security: int = 0
    tx_checksum: int = 0  # checksums of the counts by kind (qfl_link_weight); no bytes
    rx_checksum: int = 0
    tx_frames: int = 0
    rx_frames: int = 0
    rx_bad_frames: int = 0

    @classmethod
    def of(cls, c: Any) -> Counters:
        """From the C structure."""
        return cls(*(getattr(c, name) for name in _NAMES))

    @property
    def tx_bytes(self) -> int:
        """All bytes sent."""
        return (
            self.tx_payload
            + self.tx_framing
            + self.tx_acknowledgement
            + self.tx_retransmission
            + self.tx_handshake
            + self.tx_security
        )

    @property
    def rx_bytes(self) -> int:
        """All bytes received, noise included."""
        used = (
            self.rx_payload
            + self.rx_framing
            + self.rx_acknowledgement
            + self.rx_retransmission
            + self.rx_handshake
            + self.rx_security
        )
        return used + self.rx_noise

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*((getattr(self, name) - getattr(other, name)) % 2**32 for name in _NAMES))

    def __add__(self, other: Counters) -> Counters:
        return Counters(*((getattr(self, name) + getattr(other, name)) % 2**32 for name in _NAMES))

    @property
    def swapped(self) -> Counters:
        """The counters as the other end must have them where nothing was lost: sent and received change
        places."""
        return Counters(*(getattr(self, other) if other else 0 for other in _SWAPPED))

    @property
    def digest(self) -> int:
        """What a delta carries of the counters of the end that sends it (qfl_device_counters_digest)."""
        c = ffi.new("qfl_link_counters *")
        for name in _NAMES:
            setattr(c, name, getattr(self, name))
        return int(lib.qfl_device_counters_digest(c, 0))


_NAMES = tuple(f.name for f in fields(Counters))
_OTHER_END = {"tx": "rx", "rx": "tx"}
_SWAPPED = tuple(other if (other := _OTHER_END[name[:2]] + name[2:]) in _NAMES else "" for name in _NAMES)


def unpack_counters(body: bytes) -> tuple[Counters, int, int]:
    """A board's answer to COUNTERS: its counters, the bytes its port has lost, a number that changes when it
    starts anew.

    ValueError: not such a body.
    """
    if len(body) != 4 * (len(COUNTERS_SENT) + 2):
        raise ValueError("not the counters of a link")
    *values, lost, boot = struct.unpack(f"<{len(COUNTERS_SENT) + 2}I", body)
    return Counters(**dict(zip(COUNTERS_SENT, values, strict=True))), lost, boot


def _exactly(data: bytes, size: int) -> Any:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes where {size} are needed")
    return ffi.from_buffer("uint8_t[]", data)


def _check(status: int) -> None:
    if status < 0:
        raise ValueError(status_text(status))


class _Buffer(threading.local):
    """Room for what a link has to send, which is copied at once: one for all links of a thread."""

    def __init__(self) -> None:
        self.bytes = ffi.new("uint8_t[]", _PULL)


_buffer = _Buffer()


class Link:
    """The host's end. `now` arguments are milliseconds of any monotonic clock."""

    def __init__(
        self,
        *,
        message_max: int = 1 << 20,
        frame_max: int = 1024,
        window: int = 16,
        queue: int | None = None,
        initiator: bool = True,
        rto_ms: int = 0,
        rto_min_ms: int = 0,
        rto_calm_ms: int = 0,
        give_up: int = 0,
        quiet_ms: int = 0,
    ):
        config = ffi.new("qfl_link_config *")
        config.message_max, config.frame_max, config.window = message_max, frame_max, window
        config.initiator, config.rto_ms, config.rto_min_ms, config.give_up = (
            initiator,
            rto_ms,
            rto_min_ms,
            give_up,
        )
        config.quiet_ms, config.rto_calm_ms = quiet_ms, rto_calm_ms
        #: Messages queued or in flight: a host takes as many as the link can, a board what the firmware has.
        self.queue = queue or (lib.QFL_LINK_QUEUE_MAX if initiator else lib.QFL_LINK_QUEUE)
        config.queue = self.queue
        self._kinds = np.zeros((2, lib.QFL_LINK_KINDS, lib.QFL_LINK_CATEGORIES), np.uint32)
        config.kinds = ffi.from_buffer("uint32_t[]", self._kinds)
        size = lib.qfl_link_size(config)
        if size == 0:
            raise ValueError(
                f"link configuration out of range: frame_max {frame_max}, window {window}, queue {self.queue}"
            )
        self._memory = ffi.from_buffer("uint8_t[]", zeroed(size))
        out = ffi.new("qfl_link **")
        status = lib.qfl_link_init(out, config, self._memory, size)
        if status < 0:
            raise ValueError(status_text(status))
        self._link = out[0]
        self._frame_room = lib.qfl_link_pull_size(config)
        self._key = None
        self._bodies: list[Any] = []  # bodies in flight are referenced by the C side until acknowledged

    @property
    def handle(self) -> Any:
        """The link in C, qfl_link *."""
        return self._link

    def connect(self, nonce: int, now: int) -> None:
        """Open a new session; the old one's messages are dropped."""
        lib.qfl_link_connect(self._link, nonce & 0xFFFFFFFF, now & 0xFFFFFFFF)
        self._bodies.clear()

    def secure(self, seed: bytes, *, uid: bytes | None = None, key: bytes | None = None) -> None:
        """Sessions with keys. seed: 32 secret random bytes. Initiator: no other session is opened from now
        on. Board: uid, key."""
        lib.qfl_link_set_seed(self._link, _exactly(seed, 32))
        if uid is None:
            _check(lib.qfl_link_require_keys(self._link, 1))
        else:
            _check(lib.qfl_link_set_uid(self._link, ffi.from_buffer("uint8_t[]", uid), len(uid)))
            self.set_key(key)

    def require_keys(self, required: bool) -> None:
        """Initiator, after `secure`: whether the next session must have keys."""
        _check(lib.qfl_link_require_keys(self._link, int(required)))

    def set_key(self, key: bytes | None) -> bool:
        """Board: its key. Initiator in state NAMED: the board's key, None: we have none. False: its proof is
        by another key."""
        held = ffi.NULL if key is None else _exactly(key, 32)
        status = lib.qfl_link_set_key(self._link, held)
        self._key = held  # the C side refers to a board's key
        if status != lib.QFL_E_AUTH:
            _check(status)
        return bool(status == 0)

    def reject(self) -> None:
        """In state NAMED: no key we have fits."""
        lib.qfl_link_reject(self._link)

    @property
    def peer_uid(self) -> bytes:
        """The id that the board has told in its answer to our challenge; believed only when the session is
        up."""
        n = ffi.new("uint32_t *")
        p = lib.qfl_link_peer_uid(self._link, n)
        return bytes(ffi.buffer(p, n[0]))

    @property
    def sealed(self) -> bool:
        """Whether the session that is up has keys."""
        return bool(lib.qfl_link_is_sealed(self._link))

    def export(self) -> bytes:
        """32 bytes that only the two ends of this session know. ValueError: the session has no keys."""
        out = ffi.new("uint8_t[]", 32)
        _check(lib.qfl_link_export(self._link, out))
        return bytes(ffi.buffer(out))

    @property
    def refusal(self) -> int:
        """Why the session did not come up: PEER_PLAIN, PEER_KEYED, KEY_UNKNOWN, KEY_WRONG."""
        return int(lib.qfl_link_get_refusal(self._link))

    @property
    def state(self) -> int:
        return int(lib.qfl_link_get_state(self._link))

    @property
    def pending(self) -> int:
        """Messages queued or not yet acknowledged in full."""
        return int(lib.qfl_link_pending(self._link))

    @property
    def peer_message_max(self) -> int:
        """Longest message the peer takes, bytes."""
        return int(lib.qfl_link_peer_message_max(self._link))

    @property
    def window(self) -> int:
        """Agreed frames in flight."""
        return int(lib.qfl_link_window(self._link))

    @property
    def frame_size(self) -> int:
        """Agreed payload bytes per frame."""
        return int(lib.qfl_link_frame_size(self._link))

    @property
    def piece(self) -> int:
        """Bytes of an object in one PUT_DATA message: such that it ends with a whole frame, where that costs
        little of its length."""
        longest = min(_PIECE_MAX + _PUT_HEAD, self.peer_message_max)
        rest = longest % self.frame_size
        return longest - (rest if 64 * rest < longest else 0) - _PUT_HEAD

    @property
    def ahead(self) -> int:
        """PUT_DATA messages that keep the line busy: those that the window holds, one that ends and one that
        begins."""
        return min(self.queue, self.window * self.frame_size // (self.piece + _PUT_HEAD) + 2)

    def feed(self, data: bytes, now: int) -> int:
        """Take received bytes; stops when a message is complete. Returns how many were taken."""
        return int(
            lib.qfl_link_feed(self._link, ffi.from_buffer("uint8_t[]", data), len(data), now & 0xFFFFFFFF)
        )

    def peek(self) -> int | None:
        """First byte of the complete message, if any: its kind. It stays until `message`."""
        n = ffi.new("uint32_t *")
        p = lib.qfl_link_message(self._link, n)
        return p[0] if p != ffi.NULL and n[0] else None

    def message(self, ack: bool = True) -> bytes | None:
        """The complete message, if any; its buffer is given back and the message acknowledged."""
        n = ffi.new("uint32_t *")
        p = lib.qfl_link_message(self._link, n)
        if p == ffi.NULL:
            return None
        data = bytes(ffi.buffer(p, n[0]))
        lib.qfl_link_release(self._link, int(ack))
        return data

    def partial(self) -> bytes:
        """The front of a message under way that has come in order; gone after `connect`."""
        n = ffi.new("uint32_t *")
        p = lib.qfl_link_partial(self._link, n)
        return bytes(ffi.buffer(p, n[0]))

    def send(self, message: bytes) -> None:
        """Queue one message. LinkError when there is no session, the queue is full or the message too
        long."""
        body = ffi.new("uint8_t[]", message) if message else ffi.NULL
        status = lib.qfl_link_send(self._link, ffi.NULL, 0, body, len(message))
        if status < 0:
            raise LinkError(f"cannot send a message of {len(message)} bytes: {status_text(status)}")
        self._bodies.append(body)
        del self._bodies[: max(0, len(self._bodies) - self.queue)]

    def pull(self, now: int) -> bytes:
        """Bytes due on the wire now."""
        n = lib.qfl_link_pull(self._link, _buffer.bytes, _PULL, now & 0xFFFFFFFF)
        return bytes(ffi.buffer(_buffer.bytes, n))

    def pull_some(self, now: int) -> bytes:
        """As pull, but no more than one frame: what a board's firmware asks for at a time."""
        n = lib.qfl_link_pull(self._link, _buffer.bytes, self._frame_room, now & 0xFFFFFFFF)
        return bytes(ffi.buffer(_buffer.bytes, n))

    def pull_counted(self, now: int) -> tuple[bytes, np.ndarray]:
        """As pull_some, and what it was counted as: uint32 [kinds, categories]."""
        before = self._kinds[lib.QFL_LINK_TX].copy()
        data = self.pull_some(now)
        return data, self._kinds[lib.QFL_LINK_TX] - before

    def uncount(self, counted: np.ndarray, n: int) -> None:
        """Take the last n bytes of a frame out of the counters: the line never took them. counted: as
        `pull_counted` has told; what ends a frame goes first."""
        frames = 1
        for category in reversed(range(len(BYTE_CATEGORIES))):
            for kind in np.flatnonzero(counted[:, category]):
                here = min(n, int(counted[kind, category]))
                lib.qfl_link_uncount(self._link, int(kind), category, here, frames)
                n, frames = n - here, 0

    def busy(self, ms: int) -> None:
        """Announce that this end may be deaf for so long (a board that erases flash)."""
        lib.qfl_link_busy(self._link, ms)

    def peer_busy(self, now: int) -> int:
        """Milliseconds for which the peer has announced to be busy, 0: it is not."""
        return int(lib.qfl_link_peer_busy(self._link, now & 0xFFFFFFFF))

    def wait(self, now: int) -> int:
        """Milliseconds until `pull` has something to do by itself, NEVER when only new bytes or messages
        matter."""
        return int(lib.qfl_link_wait(self._link, now & 0xFFFFFFFF))

    def counters(self) -> Counters:
        c = ffi.new("qfl_link_counters *")
        lib.qfl_link_get_counters(self._link, c)
        return Counters.of(c)

    def counters_before(self) -> Counters:
        """The counters as they stood before the first frame of the last message."""
        c = ffi.new("qfl_link_counters *")
        lib.qfl_link_get_counters_before(self._link, c)
        return Counters.of(c)

    @property
    def uncounted(self) -> int:
        """Bytes received and not counted yet: of a piece whose end has not come."""
        return int(lib.qfl_link_uncounted(self._link))

    def kinds(self) -> np.ndarray:
        """Bytes by direction (0: sent, 1: received), kind of message and category: uint32 [2, 64, 7], modulo
        2^32."""
        return self._kinds.copy()


def crc32(data: bytes, crc: int = 0) -> int:
    """CRC-32/ISO-HDLC as the firmware computes it."""
    return int(lib.qfl_link_crc32(crc, ffi.from_buffer("uint8_t[]", data), len(data)))


def cobs_encode(data: bytes) -> bytes:
    """COBS without the delimiter, as the firmware does it."""
    out = ffi.new("uint8_t[]", len(data) + len(data) // 254 + 2)
    return bytes(
        ffi.buffer(out, lib.qfl_link_cobs_encode(ffi.from_buffer("uint8_t[]", data), len(data), out))
    )


def cobs_decode(data: bytes) -> bytes:
    """Inverse of `cobs_encode`; ValueError when the bytes are no COBS."""
    buf = ffi.new("uint8_t[]", data or b"\0")
    n = lib.qfl_link_cobs_decode(buf, len(data))
    if n < 0:
        raise ValueError("not COBS-encoded bytes")
    return bytes(ffi.buffer(buf, n))
