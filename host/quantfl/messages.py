"""Bodies of messages as values: what boards say of themselves and answer, and what a CONFIG says
(docs/PROTOCOL.md)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from quantfl.core import ffi, lib, status_text
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig
from quantfl.errors import DeviceError
from quantfl.link.session import Answer

STATES = {0: "empty", 1: "idle", 2: "training", 3: "evaluating", 4: "statistics"}
#: What a board says of its flash: bits of INFO's `kept` (docs/STORE.md).
PERSISTED = (
    *("package", "log", "cut package", "cut log", "no room for a log", "keeps rounds", "log failed"),
    "damaged package",
)
RESETS = {0: "power", 1: "pin", 2: "software", 3: "watchdog", 4: "other"}


@dataclass(frozen=True)
class DeviceInfo:
    """A board's self-description. package: SHA-256 as hex, None when it holds none; head: hash of its global
    head.

    keys: its flags of keys (lib.QFL_KEYS_*). operators: bit c for every operator code c its engine has.
    selftest: 0, or the
    number of the first kernel case that failed. persisted: what its flash held at the start and holds now
    (PERSISTED). codecs, kinds: masks of
    the codecs and of the trainable layers it has; parts: what else its build holds (lib.QFL_PART_*).
    battery_percent:
    its charge, None: not known.
    """

    protocol: int
    firmware: str
    board: str
    uid: str
    ram: int
    flash: int
    arena: int
    store: int
    state: str
    reset: str
    uptime_ms: int
    lost: int
    operators: int
    selftest: int
    package: str | None = None
    head: int | None = None
    params: int = 0
    features: int = 0
    classes: int = 0
    samples: int = 0
    capacity: int = 0
    keys: int = 0
    persisted: tuple[str, ...] = ()
    codecs: int = 0x0F
    kinds: int = 0x7E
    parts: int = 0x0F
    battery_percent: int | None = None

    @property
    def flash_note(self) -> str | None:
        """What people should know of the board's flash, one line; None: nothing."""
        if "damaged package" in self.persisted:
            return (
                "the package in its flash changed after it was stored whole, which no power cut does: the "
                "flash is worn or was written from outside; replace the board if this comes again"
            )
        if "log failed" in self.persisted:
            return "its flash does not take the log of rounds: a reset would cost the round under way"
        return None


@dataclass(frozen=True)
class DeviceStatus:
    """samples cached of at most `capacity`; rejected: samples refused for label or length; round: last one
    trained.

    personalised: its personalised head is in use. held: samples it holds back; global_hits, hits: right among
    them by the global head and by the head in use, at their last comparison (0 without a personal run).
    """

    state: str
    has_package: bool
    has_config: bool
    has_delta: bool
    samples: int
    capacity: int
    head: int
    round: int
    rejected: int
    personalised: bool = False
    held: int = 0
    global_hits: int = 0
    hits: int = 0


@dataclass(frozen=True)
class Delta:
    """A round's answer: coded delta, number of samples trained on, mean loss of the last epoch in nats (to
    1/16 of it).

    balanced: the board's counters of the link agreed with ours when it answered (by digest). step: the code
    agreed on, or 0. head: hash of the head it started from.
    """

    round: int
    samples: int
    loss: float
    data: bytes
    balanced: bool
    step: int = 0
    head: int = 0


class StaleHead(DeviceError):
    """The board holds another global head than the request names; `head` is the hash of the one it holds."""

    def __init__(self, message: str, head: int):
        super().__init__(message, lib.QFL_E_STALE)
        self.head = head


def config_bytes(
    fit: FitConfig,
    codec: Codec,
    *,
    run_id: int,
    seed: int,
    residual_decay: float = 1.0,
    personal: bool = False,
) -> bytes:
    """The body of a CONFIG message (docs/PROTOCOL.md). residual_decay: part of a residual that is left per
    round missed, 0..1. personal: boards
    keep a head of their own where it is better on the samples they hold back. ValueError, OverflowError: a
    number that does not fit its field."""
    kind, flags, levels = codec.fields
    fields = {
        "run_id": run_id & 0xFFFFFFFF,
        "fit": replace(fit, seed=seed).fields,
        "codec": {"kind": kind, "flags": flags, "levels": levels},
        "personal": personal,
        "residual_decay": round(255 * residual_decay),
    }
    out = ffi.new("uint8_t[]", lib.QFL_CONFIG_BYTES)
    status = lib.qfl_device_pack_config(ffi.new("qfl_device_config *", fields), out)
    if status < 0:
        raise ValueError(f"a configuration that does not fit its message: {status_text(status)}")
    return bytes(ffi.buffer(out))


def config_needs(config: bytes) -> tuple[int, bool]:
    """Of a CONFIG message's body: the code of its codec (qfl_codec_kind), and whether boards keep a head of
    their own. ValueError: it is none, or of another format."""
    c = ffi.new("qfl_device_config *")
    if len(config) != lib.QFL_CONFIG_BYTES or lib.qfl_device_unpack_config(config, c) < 0:
        raise ValueError(f"{len(config)} bytes are no CONFIG of this version")
    return int(c.codec.kind), bool(c.personal)


def loss_of(packed: int) -> float:
    """The loss a board packs into one byte, in nats (docs/PROTOCOL.md)."""
    return 0.0 if packed == 0 else (16 + packed % 16) * 2.0 ** (packed // 16 - 12)


class Rest:
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
        """Keep the front of an answer, or of the rest of one."""
        if len(partial) < 2 or (self.number is not None and partial[1] != self.number):
            return
        if partial[0] == self.kind | lib.QFL_MSG_ANSWER:
            self.data = partial[2 + self.head :]
        elif partial[0] == lib.QFL_MSG_RESUME | lib.QFL_MSG_ANSWER:
            self.data += partial[2 + self.head + 32 :]

    def whole(self, answer: Answer) -> Answer | None:
        """The answer as it would have come without a break; None: the pieces do not fit together, so it is
        asked anew."""
        digest, rest = answer.body[self.head : self.head + 32], answer.body[self.head + 32 :]
        data, self.data = self.data + rest, b""
        if answer.status < 0 or hashlib.sha256(data).digest() != digest:
            return None
        return replace(answer, kind=self.kind, body=answer.body[: self.head] + data)
