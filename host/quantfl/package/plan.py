"""Memory plan: where each activation lives in the arena, lifetimes overlapping, computed once on the host.

Greedy by size, first fit (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
inference"), tried in a few orders; the smallest arena wins. A block may come and go in pieces, so that a
tensor written row by row can move into the place of one that is read row by row. The device checks that every
access is inside the arena, it does not plan.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Bytes [low, high) of a block, in use from step `first` to step `last` (inclusive)."""

    low: int
    high: int
    first: int
    last: int


@dataclass(frozen=True)
class Block:
    """A piece of memory of `size` bytes and when which of them are in use."""

    key: int
    size: int
    pieces: tuple[Piece, ...]

    @property
    def first(self) -> int:
        return min(p.first for p in self.pieces)

    @property
    def last(self) -> int:
        return max(p.last for p in self.pieces)


def place(blocks: list[Block], *, align: int = 16, tries: int = 0) -> tuple[dict[int, int], int]:
    """Offsets by key and the arena's size, both multiples of `align`; bytes used at the same time do not
    overlap.

    tries: how many times the best order is changed in the hope of a better one, where one may exist.
    """
    n = len(blocks)
    apart = [[_apart(a, b) for b in blocks] for a in blocks]
    first, last = [b.first for b in blocks], [b.last for b in blocks]
    keys = (
        lambda i: (-blocks[i].size, first[i]),
        lambda i: (first[i] - last[i], -blocks[i].size),
        lambda i: (-blocks[i].size * (last[i] - first[i] + 1), first[i]),
        lambda i: (first[i], -blocks[i].size),
    )
    best, order = None, []
    for key in keys:
        other = sorted(range(n), key=key)
        found = _greedy(blocks, apart, other, align)
        if best is None or found[1] < best[1]:
            best, order = found, other
    assert best is not None
    least, chance = _up(peak(blocks, max(last, default=0)), align), random.Random(1)
    for _ in range(tries):
        if best[1] <= least:
            break
        top = [k for k, i in enumerate(order) if k and _up(best[0][i] + blocks[i].size, align) == best[1]]
        if not top:
            break
        other, k = list(order), chance.choice(top)
        other.insert(chance.randrange(k), other.pop(k))
        found = _greedy(blocks, apart, other, align)
        if found[1] <= best[1]:
            best, order = found, other
    return {blocks[i].key: at for i, at in enumerate(best[0])}, best[1]


def _up(n: int, align: int) -> int:
    return -(-n // align) * align


def _apart(a: Block, b: Block) -> list[tuple[int, int]]:
    """Where b must not begin, from where a begins: pairs (after, before), in order, none touching the
    next."""
    taken = sorted(
        (p.low - q.high, p.high - q.low)
        for p in a.pieces
        for q in b.pieces
        if p.first <= q.last and q.first <= p.last
    )
    merged: list[tuple[int, int]] = []
    for after, before in taken:
        if merged and after < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], before)
        else:
            merged.append((after, before))
    return merged


def _greedy(
    blocks: list[Block], apart: list[list[list[tuple[int, int]]]], order: list[int], align: int
) -> tuple[list[int], int]:
    """Every block in its turn at the lowest place that those before it leave."""
    offsets, total = [0] * len(blocks), 0
    for k, i in enumerate(order):
        taken = sorted(
            (offsets[j] + after, offsets[j] + before) for j in order[:k] for after, before in apart[j][i]
        )
        at = 0
        for after, before in taken:
            if at <= after:
                break
            if at < before:
                at = _up(before, align)
        offsets[i] = at
        total = max(total, at + blocks[i].size)
    return offsets, _up(total, align)


def peak(blocks: list[Block], steps: int) -> int:
    """The most bytes in use at one step: no arena can be smaller."""
    change = [0] * (steps + 2)
    for block in blocks:
        for p in block.pieces:
            change[p.first] += p.high - p.low
            change[p.last + 1] -= p.high - p.low
    most = now = 0
    for c in change:
        now += c
        most = max(most, now)
    return most
