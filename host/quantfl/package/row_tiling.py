"""Row tiling: the order in which a board computes, some operators a few rows at a time instead of whole.

Fused layers are a group of consecutive operators that run in tiles of rows. Every operator computes as many
rows as the next one needs, so that a tensor inside the group never exists as a whole. Its rows pass through a
buffer, whose rows still needed are moved to its start before new ones come; tensors that enter or leave the
group come and go row by row in the plan. Each step is an ordinary record of fewer rows, so a board needs no
code for any of this (line buffers as in Alwani et al. 2016, "Fused-layer CNN accelerators"; patches as in Lin
et al. 2021, "MCUNetV2", but nothing is computed twice).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from quantfl.errors import PackageError
from quantfl.package.flatfile import ModelFile
from quantfl.package.operators import CODES, OFFSET, OFFSET_CONV, OFFSET_DEPTHWISE, Record

#: Operators whose output element depends on the input elements at the same place only: they may write where
#: they read.
ELEMENTWISE = {CODES[name] for name in ("RELU", "ADD", "MUL", "PRELU", "LOGISTIC")}
_WINDOWS = {CODES[name] for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")}
_WINDOWS.add(OFFSET)  # the same three of uint8 models
_CONV, _PAD, _RESHAPE = CODES["CONV_2D"], CODES["PAD"], CODES["RESHAPE"]
_PIXELS = 4  # that the convolution of Cortex-M4 takes at once


@dataclass(frozen=True)
class Reach:
    """Which rows of an input an operator reads for rows [a, b) of its output: whole, or from a * stride - pad
    on."""

    tensor: int
    span: int = 1
    stride: int = 1
    pad: int = 0
    whole: bool = False


@dataclass(frozen=True)
class RowOp:
    """An operator that can run on some of its rows. dims: of the record, with height and width exchanged for
    1-D networks."""

    dims: list[int]
    reaches: tuple[Reach, ...]
    unit: int  # rows that fill whole groups of pixels


@dataclass
class Step:
    """One record. rows: of the output, None: all; op None: rows that stay move to the start of their buffer.
    reads, writes: (buffer, first byte, end)."""

    op: int | None
    rows: tuple[int, int] | None
    reads: list[tuple[int, int, int]]
    writes: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Segment:
    """Operators [first, end): one alone and whole (tiles 1), or fused layers, from the last row up where
    `up`."""

    first: int
    end: int
    tiles: int = 1
    up: bool = False


@dataclass
class Graph:
    """A model as the planner sees it. Tensors joined by RESHAPE are one, the first of them."""

    model: ModelFile
    records: list[Record]
    cut: int
    root: dict[int, int] = field(default_factory=dict)
    size: dict[int, int] = field(default_factory=dict)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    writes: list[tuple[int, ...]] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)  # operator that writes, -1: an input
    last: dict[int, int] = field(default_factory=dict)  # operator that reads last; len(records): an output
    rows: dict[int, int] = field(default_factory=dict)
    features: int | None = None
    alive: list[int] = field(default_factory=list)  # bytes, by operator

    def __post_init__(self) -> None:
        m = self.model
        for t in m.inputs:
            self._new(t, -1)
        for op, r in zip(m.ops, self.records, strict=True):
            reads = []
            for t in op.inputs:
                if t >= 0 and m.tensors[t].data is None:
                    if t not in self.root:
                        raise PackageError(f"{m.label(op)} reads tensor {t}, which nothing has written")
                    reads.append(self.root[t])
                    self.last[self.root[t]] = op.index
            for t in op.outputs:
                if t in self.root:
                    raise PackageError(f"{m.label(op)} writes tensor {t} a second time")
                if r.code == _RESHAPE:
                    self.root[t] = self.root[r.x]
                    self.size[self.root[t]] = max(self.size[self.root[t]], m.tensors[t].size)
                    self.last[self.root[t]] = op.index
                else:
                    self._new(t, op.index)
            self.reads.append(tuple(dict.fromkeys(reads)))
            self.writes.append(() if r.code == _RESHAPE else op.outputs)
        for t in m.outputs:
            if t in self.root:
                self.last[self.root[t]] = len(self.records)
        if self.cut < len(self.records):
            self.features = self.root[m.ops[self.cut].inputs[0]]
        self.row_ops = [self._row_op(i) for i in range(len(self.records))]
        self.alive = self._alive()

    def _alive(self) -> list[int]:
        """Bytes of the tensors that exist when operator i begins and are read by it or later."""
        change = [0] * (len(self.records) + 2)
        for t, size in self.size.items():
            if t in self.first and self.last[t] > self.first[t]:
                change[self.first[t] + 1] += size
                change[self.last[t] + 1] -= size
        return list(itertools.accumulate(change))

    def row_op(self, i: int) -> RowOp:
        """How operator i runs on some of its rows; only for operators that can."""
        op = self.row_ops[i]
        assert op is not None
        return op

    def _new(self, t: int, op: int) -> None:
        self.root[t], self.size[t], self.first[t], self.last[t] = (
            t,
            self.model.tensors[t].size,
            op,
            max(op, 0),
        )
        shape = self.model.tensors[t].shape
        self.rows[t] = next((n for n in shape[1:-1] if n > 1), 1) if shape[:1] == (1,) else 1

    def _row_op(self, i: int) -> RowOp | None:
        """None: the operator only runs whole."""
        r = self.records[i]
        if (
            len(self.writes[i]) != 1 or i == len(self.records) - 1
        ):  # the last one's record names the whole output
            return None
        x, y, d = self.root[r.x], self.writes[i][0], list(r.dims)
        if r.code in ELEMENTWISE:
            return self._row_elementwise(r, y)
        if r.code not in _WINDOWS and r.code != _PAD:
            return None
        if (
            d[0] == d[3] == 1 and d[6] <= 1 and d[10] == 0
        ):  # height and width are exchanged, for the 1-D network's sake
            for a in (0, 3, 6, 8, 10, 12):
                d[a], d[a + 1] = d[a + 1], d[a]
        if d[0] != self.rows[x] or d[3] != self.rows[y] or d[3] == 1:
            return None
        if r.code == _PAD:
            return RowOp(d, (Reach(x, pad=d[10]),), 1)
        span = (d[6] - 1) * d[12] + 1
        if d[10] >= span:
            return None
        return RowOp(
            d, (Reach(x, span, d[8], d[10]),), _PIXELS // math.gcd(_PIXELS, d[4]) if r.code == _CONV else 1
        )

    def _row_elementwise(self, r: Record, y: int) -> RowOp | None:
        size, rows = self.size[y], self.rows[y]
        if rows == 1 or size % rows:
            return None
        reaches = []
        for t, div in ((r.x, max(1, r.extra[1])), (r.x2, max(1, r.extra[0]))):
            if t is None:
                continue
            t = self.root[t]
            if self.size[t] == size:
                if self.rows[t] != rows:
                    return None
                reaches.append(Reach(t))
            elif size // rows % (self.size[t] * div) == 0:
                reaches.append(Reach(t, whole=True))
            else:
                return None
        if (
            r.weights_size
            and r.code != CODES["LOGISTIC"]
            and size // rows % (r.weights_size * max(1, r.extra[0]))
        ):
            return None
        return RowOp(list(r.dims), tuple(reaches), 1)

    def needed(self, reach: Reach, a: int, b: int) -> tuple[int, int]:
        """Rows of the input for rows [a, b) of the output."""
        n = self.rows[reach.tensor]
        if reach.whole:
            return 0, n
        return max(0, a * reach.stride - reach.pad), min(n, (b - 1) * reach.stride - reach.pad + reach.span)

    def products(self, i: int) -> int:
        """Multiplications of operator i."""
        r = self.records[i]
        kind = r.dims[15] if r.code == OFFSET else None
        if r.code == _CONV or kind == OFFSET_CONV:
            return r.dst_size * (r.weights_size // max(1, r.dims[5]))
        if r.code == CODES["DEPTHWISE_CONV_2D"] or kind == OFFSET_DEPTHWISE:
            return r.dst_size * r.dims[6] * r.dims[7]
        return 0

    def whole(self, i: int) -> Step:
        return Step(
            i,
            None,
            [(t, 0, self.size[t]) for t in self.reads[i]],
            [(t, 0, self.size[t]) for t in self.writes[i]],
        )

    def steps(self, segment: Segment) -> tuple[list[Step], dict[int, int]]:
        """The records of a segment, and the bytes of the buffers of tensors that do not exist as a whole."""
        if segment.tiles == 1:
            return [self.whole(i) for i in range(segment.first, segment.end)], {}
        return _FusedLayers(self, segment).run()


class _FusedLayers:
    """Runs fused layers in thought: which rows when, and where they are in the buffers. Rows are counted in
    the order in which they come; where that is from the last one up, everything is mirrored in the end."""

    def __init__(self, graph: Graph, segment: Segment):
        self.graph, self.tiles, self.up = graph, segment.tiles, segment.up
        self.ops = [i for i in range(segment.first, segment.end) if graph.writes[i]]
        self.rows = {i: graph.rows[graph.writes[i][0]] for i in self.ops}
        self.readers: dict[int, list[tuple[int, Reach]]] = defaultdict(list)
        for i in self.ops:
            for reach in graph.row_op(i).reaches:
                self.readers[reach.tensor].append((i, reach))
        self.done = dict.fromkeys(self.ops, 0)
        #: Tensors that live in the group only, the row that is at the start of their buffers, and the rows
        #: that these hold.
        self.start = {
            t: 0
            for t in (graph.writes[i][0] for i in self.ops)
            if graph.last[t] < segment.end
            and t != graph.features
            and self.readers[t]
            and not any(x.whole for _, x in self.readers[t])
        }
        self.capacity = dict.fromkeys(self.start, 0)

    def run(self) -> tuple[list[Step], dict[int, int]]:
        steps: list[Step] = []
        for tile in range(1, self.tiles + 1):
            goal = self.goals(tile)
            for i in self.ops:
                if goal[i] > self.done[i]:
                    steps += self.advance(i, goal[i])
        sizes = {t: n * self.row(t) for t, n in self.capacity.items()}
        if self.up:
            for step in steps:
                step.reads, step.writes = (
                    [(t, self.size(t, sizes) - b, self.size(t, sizes) - a) for t, a, b in list]
                    for list in (step.reads, step.writes)
                )
                if step.op is not None and step.rows is not None:
                    step.rows = self.rows[step.op] - step.rows[1], self.rows[step.op] - step.rows[0]
        return steps, sizes

    def size(self, t: int, sizes: dict[int, int]) -> int:
        return sizes.get(t, self.graph.size[t])

    def goals(self, tile: int) -> dict[int, int]:
        """How many rows of each operator must be done after this tile."""
        goal: dict[int, int] = {}
        for i in reversed(self.ops):
            t, n = self.graph.writes[i][0], self.rows[i]
            wanted = max(
                (self.needed(c, x, 0, goal[c])[1] for c, x in self.readers[t] if goal[c] > self.done[c]),
                default=0,
            )
            if not self.readers[t]:
                wanted = -(-n * tile // self.tiles)
            if tile == self.tiles and t not in self.start:
                wanted = n
            goal[i] = self.snap(i, wanted) if wanted > self.done[i] else self.done[i]
        return goal

    def needed(self, i: int, reach: Reach, a: int, b: int) -> tuple[int, int]:
        """Rows of an input for rows [a, b) of the output of operator i."""
        if not self.up:
            return self.graph.needed(reach, a, b)
        n, m = self.rows[i], self.graph.rows[reach.tensor]
        low, high = self.graph.needed(reach, n - b, n - a)
        return m - high, m - low

    def snap(self, i: int, b: int) -> int:
        """The end of a stretch of rows of operator i, moved to where its record can end."""
        op, n = self.graph.row_op(i), self.rows[i]
        if self.graph.records[i].code == _PAD:
            reach, m = op.reaches[0], self.graph.rows[op.reaches[0].tensor]
            pad = n - m - reach.pad if self.up else reach.pad
            b = max(b, pad + 1)
            return n if b - pad >= m else b
        return min(n, -(-b // op.unit) * op.unit)

    def row(self, t: int) -> int:
        return self.graph.size[t] // self.graph.rows[t]

    def bytes(self, t: int, a: int, b: int) -> tuple[int, int, int]:
        return t, (a - self.start.get(t, 0)) * self.row(t), (b - self.start.get(t, 0)) * self.row(t)

    def advance(self, i: int, end: int) -> Iterator[Step]:
        graph, t, begin = self.graph, self.graph.writes[i][0], self.done[i]
        if t in self.start:
            stays = min(
                (
                    self.needed(c, x, self.done[c], self.done[c] + 1)[0]
                    for c, x in self.readers[t]
                    if self.done[c] < self.rows[c]
                ),
                default=begin,
            )
            if stays > self.start[t]:
                old = self.bytes(t, min(stays, begin), begin)
                self.start[t] = min(stays, begin)
                if old[2] > old[1]:
                    yield Step(None, None, [old], [self.bytes(t, self.start[t], begin)])
            self.capacity[t] = max(self.capacity[t], end - self.start[t])
        reads = [self.bytes(x.tensor, *self.needed(i, x, begin, end)) for x in graph.row_op(i).reaches]
        self.done[i] = end
        yield Step(i, (begin, end), reads, [self.bytes(t, begin, end)])


def slice_record(graph: Graph, step: Step) -> Record:
    """The record of some rows of an operator, but for the offsets of its tensors."""
    assert step.op is not None and step.rows is not None
    r, op = graph.records[step.op], graph.row_op(step.op)
    (a, b), d = step.rows, list(op.dims)
    sizes = [high - low for _, low, high in (*step.reads, *step.writes)]
    if r.code not in ELEMENTWISE:
        reach = op.reaches[0]
        low, high = graph.needed(reach, a, b)
        d[0], d[3], d[10] = high - low, b - a, low - (a * reach.stride - reach.pad)
    second = sizes[1] if r.x2 is not None else r.src2_size
    return replace(r, dims=d, extra=list(r.extra), src_size=sizes[0], src2_size=second, dst_size=sizes[-1])
