"""Kinds of messages, from the table of firmware/lib/qfl_device/include/qfl_msg.h."""

from __future__ import annotations

from dataclasses import dataclass

from quantfl.core import ffi, lib

ANSWER, FAILED = lib.QFL_MSG_ANSWER, lib.QFL_MSG_FAILED
KIND_MAX = lib.QFL_MSG_KIND_MAX
#: Name and traffic category of bytes in no message (handshake, noise).
LINK = "LINK"


@dataclass(frozen=True)
class MessageKind:
    """One row of the table. sender: HOST, or HOST_STREAM where the board answers only to refuse. category:
    what its bytes are spent for."""

    number: int
    name: str
    sender: str
    category: str
    meaning: str


def _table() -> dict[int, MessageKind]:
    found: dict[int, MessageKind] = {}
    while (entry := lib.qfl_msg_entry_at(len(found))) != ffi.NULL:
        texts = (entry.name, entry.sender_name, entry.category_name, entry.meaning)
        found[int(entry.number)] = MessageKind(
            int(entry.number), *(ffi.string(text).decode("ascii") for text in texts)
        )
    return found


#: Number -> kind, in the order of the table.
MESSAGE_KINDS = _table()
_CATEGORY = {kind.name: kind.category for kind in MESSAGE_KINDS.values()}


def kind_name(first_byte: int) -> str:
    """The name of the kind that a message's first byte says; `kind 40` for one that is not in the table."""
    number = first_byte & KIND_MAX
    kind = MESSAGE_KINDS.get(number)
    return kind.name if kind is not None else LINK if number == 0 else f"kind {number}"


def category_of(name: str) -> str:
    """The traffic category of a kind by its name; what is no kind of the table is its own category."""
    return _CATEGORY.get(name, name)
