"""Giving a dense layer the bias that TFLite's converter has dropped because it was all zero.

The head's bias is trained, so the exported model needs a place for it. As with our metadata, the user's bytes
stay as they are: a prefix holds copies of the few tables that change (Model, SubGraph, the operators
concerned) and what is new (tensors, buffers), and points forward into the old file for everything else.
"""

from __future__ import annotations

import struct

import numpy as np
import tflite

from quantfl.package.flatfile import ALIGN, ModelFile, Op, _follow, _table_fields, _vector, damage

# Fields that hold offsets, by schema.fbs.
_MODEL_OFFSETS = (1, 2, 3, 4, 5, 6, 7)
_SUBGRAPH_OFFSETS = (0, 1, 2, 3, 4)
_OPERATOR_OFFSETS = (1, 2, 4, 5, 7, 8)


class _Prefix:
    """Bytes that will stand before the old file, and the offsets in them that are still to be set."""

    def __init__(self, old: bytes):
        self.old, self.out = old, bytearray(struct.pack("<I4s", 0, b"TFL3"))
        self.later: list[tuple[int, int]] = []  # (position, target in the old file)

    def align(self, n: int) -> int:
        self.out.extend(bytes(-len(self.out) % n))
        return len(self.out)

    def point(self, position: int, target: int) -> None:
        """The offset at `position` to `target`, both in the prefix."""
        struct.pack_into("<I", self.out, position, target - position)

    def copy_table(self, pos: int, offsets: tuple[int, ...]) -> dict[int, int]:
        """A shallow copy of the old table at `pos`; returns field id -> its position in the prefix (-1: the
        table's own).

        Fields in `offsets` point to what they pointed to.
        """
        vtable = pos - struct.unpack_from("<i", self.old, pos)[0]
        vsize, size = struct.unpack_from("<HH", self.old, vtable)
        vtable_copy = self.align(8)
        self.out += self.old[vtable : vtable + vsize]
        # As far into 8 bytes as the old one was, so that its scalars stay aligned.
        self.out.extend(bytes((pos - len(self.out)) % 8))
        start = len(self.out)
        self.out += self.old[pos : pos + size]
        struct.pack_into("<i", self.out, start, start - vtable_copy)
        fields = {i: start + at - pos for i, at in _table_fields(self.old, pos).items()}
        for i in offsets:
            if i in fields:
                self.later.append((fields[i], _follow(self.old, pos + fields[i] - start)))
        return fields | {-1: start}

    def repoint(self, position: int, target: int) -> None:
        """An offset that was to point into the old file points to `target` in the prefix instead."""
        self.later = [(p, t) for p, t in self.later if p != position]
        self.point(position, target)

    def vector(self, count: int, fmt: str, values: tuple[int | float, ...] = ()) -> int:
        """A vector of `count` elements; returns the position of its length."""
        size = struct.calcsize(fmt)
        self.align(max(4, size))
        self.out.extend(bytes((-4 - len(self.out)) % max(4, size)))
        at = len(self.out)
        self.out += struct.pack("<I", count)
        self.out += struct.pack(f"<{count}{fmt}", *values) if values else bytes(size * count)
        return at

    def table(self, fields: list[tuple[int, str, int]]) -> dict[int, int]:
        """A new table with fields (id, format of I, i or B, value); returns field id -> position (-1: the
        table's own)."""
        last = max(i for i, _, _ in fields)
        offsets, at = {}, 4
        for i, fmt, _ in fields:
            size = struct.calcsize(fmt)
            at = -(-at // size) * size
            offsets[i] = at
            at += size
        self.align(4)
        vtable = len(self.out)
        self.out += struct.pack("<HH", 4 + 2 * (last + 1), at) + b"".join(
            struct.pack("<H", offsets.get(i, 0)) for i in range(last + 1)
        )
        start = self.align(4)
        self.out += struct.pack("<i", start - vtable) + bytes(at - 4)
        for i, fmt, value in fields:
            struct.pack_into("<" + fmt, self.out, start + offsets[i], value)
        return {i: start + o for i, o in offsets.items()} | {-1: start}

    def finish(self) -> bytes:
        self.align(ALIGN)
        for position, target in self.later:
            struct.pack_into("<I", self.out, position, len(self.out) + target - position)
        return bytes(self.out) + self.old


def with_output(model: ModelFile, tensor: int) -> bytes:
    """The model with this tensor as its only output."""
    data = model.data
    root = _follow(data, 0)
    model_fields = _table_fields(data, root)
    graph = _vector(data, model_fields[2])[0]
    p = _Prefix(data)
    new_model = p.copy_table(root, _MODEL_OFFSETS)
    struct.pack_into("<I", p.out, 0, new_model[-1])
    graphs_at = p.vector(1, "I")
    p.repoint(new_model[2], graphs_at)
    new_graph = p.copy_table(graph, _SUBGRAPH_OFFSETS)
    p.point(graphs_at + 4, new_graph[-1])
    p.repoint(new_graph[2], p.vector(1, "i", (tensor,)))
    return p.finish()


def add_biases(model: ModelFile, ops: list[int]) -> bytes:
    """The model with an int32 bias of its own for each of the dense and convolution operators `ops`: zeros
    where one has none, a copy where it shares its bias with another."""
    if not ops:
        return model.data
    with damage(model.name):
        return _add_biases(model.data, ops, model)


def _add_biases(data: bytes, ops: list[int], model: ModelFile) -> bytes:
    root = _follow(data, 0)
    model_fields = _table_fields(data, root)
    graph = _vector(data, model_fields[2])[0]
    graph_fields = _table_fields(data, graph)
    tensors, operators = _vector(data, graph_fields[0]), _vector(data, graph_fields[3])
    buffers = _vector(data, model_fields[4])
    p = _Prefix(data)  # offsets point forward: what points comes before what is pointed to
    new_model = p.copy_table(root, _MODEL_OFFSETS)
    struct.pack_into("<I", p.out, 0, new_model[-1])
    graphs_at = p.vector(1, "I")
    p.repoint(new_model[2], graphs_at)
    new_graph = p.copy_table(graph, _SUBGRAPH_OFFSETS)
    p.point(graphs_at + 4, new_graph[-1])

    def longer(field: int, old: list[int]) -> int:
        """A vector of the old tables with room for as many new ones as there are operators."""
        at = p.vector(len(old) + len(ops), "I")
        p.repoint(field, at)
        p.later += [(at + 4 + 4 * i, t) for i, t in enumerate(old)]
        return at + 4

    tensors_at, buffers_at = longer(new_graph[0], tensors), longer(new_model[4], buffers)
    operators_at = p.vector(len(operators), "I")
    p.repoint(new_graph[3], operators_at)
    p.later += [(operators_at + 4 + 4 * i, o) for i, o in enumerate(operators)]
    for k, index in enumerate(ops):
        op = model.ops[index]
        changed = p.copy_table(operators[op.number], _OPERATOR_OFFSETS)
        p.repoint(operators_at + 4 + 4 * op.number, changed[-1])
        p.repoint(changed[1], p.vector(3, "i", (op.inputs[0], op.inputs[1], len(tensors) + k)))
        p.point(tensors_at + 4 * (len(tensors) + k), _bias_tensor(p, model, index, len(buffers) + k))
        p.point(buffers_at + 4 * (len(buffers) + k), _bias_buffer(p, model, op))
    return p.finish()


def _bias_tensor(p: _Prefix, model: ModelFile, index: int, buffer: int) -> int:
    op = model.ops[index]
    x, w = model.tensors[op.inputs[0]], model.tensors[op.inputs[1]]
    scales = (np.float32(x.scale) * w.scales).astype(np.float32)
    name = f"{model.tensors[op.outputs[0]].name[:40]}/bias".encode()
    tensor = p.table(
        [(0, "I", 0), (2, "I", buffer), (3, "I", 0), (4, "I", 0), (1, "B", tflite.TensorType.INT32)]
    )
    p.point(tensor[0], p.vector(1, "i", (model.tensors[op.outputs[0]].shape[-1],)))
    p.point(tensor[3], p.vector(len(name), "B", tuple(name)))
    p.out += b"\0"
    quantisation = p.table([(2, "I", 0), (3, "I", 0)])
    p.point(tensor[4], quantisation[-1])
    p.point(quantisation[2], p.vector(len(scales), "f", tuple(float(s) for s in scales)))
    p.point(quantisation[3], p.vector(len(scales), "q"))
    return tensor[-1]


def _bias_buffer(p: _Prefix, model: ModelFile, op: Op) -> int:
    content = bytes(4 * model.tensors[op.outputs[0]].shape[-1])
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        content = model.tensors[op.inputs[2]].content.astype("<i4").tobytes()
    table = p.table([(0, "I", 0)])
    p.out.extend(bytes((12 - len(p.out)) % 16))  # the content begins at a multiple of 16
    p.point(table[0], p.vector(len(content), "B", tuple(content)))
    return table[-1]
