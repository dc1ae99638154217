"""Emulated boards: the firmware as native processes, in QEMU, or inside this process."""

from quantfl.emulation.base import BOARD_KINDS, INSIDE, Board, available, best_kind, boot_fleet, close_all

__all__ = ["BOARD_KINDS", "INSIDE", "Board", "available", "best_kind", "boot_fleet", "close_all"]
