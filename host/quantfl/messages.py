"""Bodies of messages as values: what boards say of themselves and answer, and what a CONFIG says
(docs/PROTOCOL.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantfl.core import ffi, lib, status_text
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig
from quantfl.errors import DeviceError

STATES = {0: "empty", 1: "idle", 2: "training", 3: "evaluating", 4: "statistics"}
#: What a board says of its flash: bits of INFO's `kept` (docs/STORE.md).
PERSISTED = (
    *("package", "log", "cut package", "cut log", "no room for a log", "keeps rounds", "log failed"),
    "damaged package",
)
RESETS = {0: "power", 1: "pin", 2: "software", 3: "watchdog", 4: "other"}


@dataclass(frozen=True)
class DeviceInfo:
    """A board's description of itself, the answer to INFO (docs/PROTOCOL.md)."""

    protocol: int
    """Version of the messages."""
    firmware: str
    """Version of quantfl in the firmware."""
    board: str
    """Kind of board, as in platformio.ini."""
    uid: str
    """The part's unique id, as hex."""
    ram: int
    """RAM of the part, in bytes."""
    flash: int
    """Flash of the part, in bytes."""
    arena: int
    """Bytes of RAM that quantfl has."""
    store: int
    """Bytes of the longest package that its flash takes."""
    state: str
    """What it does: a word of STATES."""
    reset: str
    """Why it started last: a word of RESETS."""
    uptime_ms: int
    """Milliseconds since it started."""
    lost: int
    """Bytes that its port has lost."""
    operators: int
    """The operators of its engine: bit c for every operator code c."""
    selftest: int
    """0, or the number of the first kernel case that failed."""
    package: str | None = None
    """SHA-256 of its package, as hex. None: it holds none."""
    head: int | None = None
    """Hash of its global head. None: it holds no package."""
    params: int = 0
    """Parameters of the head."""
    features: int = 0
    """Features of a sample."""
    classes: int = 0
    """Classes of the head."""
    samples: int = 0
    """Samples cached."""
    capacity: int = 0
    """Samples that it can cache."""
    keys: int = 0
    """Flags of its keys (QFL_KEYS_* of qfl_device.h)."""
    persisted: tuple[str, ...] = ()
    """What its flash held at the start and holds now: words of PERSISTED."""
    codecs: int = 0x0F
    """Codecs of its build: bit k for every kind k of codec."""
    kinds: int = 0x7E
    """Layers that its build can train: QFL_HEAD_KINDS."""
    parts: int = 0x0F
    """What else its build holds: QFL_PART_* of qfl_device.h."""
    battery_percent: int | None = None
    """Charge of its battery. None: not known."""

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
    """What a board does at the moment, the answer to STATUS."""

    state: str
    """What it does: a word of STATES."""
    has_package: bool
    """It holds a package."""
    has_config: bool
    """It has the configuration of a run."""
    has_delta: bool
    """It keeps the delta of a round."""
    samples: int
    """Samples cached."""
    capacity: int
    """Samples that it can cache."""
    head: int
    """Hash of its global head."""
    round: int
    """The round it trained last."""
    rejected: int
    """Samples refused, for their label or their length."""
    personalised: bool = False
    """It uses a personalised head."""
    held: int = 0
    """Samples that it holds back."""
    global_hits: int = 0
    """Held-back samples that the global head got right, at the last comparison; 0 without a personal run."""
    hits: int = 0
    """Held-back samples that the head in use got right, at the last comparison."""


@dataclass(frozen=True)
class Delta:
    """A board's answer to TRAIN."""

    round: int
    """The round."""
    samples: int
    """Samples that it trained on."""
    loss: float
    """Mean loss of the last epoch, in nats, to 1/16 of it."""
    data: bytes
    """The coded delta (docs/CODEC.md)."""
    balanced: bool
    """The board's traffic counters of the link agreed with ours when it answered, by their digest."""
    step: int = 0
    """Code of the step that was agreed on; 0: the board chose."""
    head: int = 0
    """Hash of the head that it started from."""


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
    """The body of a CONFIG message (docs/PROTOCOL.md).

    residual_decay: the part of a residual that is left per round missed, 0..1. personal: boards keep a
    personalised head where it is better on the samples they hold back. ValueError, OverflowError: a number
    that does not fit its field.
    """
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
