"""Memory plan: where each activation lives in the arena, lifetimes overlapping, computed once on the host.

Greedy by size, first fit (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference"), tried in
a few orders; the smallest arena wins. The device checks the result, it does not plan.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A piece of memory: bytes, first and last step (inclusive) at which it is in use."""

    key: int
    size: int
    first: int
    last: int


def place(blocks: list[Block], align: int = 16) -> tuple[dict[int, int], int]:
    """Offsets by key and the arena's size, both multiples of `align`; blocks used at the same time do not overlap."""
    best: tuple[dict[int, int], int] | None = None
    orders = (
        lambda b: (-b.size, b.first),
        lambda b: (b.first - b.last, -b.size),
        lambda b: (-b.size * (b.last - b.first + 1), b.first),
        lambda b: (b.first, -b.size),
    )
    for order in orders:
        offsets, total = _greedy(sorted(blocks, key=order), align)
        if best is None or total < best[1]:
            best = offsets, total
    assert best is not None
    return best


def _greedy(blocks: list[Block], align: int) -> tuple[dict[int, int], int]:
    placed: list[tuple[int, Block]] = []
    offsets: dict[int, int] = {}
    total = 0
    for block in blocks:
        busy = sorted((o, o + b.size) for o, b in placed if b.first <= block.last and block.first <= b.last)
        at = 0
        for start, end in busy:
            if at + block.size <= start:
                break
            at = max(at, -(-end // align) * align)
        offsets[block.key] = at
        placed.append((at, block))
        total = max(total, at + block.size)
    return offsets, -(-total // align) * align
