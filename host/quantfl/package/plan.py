"""Memory plan: where each activation lives in the arena, lifetimes overlapping, computed once on the host.

Greedy by size, first fit (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
inference"), tried in a few orders; the smallest arena wins. A block may come and go in pieces, so that a
tensor written row by row can move into the place of one that is read row by row. The device checks that every
access is inside the arena, it does not plan.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from heapq import heappop, heappush

#: Pairs (after, before) of offsets between which one block must not begin, from where another begins.
_Apart = list[tuple[int, int]]
#: More pairs of blocks in use at one time than this are placed in the order of their use, without a search.
CROWDED = 200_000
#: More blocks than this are placed in four orders only, which are not changed in the hope of a better one.
MANY = 400


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
    first, last = [b.first for b in blocks], [b.last for b in blocks]
    if _overlaps(first, last) > CROWDED:
        return _in_turn(blocks, first, last, align)
    near = _near(blocks, first, last)
    keys = (
        lambda i: (-blocks[i].size, first[i]),
        lambda i: (first[i] - last[i], -blocks[i].size),
        lambda i: (-blocks[i].size * (last[i] - first[i] + 1), first[i]),
        lambda i: (first[i], -blocks[i].size),
    )
    best, order = None, []
    for key in keys:
        other = sorted(range(n), key=key)
        found = _greedy(blocks, near, other, align)
        if best is None or found[1] < best[1]:
            best, order = found, other
    assert best is not None
    least, chance = _up(peak(blocks, max(last, default=0)), align), random.Random(1)
    for _ in range(tries if n <= MANY else 0):
        if best[1] <= least:
            break
        top = [k for k, i in enumerate(order) if k and _up(best[0][i] + blocks[i].size, align) == best[1]]
        if not top:
            break
        other, k = list(order), chance.choice(top)
        other.insert(chance.randrange(k), other.pop(k))
        found = _greedy(blocks, near, other, align)
        if found[1] <= best[1]:
            best, order = found, other
    return {blocks[i].key: at for i, at in enumerate(best[0])}, best[1]


def _overlaps(first: list[int], last: list[int]) -> int:
    """How many pairs of blocks are in use at one time."""
    starts, ends = sorted(first), sorted(last)
    return sum(bisect_right(starts, b) - bisect_left(ends, a) for a, b in zip(first, last, strict=True))


def _near(blocks: list[Block], first: list[int], last: list[int]) -> list[list[tuple[int, _Apart]]]:
    """For every block those in use at a time with it, and where it must not begin from where they begin."""
    near: list[list[tuple[int, _Apart]]] = [[] for _ in blocks]
    alive: list[int] = []
    for i in sorted(range(len(blocks)), key=lambda i: first[i]):
        alive = [j for j in alive if last[j] >= first[i]]
        for j in alive:
            if apart := _apart(blocks[j], blocks[i]):
                near[i].append((j, apart))
                near[j].append((i, _apart(blocks[i], blocks[j])))
        alive.append(i)
    return near


def _in_turn(
    blocks: list[Block], first: list[int], last: list[int], align: int
) -> tuple[dict[int, int], int]:
    """Every block as a whole, at the lowest place that is free when it is first used: for models of thousands
    of tensors at a time, where trying orders would take hours."""
    order = sorted(range(len(blocks)), key=lambda i: (first[i], -blocks[i].size))
    ending: list[tuple[int, int, int]] = []  # (last step, offset, end) of those in use
    free: list[tuple[int, int]] = []  # gaps below `top`, by offset
    offsets, top, most = {}, 0, 0
    for i in order:
        size = _up(blocks[i].size, align)
        while ending and ending[0][0] < first[i]:
            _, at, end = heappop(ending)
            insort(free, (at, end))
            free = _joined(free)
        found = next((k for k, (at, end) in enumerate(free) if end - at >= size), None)
        if found is None:
            at, top = top, top + size
        else:
            at, end = free.pop(found)
            if at + size < end:
                insort(free, (at + size, end))
        offsets[blocks[i].key] = at
        most = max(most, at + size)
        heappush(ending, (last[i], at, at + size))
    return offsets, most


def _joined(free: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Gaps that touch as one."""
    out: list[tuple[int, int]] = []
    for at, end in free:
        if out and out[-1][1] == at:
            out[-1] = out[-1][0], end
        else:
            out.append((at, end))
    return out


def _up(n: int, align: int) -> int:
    return -(-n // align) * align


def _apart(a: Block, b: Block) -> _Apart:
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
    blocks: list[Block], near: list[list[tuple[int, _Apart]]], order: list[int], align: int
) -> tuple[list[int], int]:
    """Every block in its turn at the lowest place that those before it leave."""
    offsets, total = [-1] * len(blocks), 0
    for i in order:
        taken = sorted(
            (offsets[j] + after, offsets[j] + before)
            for j, apart in near[i]
            if offsets[j] >= 0
            for after, before in apart
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
