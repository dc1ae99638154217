"""Whether a package fits a board, computed by the code that lays the memory out on the board (qfl_device_plan)."""

from __future__ import annotations

from dataclasses import dataclass

from quantfl.core.nn import device_need
from quantfl.package.boards import BOARDS, Board

SAMPLES = 100


@dataclass(frozen=True)
class Fit:
    """ram_needed: bytes of arena for `samples` cached samples; ram: arena of the board. flash: bytes of one slot."""

    board: str
    core: str
    ram_needed: int
    ram: int
    flash_needed: int
    flash: int
    max_samples: int
    fits: bool


def check(package: bytes, *, samples: int = SAMPLES, boards: tuple[Board, ...] = BOARDS) -> list[Fit]:
    """One row per board. The package fits when `samples` samples can be cached and one flash slot holds it."""
    rows = []
    for board in boards:
        need = device_need(package, board.arena)
        ram = need["fixed"] + need["params"] + need["activations"] + 16 + samples * need["per_sample"]
        rows.append(
            Fit(board.name, board.core, ram, board.arena, len(package), board.slot, need["capacity"],
                ram <= board.arena and len(package) <= board.slot)
        )  # fmt: skip
    return rows
