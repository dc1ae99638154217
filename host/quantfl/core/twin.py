"""A round of many boards inside this process in one call of C (firmware/boards/inproc/qfl_twin.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantfl.core import ffi, lib, status_text
from quantfl.core.board import InprocBoard
from quantfl.core.codec import layout_of
from quantfl.core.link import Link
from quantfl.errors import ToolError

NO_UPDATE, CODED, SYMBOLS = lib.QFL_TWIN_NO_UPDATE, lib.QFL_TWIN_CODED, lib.QFL_TWIN_SYMBOLS
_TYPES = {"uint8_t": "u1", "int8_t": "i1", "uint32_t": "<u4", "int32_t": "<i4"}


def _dtype(name: str) -> np.dtype[np.void]:
    """The numpy type of a C structure of integers."""
    fields = ffi.typeof(name).fields
    return np.dtype(
        {
            "names": [n for n, _ in fields],
            "formats": [_TYPES[f.type.cname] for _, f in fields],
            "offsets": [f.offset for _, f in fields],
            "itemsize": ffi.sizeof(name),
        }
    )


#: A board's part of a round: qfl_twin_row.
ROW = _dtype("qfl_twin_row")


class TwinBoards:
    """Boards of this process and the host's ends of their links, by their place in the fleet. Boards that
    are in a call must not be used elsewhere."""

    def __init__(self, count: int):
        self._boards = ffi.new("qfl_twin_board[]", count)
        self._held: list[tuple[InprocBoard, Link, object] | None] = [None] * count

    def put(self, index: int, board: InprocBoard, link: Link) -> None:
        """Board `index` is this one, with its session at this link; cheap when it was before."""
        held, device = self._held[index], board.device
        if held is not None and held[0] is board and held[1] is link and held[2] is device:
            return
        b = self._boards[index]
        b.board, b.device, b.link = board.handle, device, link.handle
        self._held[index] = (board, link, device)

    def round(self, step: TwinStep, rows: np.ndarray, symbols: np.ndarray, threads: int) -> None:
        """One round of the boards of `rows` (ROW [n]), which get what came of it. symbols: int32 [n, params],
        in: of updates given as symbols; out: of the deltas that are DZ. It does not hold Python's lock."""
        c = ffi.new("qfl_twin_step *")
        c.count, c.now_ms, c.round, c.agreed = (
            len(rows),
            step.now_ms & 0xFFFFFFFF,
            step.round & 0xFF,
            step.step,
        )
        c.params, c.worth, c.answer_room = symbols.shape[1], step.worth, step.answers.shape[1]
        layout = layout_of(step.tensors, symbols.shape[1])
        c.layout, c.updates = layout, ffi.from_buffer("uint8_t[]", step.updates)
        c.answers = ffi.from_buffer("uint8_t[]", step.answers)
        status = lib.qfl_twin_round(
            self._boards,
            c,
            threads,
            ffi.from_buffer("int32_t[]", symbols),
            ffi.cast("qfl_twin_row *", ffi.from_buffer("uint8_t[]", rows)),
        )
        if status < 0:
            raise ToolError(f"a round of virtual boards cannot be run: {status_text(status)}")


@dataclass(frozen=True)
class TwinStep:
    """What all boards of a round have in common.

    step: code of the step of their deltas, 0: their own. worth: an update of so many bytes or more is not
    worth sending. updates: coded updates, one after another. answers: uint8 [n, room], which gets the
    answers.
    """

    round: int
    step: int
    now_ms: int
    tensors: Sequence[int]
    worth: int
    updates: bytes
    answers: np.ndarray
