"""Whether a package fits a board, computed by the code that lays memory and flash out on the board, for the
board's own pointers.

`tests/emulated/test_fit.py` holds every figure against what emulated boards do with the same packages.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantfl.core.nn import device_need
from quantfl.package.boards import BOARDS, Board
from quantfl.package.build import lacking
from quantfl.package.program import Package

SAMPLES = 100
#: Bytes at the end of the arena that stay free (qfl_device_plan).
SPARE = 16


@dataclass(frozen=True)
class Fit:
    """ram_needed: bytes of arena for `samples` cached samples; ram: arena of the board. flash_needed: bytes
    of the package, to which a signature adds 72; flash: of the longest package that its store takes.
    max_samples: that can be cached, without a head of its own. lacks: what its build lacks for the package,
    None: nothing.
    """

    board: str
    core: str
    ram_needed: int
    ram: int
    flash_needed: int
    flash: int
    max_samples: int
    fits: bool
    lacks: str | None = None


def needed(package: bytes, board: Board, samples: int = SAMPLES) -> int:
    """Bytes of the board's arena for `samples` cached samples: one byte less of it, and one sample less could
    be cached."""
    need = device_need(package, board.arena, pointer=board.pointer)
    return need["fixed"] + need["params"] + need["activations"] + SPARE + samples * need["per_sample"]


def check(package: Package, *, samples: int = SAMPLES, boards: tuple[Board, ...] = BOARDS) -> list[Fit]:
    """One row per board. The package fits when `samples` samples can be cached, its store takes the package
    and its build runs it."""
    rows = []
    for board in boards:
        ram, slot, lacks = (
            needed(package.data, board, samples),
            board.slot,
            lacking(package.needs, board.operators, board.kinds),
        )
        most = device_need(package.data, board.arena, pointer=board.pointer)["capacity"]
        fits = samples <= most and len(package.data) <= slot and lacks is None
        rows.append(Fit(board.name, board.core, ram, board.arena, len(package.data), slot, most, fits, lacks))
    return rows
