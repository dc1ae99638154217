"""Traces: every frame on every link, with its time and direction, in a file that Wireshark reads as well.

The format is pcapng (IETF draft-ietf-opsawg-pcapng): one interface per link, link type USER0 (147), one
packet per piece between two delimiters, as it stood on the wire, its delimiters included; microseconds; the
direction in epb_flags. tools/wireshark/quantfl.lua is a dissector. Written as the run goes on: what a killed
host leaves behind can be read up to its last whole packet.
"""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from quantfl.core.link import cobs_decode
from quantfl.errors import RunError, UsageError
from quantfl.link.message_kinds import ANSWER, FAILED, kind_name

LINKTYPE_USER0 = 147
SENT, RECEIVED = "sent", "received"  # as the host sees it
TYPES = {0: "DATA", 1: "ACK", 2: "SYN", 3: "SYNACK", 4: "RST", 5: "DATA"}
_FIN = 5  # DATA that ends its message
_BLOCK, _SHB, _IDB, _EPB = 0x1A2B3C4D, 0x0A0D0D0A, 1, 6
_LONGEST = 1 << 16  # a piece without a delimiter is cut here

_active: ContextVar[TraceWriter | None] = ContextVar("quantfl_trace", default=None)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value.ljust(-(-len(value) // 4) * 4, b"\0")


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


class TraceWriter:
    """A trace file. UsageError when it cannot be made.

    What cannot be written later, on a full disk for one, ends the trace and nothing else: `failed` says why.
    """

    def __init__(self, path: Path):
        try:
            self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise UsageError(f"--trace {path}: cannot be written: {error.strerror}") from None
        self.path, self.failed = path, ""
        application = _option(4, b"quantfl") + _option(0, b"")
        self._write(_block(_SHB, struct.pack("<IHHq", _BLOCK, 1, 0, -1) + application))
        self._links = 0

    def tap(self, name: str) -> Tap:
        """A new link of this trace."""
        options = _option(2, name.encode()) + _option(9, b"\x06") + _option(0, b"")
        self._write(_block(_IDB, struct.pack("<HHI", LINKTYPE_USER0, 0, 0) + options))
        self._links += 1
        return Tap(self, self._links - 1)

    def packet(self, link: int, direction: str, data: bytes, at_us: int) -> None:
        flags = _option(2, struct.pack("<I", 2 if direction == SENT else 1)) + _option(0, b"")
        body = struct.pack("<IIIII", link, at_us >> 32, at_us & 0xFFFFFFFF, len(data), len(data))
        self._write(_block(_EPB, body + data.ljust(-(-len(data) // 4) * 4, b"\0") + flags))

    def _write(self, data: bytes) -> None:
        if self.failed:
            return
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.failed = error.strerror or str(error)

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            self.failed = self.failed or error.strerror or str(error)


@dataclass
class Tap:
    """Both directions of one link: bytes are kept until their piece ends."""

    writer: TraceWriter
    link: int
    _parts: dict[str, bytearray] = field(default_factory=lambda: {SENT: bytearray(), RECEIVED: bytearray()})

    def take(self, direction: str, data: bytes) -> None:
        now = time.time_ns() // 1000
        part = self._parts[direction]
        for byte in data:
            part.append(byte)
            # A delimiter that leads a frame stands alone before it and belongs to it.
            if (byte == 0 and part.strip(b"\0")) or len(part) >= _LONGEST:
                self.writer.packet(self.link, direction, bytes(part), now)
                part.clear()


@contextlib.contextmanager
def tracing(path: Path | None) -> Iterator[None]:
    """Every session made inside writes its frames to `path`; None: no trace."""
    if path is None:
        yield
        return
    writer = TraceWriter(path)
    token = _active.set(writer)
    try:
        yield
    finally:
        _active.reset(token)
        writer.close()
    if writer.failed:
        raise RunError(f"--trace {path}: ends early: {writer.failed}; all else is done")


def tap_of(url: str) -> Tap | None:
    """The tap for a new session's link, None when nothing is traced."""
    writer = _active.get()
    return None if writer is None else writer.tap(url)


@dataclass(frozen=True)
class Frame:
    """A piece of the line as a person reads it. bytes: on the wire; kind: message of a DATA frame that begins
    one.

    type: DATA, ACK, SYN, SYNACK, RST, `sealed` for a frame whose content only the keys' holders see, `noise`
    for bytes in no frame.
    """

    time: float
    link: str
    direction: str
    type: str
    bytes: int
    session: int | None = None
    seq: int | None = None
    ack: int | None = None
    message: int | None = None
    fin: bool = False
    payload: int = 0
    kind: str | None = None
    detail: str = ""

    def line(self, start: float) -> str:
        arrow = "→" if self.direction == SENT else "←"
        parts = [f"{self.time - start:10.6f}", self.link, arrow, f"{self.type:<6}", f"{self.bytes:5} B"]
        if self.seq is not None:
            parts.append(f"seq {self.seq} ack {self.ack} message {self.message}{' FIN' if self.fin else ''}")
        elif self.ack is not None:
            parts.append(f"ack {self.ack}")
        return "  ".join(
            [*parts, *([self.kind] if self.kind else []), *([self.detail] if self.detail else [])]
        )

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v not in (None, "", False)}


def _kind(first: int) -> str:
    said = " refused" if first & FAILED else " answer" if first & ANSWER else ""
    return kind_name(first) + said


def decode(at: float, link: str, direction: str, piece: bytes, starts: dict[tuple[str, str], bool]) -> Frame:
    """starts: by link and direction, whether the next DATA frame begins a message; updated."""
    common: dict[str, Any] = {"time": at, "link": link, "direction": direction, "bytes": len(piece)}
    try:
        plain = cobs_decode(piece.strip(b"\0"))
    except ValueError:
        plain = b""
    if len(plain) < 5 or (plain[0] & 7) not in TYPES:
        return Frame(**common, type="noise", detail=_printable(piece))
    sound = zlib.crc32(plain[:-4]) == int.from_bytes(plain[-4:], "little")
    head, body = plain[0], plain[:-4]
    kind, session = TYPES[head & 7], head >> 6
    if not sound:
        sealed = kind in ("DATA", "ACK") and starts.get((link, "sealed"), False)
        return Frame(
            **common,
            type="sealed" if sealed else "noise",
            session=session if sealed else None,
            detail=_printable(piece),
        )
    if kind == "DATA" and len(body) >= 3:
        begins = starts.get((link, direction), True)
        fin = head & 7 == _FIN
        starts[link, direction] = fin
        named = _kind(body[3]) if begins and len(body) > 3 else None
        return Frame(
            **common,
            type=kind,
            session=session,
            seq=body[1],
            ack=body[2],
            message=head >> 3 & 7,
            fin=fin,
            payload=len(body) - 3,
            kind=named,
        )
    if kind == "ACK" and len(body) >= 2:
        return Frame(**common, type=kind, session=session, ack=body[1], detail=_ack_detail(body))
    if kind in ("SYN", "SYNACK") and len(body) >= 13:
        version, nonce, window, size, longest = struct.unpack_from("<BIBHI", body, 1)
        starts[link, SENT] = starts[link, RECEIVED] = True
        starts[link, "sealed"] = len(body) > 13
        text = f"version {version}, nonce {nonce:08x}, window {window}, frame {size}, message {longest:,}"
        return Frame(
            **common, type=kind, session=session, detail=text + (", with keys" if len(body) > 13 else "")
        )
    return Frame(**common, type=kind, session=session)


def _ack_detail(body: bytes) -> str:
    gaps = int.from_bytes(body[2:4], "little")
    arrived = [(body[1] + 1 + i) & 0xFF for i in range(16) if gaps >> i & 1]
    more = int.from_bytes(body[5:], "little")
    words = {1: "are you there?", 2: f"busy for at most {more} ms", 3: f"frame {more} had no place yet"}
    said = [f"also arrived {arrived}"] * bool(arrived) + [words.get(b, "?") for b in body[4:5]]
    return ", ".join(said)


def _behind_noise(piece: bytes) -> int:
    """Where in a piece that is no frame one begins behind text, as the receiver finds it; 0: nowhere."""
    body = piece.strip(b"\0")
    for at in range(1, len(body) - 6):
        try:
            plain = cobs_decode(body[at:])
        except ValueError:
            continue
        sound = len(plain) > 5 and zlib.crc32(plain[:-4]) == int.from_bytes(plain[-4:], "little")
        if sound and TYPES.get(plain[0] & 7) in ("DATA", "ACK"):
            return piece.index(body) + at
    return 0


def _printable(piece: bytes) -> str:
    text = piece.strip(b"\0").decode("ascii", errors="replace")
    return repr(text[:60]) if text and sum(c.isprintable() for c in text) > 0.8 * len(text) else ""


def read(path: Path) -> Iterator[Frame]:
    """The frames of a trace, in order. UsageError when the file is none; a last packet cut off by a crash is
    left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if (
        len(data) < 28
        or struct.unpack_from("<I", data)[0] != _SHB
        or struct.unpack_from("<I", data, 8)[0] != _BLOCK
    ):
        raise UsageError(f"{path} is no trace of quantfl (no pcapng file, or one of the other byte order)")
    at = 0
    links: list[str] = []
    starts: dict[tuple[str, str], bool] = {}
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if size < 12 or size % 4 or at + size > len(data):
            return
        body = data[at + 8 : at + size - 4]
        if kind == _IDB:
            links.append(_name(body[8:]) or f"link {len(links)}")
        elif kind == _EPB and len(body) >= 20:
            link, high, low, length, _ = struct.unpack_from("<IIIII", body)
            if link >= len(links) or 20 + length > len(body):
                raise UsageError(f"{path} is damaged at byte {at}")
            flags = _flags(body[20 + -(-length // 4) * 4 :])
            direction = SENT if flags & 3 == 2 else RECEIVED
            now, piece = (high << 32 | low) / 1e6, body[20 : 20 + length]
            frame = decode(now, links[link], direction, piece, starts)
            behind = _behind_noise(piece) if frame.type == "noise" else 0
            if behind:
                yield replace(frame, bytes=behind, detail=_printable(piece[:behind]))
                frame = decode(now, links[link], direction, piece[behind:], starts)
            yield frame
        at += size


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if code == 0:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + -(-size // 4) * 4


def _name(options: bytes) -> str:
    return next((v.decode(errors="replace") for c, v in _options(options) if c == 2), "")


def _flags(options: bytes) -> int:
    return next((int.from_bytes(v[:4], "little") for c, v in _options(options) if c == 2), 0)
