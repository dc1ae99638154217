"""A board's self-description (INFO, docs/PROTOCOL.md), read as what it is: bytes from somebody else.

The description is CBOR (RFC 8949). Only the part of CBOR that boards write is taken: maps, arrays, unsigned
and negative integers of at most 64 bits, byte and text strings, all of definite length and few levels deep.
Tags, floats and everything else are refused before a CBOR library sees them, so that no value can allocate
memory, run for long or have effects of its own. Every field then has a type, a length and a range. Text keeps
plain characters only, since it is shown on terminals.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quantfl.core import lib
from quantfl.messages import PERSISTED, RESETS, STATES, DeviceInfo

INFO_MAX = 4096  # bytes: ten times what boards send
ITEMS_MAX = 256  # keys and values, nested ones included
DEPTH_MAX = 4

_U32 = Annotated[int, Field(ge=0, lt=2**32)]
_Text = Annotated[str, Field(min_length=1, max_length=64)]
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._+:/()-]")


class _Info(BaseModel):
    """The fields of INFO. Unknown keys are left alone: a newer board may say more."""

    model_config = ConfigDict(strict=True, extra="ignore")

    protocol: Annotated[int, Field(ge=0, le=255)]
    firmware: _Text
    board: _Text
    uid: Annotated[bytes, Field(max_length=lib.QFL_LINK_UID_MAX)]
    ram: _U32
    flash: _U32
    arena: _U32
    store: _U32
    state: _U32
    reset: _U32
    uptime_ms: _U32
    lost: _U32
    operators: _U32
    selftest: _U32
    package: Annotated[bytes, Field(min_length=32, max_length=32)] | None = None
    head: _U32 | None = None
    params: _U32 = 0
    features: _U32 = 0
    classes: Annotated[int, Field(ge=0, le=65535)] = 0
    samples: _U32 = 0
    capacity: _U32 = 0
    keys: _U32 = 0
    persisted_flags: Annotated[_U32, Field(alias="kept")] = 0
    codecs: _U32 = 0x0F
    kinds: _U32 = 0x7E
    parts: _U32 = 0x0F
    battery: _U32 | None = None  # above 100 the port does not know it

    @field_validator("state")
    @classmethod
    def _known_state(cls, value: int) -> int:
        if value not in STATES:
            raise ValueError(f"there is no state {value}")
        return value

    @field_validator("reset")
    @classmethod
    def _known_reset(cls, value: int) -> int:
        if value not in RESETS:
            raise ValueError(f"there is no reason {value} of a reset")
        return value

    @field_validator("firmware", "board")
    @classmethod
    def _plain(cls, text: str) -> str:
        return _NOT_PLAIN.sub("?", text)

    def value(self) -> DeviceInfo:
        """As the rest of the host knows it."""
        plain = self.model_dump(exclude={"uid", "state", "reset", "package", "battery", "persisted_flags"})
        return DeviceInfo(
            **plain,
            uid=self.uid.hex(),
            state=STATES[self.state],
            reset=RESETS[self.reset],
            package=None if self.package is None else self.package.hex(),
            battery_percent=self.battery if self.battery is not None and self.battery <= 100 else None,
            persisted=tuple(text for bit, text in enumerate(PERSISTED) if self.persisted_flags >> bit & 1),
        )


def _checked(data: bytes) -> None:
    """ValueError: `data` is not one item of the part of CBOR that boards write."""
    at, items = 0, 0
    open_: list[int] = [1]  # items that are still to come, by level
    while open_:
        if open_[-1] == 0:
            open_.pop()
            continue
        open_[-1] -= 1
        items += 1
        if items > ITEMS_MAX or len(open_) > DEPTH_MAX + 1 or at >= len(data):
            raise ValueError("too many items, too deep, or cut off")
        major, short = data[at] >> 5, data[at] & 31
        at += 1
        size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short, 0)
        if major > 5 or (short > 23 and size == 0):
            raise ValueError("a tag, a float, or an item without a length")
        value = int.from_bytes(data[at : at + size], "big") if size else short
        at += size
        if major in (2, 3):
            at += value
        elif major == 4:
            open_.append(value)
        elif major == 5:
            open_.append(2 * value)
        if at > len(data):
            raise ValueError("cut off")
    if at != len(data):
        raise ValueError("more than one item")


def parse_info(data: bytes) -> DeviceInfo:
    """The body of an answer to INFO. ValueError, in a few words: it is none."""
    if len(data) > INFO_MAX:
        raise ValueError(f"{len(data)} bytes")
    _checked(data)
    try:
        raw: Any = cbor2.loads(data)
    except Exception as error:  # whatever the library makes of it, it is no description
        raise ValueError(f"not CBOR: {type(error).__name__}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ValueError("not a map of names")
    try:
        return _Info.model_validate(raw).value()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = _NOT_PLAIN.sub("?", ".".join(map(str, first["loc"])))[:40]
        raise ValueError(f"{where}: {first['msg']}") from None


def uid_of(data: bytes) -> str:
    """The unique id, as hex, in an answer to INFO; empty when the answer makes no sense."""
    try:
        return parse_info(data).uid
    except ValueError:
        return ""
