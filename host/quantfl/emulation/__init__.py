"""Emulated boards: the firmware as native processes, in QEMU, or inside this process."""

from quantfl.emulation.base import INSIDE, KINDS, Board, available, best_kind, boot_fleet, close_all

__all__ = ["INSIDE", "KINDS", "Board", "available", "best_kind", "boot_fleet", "close_all"]
