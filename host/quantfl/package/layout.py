"""The layout: which operators are fused and run in tiles of rows, where every tensor lies, and the records
that follow from both.

The model is divided into segments (`row_tiling.py`) by dynamic programming over all pairs of bytes in use and
number of records that may be worth having; the best few are placed (`plan.py`) and the cheapest is taken.
"""

from __future__ import annotations

import itertools
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from quantfl.package.flatfile import ModelFile
from quantfl.package.operators import CODES, RECORD_SIZE, Record
from quantfl.package.plan import Block, Piece, peak, place
from quantfl.package.row_tiling import ELEMENTWISE, Graph, Segment, Step, slice_record

MAX_FUSED = 12  # operators
TILES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
#: A record takes flash, and time when it is pushed: bytes of RAM that a byte of package must save.
RAM_PER_FLASH = 0.5
#: Products of one record: some 10 ms of a Cortex-M4 at 168 MHz, after which a board looks at its link. What
#: takes longer is charged as the records that it should be, and one more.
LONGEST = 1_000_000
_PLACED = 8  # divisions that are tried out, each with its groups turned in three ways
_TRIED, _TRIES = 6, 100  # of these, how many are placed in how many orders of their blocks
#: Steps of groups that are weighed, some 10 us each; the largest networks of a microcontroller need a fifth.
_BUDGET = 1_000_000
_SCRATCH = 1 << 32  # keys of scratch: _SCRATCH + operator
#: Tensor -> (first byte, end, number of the step) of each access.
_Uses = dict[int, list[tuple[int, int, int]]]


@dataclass(frozen=True)
class Layout:
    """records: with their offsets, in the order in which they run; cut: records before it are the backbone.
    where: arena offset by tensor, for those that exist as a whole. arena: bytes."""

    records: list[Record]
    cut: int
    where: dict[int, int]
    arena: int


@dataclass(frozen=True)
class Placed:
    """A division of the model, the steps it means, and where everything lies."""

    division: list[Segment]
    steps: list[Step]
    records: int  # as they are charged
    cut: int
    buffers: dict[int, int]
    place_of: dict[int, int]  # tensor whose block a tensor lives in
    offsets: dict[int, int]
    arena: int

    @property
    def cost(self) -> float:
        return self.arena + RAM_PER_FLASH * RECORD_SIZE * self.records


def lay_out(
    model: ModelFile,
    records: list[Record],
    tables: bytearray,
    cut: int,
    *,
    shift: int = 0,
    row_tiling: bool = True,
) -> Layout:
    """shift: added to the offsets of tensors. The places of the pieces of CONCATENATION and SPLIT are written
    into `tables`."""
    graph = Graph(model, records, cut)
    best = choose(graph, shift, row_tiling)
    at = {t: best.offsets[best.place_of[t]] + shift for t in graph.first}
    where = {t: at[root] for t, root in graph.root.items() if root not in best.buffers}
    out = []
    for step in best.steps:
        if step.op is None:  # rows that stay
            (t, low, high), (_, to, _) = step.reads[0], step.writes[0]
            r = Record(
                code=CODES["RESHAPE"],
                src=at[t] + low,
                dst=at[t] + to,
                src_size=high - low,
                dst_size=high - low,
            )
        elif step.rows is None:
            r = records[step.op]
            r.src, r.dst = where[r.x], where[model.ops[step.op].outputs[0]]
            r.src2 = 0 if r.x2 is None else where[r.x2]
            for k, piece in enumerate(r.pieces):
                struct.pack_into("<i", tables, r.table + 12 * k, where[piece])
        else:
            r = slice_record(graph, step)
            places = [at[t] + low for t, low, _ in (*step.reads, *step.writes)]
            r.src, r.dst = places[0], places[-1]
            r.src2 = 0 if r.x2 is None else places[1]
        if step.op is not None and r.scratch_size:
            r.scratch = best.offsets[_SCRATCH + step.op]
        out.append(r)
    return Layout(out, best.cut, where, best.arena)


def choose(graph: Graph, shift: int, row_tiling: bool) -> Placed:
    """The cheapest way found to divide the model and to place its tensors."""
    best = placed(graph, [Segment(i, i + 1) for i in range(len(graph.records))], shift)
    if not row_tiling:
        return best
    found = sorted((placed(graph, division, shift) for division in _divisions(graph)), key=lambda p: p.cost)
    return min(
        [best, *(placed(graph, p.division, shift, _TRIES) for p in found[:_TRIED])], key=lambda p: p.cost
    )


def placed(graph: Graph, division: list[Segment], shift: int, tries: int = 0) -> Placed:
    steps: list[Step] = []
    buffers: dict[int, int] = {}
    cut = 0
    for segment in division:
        more, own = graph.steps(segment)
        cut += len(more) if segment.end <= graph.cut else 0
        steps += more
        buffers |= own
    blocks, place_of = _blocks(graph, steps, buffers, 0, len(graph.records), shift)
    offsets, arena = place(blocks, tries=tries)
    return Placed(division, steps, _charged(graph, steps), cut, buffers, place_of, offsets, arena)


def _blocks(
    graph: Graph,
    steps: list[Step],
    buffers: dict[int, int],
    first: int,
    end: int,
    shift: int = 0,
    among: Iterable[int] | None = None,
) -> tuple[list[Block], dict[int, int]]:
    """What is in memory while `steps`, operators [first, end), run; and for tensors that live in another's
    place that one. among: the tensors that are looked at, None: all."""
    reads, writes = defaultdict(list), defaultdict(list)
    scratch: dict[int, list[Piece]] = defaultdict(list)
    for t in graph.first if among is None else among:
        if graph.first[t] < end and graph.last[t] >= first:
            if graph.first[t] < first:
                writes[t].append((0, graph.size[t], 0))
            if graph.last[t] >= end:
                reads[t].append((0, graph.size[t], len(steps)))
    cut = next((n for n, step in enumerate(steps) if step.op is not None and step.op >= graph.cut), None)
    if first <= graph.cut < end and graph.features is not None and cut is not None:
        reads[graph.features].append(
            (0, graph.size[graph.features], cut)
        )  # whole, also where the first reader skips rows
    for n, step in enumerate(steps):
        for t, low, high in step.reads:
            reads[t].append((low, high, n))
        for t, low, high in step.writes:
            writes[t].append((low, high, n))
        if step.op is not None and graph.records[step.op].scratch_size:
            scratch[step.op].append(Piece(0, graph.records[step.op].scratch_size, n, n))
    place_of, together = {t: t for t in writes}, {t: [t] for t in writes}
    read_still = {t: [t] for t in writes}  # of the tensors in a place
    for i in range(first, end):
        if graph.records[i].code in ELEMENTWISE and graph.writes[i][0] not in buffers:
            _share(graph, i, buffers, reads, writes, place_of, together, read_still)
    blocks = [Block(_SCRATCH + i, pieces[0].high, tuple(pieces)) for i, pieces in scratch.items()]
    for home, tensors in together.items():
        made = [w for t in tensors for w in writes[t]]
        used = [r for t in tensors for r in reads[t]]
        if home in buffers:
            when = [n for _, _, n in made + used]
            pieces = [Piece(0, buffers[home] + shift, min(when), max(when))]
        else:
            pieces = _pieces(made, used, shift)
        blocks.append(Block(home, max(p.high for p in pieces), tuple(pieces)))
    return blocks, place_of


def _share(
    graph: Graph,
    i: int,
    buffers: dict[int, int],
    reads: _Uses,
    writes: _Uses,
    place_of: dict[int, int],
    together: dict[int, list[int]],
    read_still: dict[int, list[int]],
) -> None:
    """The output of element-wise operator i takes the place of an input whose bytes nobody reads after they
    are overwritten."""
    y, r = graph.writes[i][0], graph.records[i]
    for t in (r.x, r.x2):
        if t is None:
            continue
        t = graph.root[t]
        if t in buffers or graph.size[t] != graph.size[y] or graph.features in (t, y):
            continue
        home = place_of[t]
        begins = min((n for _, _, n in writes[y]), default=0)
        # Operators begin in their order: who has been read before this one begins is no longer in the way.
        read_still[home] = [u for u in read_still[home] if any(n > begins for _, _, n in reversed(reads[u]))]
        if all(
            when <= n or high <= a or b <= low
            for a, b, n in writes[y]
            for u in read_still[home]
            for low, high, when in reversed(reads[u])  # the last one is the likeliest to be in the way
        ):
            together[home] += together.pop(y)
            read_still[home].append(y)
            place_of[y] = home
            return


def _pieces(made: list[tuple[int, int, int]], used: list[tuple[int, int, int]], shift: int) -> list[Piece]:
    """When which bytes are in use: from the first write to the last read."""
    ends = sorted({v for low, high, _ in made + used for v in (low, high)})
    pieces: list[Piece] = []
    for a, b in itertools.pairwise(ends):
        written = [n for low, high, n in made if low <= a < high]
        if not written:  # rows that nobody needs
            continue
        first = min(written)
        last = max((n for low, high, n in used if low <= a < high), default=first)
        last = max(last, *written)
        if pieces and (pieces[-1].first, pieces[-1].last, pieces[-1].high) == (first, last, a + shift):
            pieces[-1] = Piece(pieces[-1].low, b + shift, first, last)
        else:
            pieces.append(Piece(a, b + shift, first, last))
    return pieces


# -- which operators are fused and run in tiles of rows
# ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """Operators [0, end) divided: the most bytes in use, the records as they are charged, the last segment
    and the way there."""

    bytes: int
    records: int
    segment: Segment | None = None
    before: _Way | None = None

    @property
    def cost(self) -> float:
        return self.bytes + RAM_PER_FLASH * RECORD_SIZE * self.records


def _divisions(graph: Graph) -> list[list[Segment]]:
    """The most promising divisions of the model into segments, best first."""
    n = len(graph.records)
    single = [_weigh(graph, Segment(i, i + 1)) for i in range(n)]
    limit = max(w.bytes for w in single) + RAM_PER_FLASH * RECORD_SIZE * sum(w.records for w in single)
    floor = max(
        [graph.size[t] for t in graph.first if graph.first[t] < 0]
        + [w.bytes for w, op in zip(single, graph.row_ops, strict=True) if op is None]
    )
    ways: list[list[_Way]] = [[_Way(0, 0)]]
    weighed: list[list[tuple[Segment, _Way]]] = [[] for _ in range(n + 1)]
    budget = _BUDGET
    for i in range(n):
        weighed[i + 1].append((Segment(i, i + 1), single[i]))
        high = False
        for end in range(i + 1, min(n, i + MAX_FUSED) + 1):
            op = graph.row_ops[end - 1]
            if (op is None and graph.writes[end - 1]) or i < graph.cut < end:
                break
            high = high or single[end - 1].bytes > floor or graph.products(end - 1) > LONGEST
            if not high or op is None:
                continue
            rows = graph.rows[graph.writes[end - 1][0]]
            for tiles in TILES:
                if tiles <= rows and budget > 0:
                    segment = Segment(i, end, tiles)
                    weighed[end].append((segment, _weigh(graph, segment)))
                    budget -= tiles * (end - i)
    for end in range(1, n + 1):
        found = []
        for segment, w in weighed[end]:
            for way in ways[segment.first]:
                new = _Way(max(way.bytes, w.bytes), way.records + w.records, segment, way)
                if new.cost + RAM_PER_FLASH * RECORD_SIZE * (n - end) < limit or segment.tiles == 1:
                    found.append(new)
        found.sort(key=lambda w: (w.bytes, w.records))
        kept: list[_Way] = []
        for way in found:
            if not kept or way.records < kept[-1].records:
                kept.append(way)
        ways.append(kept)
    best = sorted(ways[n], key=lambda w: w.cost)[:_PLACED]
    turned = [_turned(_trail(way), k) for way in best for k in range(3)]
    return [division for k, division in enumerate(turned) if division not in turned[:k]]


def _turned(division: list[Segment], how: int) -> list[Segment]:
    """Groups all from the first row down, or every second one, or every other, from the last row up: what is
    written then follows what is read through the arena and back."""
    tiles = [s for s in division if s.tiles > 1]
    turned = {s for k, s in enumerate(tiles) if how and (k + how) % 2}
    return [replace(s, up=True) if s in turned else s for s in division]


def _weigh(graph: Graph, segment: Segment) -> _Way:
    """What the segment has in use: tensors that it touches, and those that only live through it."""
    steps, buffers = graph.steps(segment)
    a, b = segment.first, segment.end
    touched = dict.fromkeys(t for i in range(a, b) for t in (*graph.reads[i], *graph.writes[i]))
    blocks, _ = _blocks(graph, steps, buffers, a, b, among=touched)
    through = graph.alive[a] - sum(graph.size[t] for t in touched if graph.first[t] < a <= graph.last[t])
    return _Way(peak(blocks, len(steps)) + through, _charged(graph, steps))


def _charged(graph: Graph, steps: list[Step]) -> int:
    total = len(steps)
    for step in steps:
        if step.op is not None:
            n = graph.products(step.op)
            if step.rows is not None:
                n = n * (step.rows[1] - step.rows[0]) // graph.rows[graph.writes[step.op][0]]
            total += -(-n // LONGEST) if n > LONGEST else 0
    return total


def _trail(way: _Way) -> list[Segment]:
    found = []
    while way.segment is not None and way.before is not None:
        found.append(way.segment)
        way = way.before
    return found[::-1]
