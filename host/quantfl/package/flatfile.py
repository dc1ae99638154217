"""Reading .tflite files, and adding a metadata entry to one without re-serialising it.

`ModelFile` is a typed, read-only view of the one subgraph. `with_metadata` writes a new root in front of the
user's bytes, which stay as they are: FlatBuffers offsets point forward, so a fresh Model table can refer to
the old operators, subgraphs and buffers and add one buffer of its own. Operators newer than our schema
survive. Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from quantfl.errors import PackageError, QuantflError, UnsupportedError
from quantfl.package import carray
from quantfl.package.fold import folded, shaped

METADATA_NAME = "quantfl"
#: The metadata entry with the numbers, u32, of tensors that were uint8 before (unsigned.py).
UNSIGNED_NAME = "quantfl_uint8"
ALIGN = 64
#: How many times a file's own bytes may be read, where tables share vectors.
SHARING = 4
_OP_NAMES = {v: k for k, v in vars(tflite.BuiltinOperator).items() if not k.startswith("_")}
_DTYPES: dict[int, np.dtype[Any]] = {
    tflite.TensorType.FLOAT32: np.dtype(np.float32),
    tflite.TensorType.INT32: np.dtype(np.int32),
    tflite.TensorType.UINT8: np.dtype(np.uint8),
    tflite.TensorType.INT64: np.dtype(np.int64),
    tflite.TensorType.INT16: np.dtype(np.int16),
    tflite.TensorType.INT8: np.dtype(np.int8),
    tflite.TensorType.BOOL: np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model. data: its constant content, None for activations; offset: of that content in the
    file."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scales: np.ndarray  # float32 [0], [1] or [channels]
    zero_points: np.ndarray  # int64, as scales
    quantized_dimension: int
    data: np.ndarray | None
    offset: int

    @property
    def content(self) -> np.ndarray:
        """The constant content. PackageError for a tensor that has none."""
        if self.data is None:
            raise PackageError(f"tensor {self.name} is not constant")
        return self.data

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def scale(self) -> float:
        """The per-tensor scale. PackageError when there is none."""
        if len(self.scales) != 1:
            raise PackageError(f"tensor {self.name} has {len(self.scales)} scales where one is needed")
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0]) if len(self.zero_points) else 0


@dataclass(frozen=True)
class Op:
    """An operator: builtin name as in the schema, input and output tensor indices (-1: absent), its options
    table.

    index: among the operators that are left after constants are folded; number: in the file, as Netron and
    messages have it.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any  # generated accessor of the operator's options, None when it has none
    number: int


_OPTIONS = {
    "CONV_2D": tflite.Conv2DOptions,
    "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
    "FULLY_CONNECTED": tflite.FullyConnectedOptions,
    "AVERAGE_POOL_2D": tflite.Pool2DOptions,
    "MAX_POOL_2D": tflite.Pool2DOptions,
    "MEAN": tflite.ReducerOptions,
    "REDUCE_MAX": tflite.ReducerOptions,
    "ADD": tflite.AddOptions,
    "SUB": tflite.SubOptions,
    "MUL": tflite.MulOptions,
    "CONCATENATION": tflite.ConcatenationOptions,
    "PACK": tflite.PackOptions,
    "UNPACK": tflite.UnpackOptions,
    "STRIDED_SLICE": tflite.StridedSliceOptions,
    "LEAKY_RELU": tflite.LeakyReluOptions,
    "TRANSPOSE_CONV": tflite.TransposeConvOptions,
    "RESIZE_NEAREST_NEIGHBOR": tflite.ResizeNearestNeighborOptions,
    "RESIZE_BILINEAR": tflite.ResizeBilinearOptions,
    "SOFTMAX": tflite.SoftmaxOptions,
    "RESHAPE": tflite.ReshapeOptions,
    "GATHER": tflite.GatherOptions,
    "MIRROR_PAD": tflite.MirrorPadOptions,
    "DEPTH_TO_SPACE": tflite.DepthToSpaceOptions,
    "SPACE_TO_DEPTH": tflite.SpaceToDepthOptions,
    "REDUCE_PROD": tflite.ReducerOptions,
    "REDUCE_MIN": tflite.ReducerOptions,
    "SUM": tflite.ReducerOptions,
}


@contextlib.contextmanager
def damage(name: str) -> Iterator[None]:
    """What the generated accessors raise on damaged bytes (struct.error, IndexError, TypeError …) becomes
    PackageError."""
    try:
        yield
    except QuantflError:
        raise
    except (
        struct.error,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise PackageError(f"{name} is damaged or no .tflite file ({type(error).__name__})") from None


def _why_several(model: Any) -> str:
    """What a model with several subgraphs does with them, and what to do."""
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    names = [_OP_NAMES.get(max(_field(c, 10, "<i"), c.DeprecatedBuiltinCode()), "") for c in codes]
    state = [n for n in names if n in ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")]
    control = [n for n in names if n in ("WHILE", "IF")]
    if state:
        return (
            f": it keeps state from one inference to the next ({', '.join(state)}), as streaming models do, "
            "which boards do not run; export it without state, for a whole window at once"
        )
    if control:
        return f": it has control flow ({', '.join(control)}), which boards do not run; unroll its loops"
    return "; models with one are supported: export the one you want"


def _needed(ops: list[Op], outputs: tuple[int, ...]) -> tuple[Op, ...]:
    """Those from which an output follows, or that give none."""
    needed, kept = set(outputs), []
    for op in reversed(ops):
        if not op.outputs or needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    return tuple(replace(op, index=i) for i, op in enumerate(reversed(kept)))


def _field(table: Any, place: int, form: str) -> int:
    """A scalar of a table by its place in the vtable, 0 where it is absent; for fields that the generated
    accessors do not have, or interpret."""
    at = table._tab.Offset(place)
    return int(struct.unpack_from(form, table._tab.Bytes, table._tab.Pos + at)[0]) if at else 0


class ModelFile:
    """A .tflite file with one subgraph. PackageError when the bytes are not one."""

    def __init__(self, data: bytes, name: str = "the model"):
        self.data, self.name = data, name
        with damage(name):
            self._parse()

    def _parse(self) -> None:
        if len(self.data) < 32 or self.data[4:8] != b"TFL3":
            raise PackageError(f"{self.name} is no .tflite file (it lacks the TFL3 mark)")
        model = tflite.Model.GetRootAsModel(self.data, 0)
        if model.SubgraphsLength() != 1:
            raise UnsupportedError(
                f"{self.name} has {model.SubgraphsLength()} subgraphs{_why_several(model)}"
            )
        graph = model.Subgraphs(0)
        self._model = model
        self._left = SHARING * len(self.data) + (1 << 16)
        self.tensors = tuple(self._tensor(i, graph.Tensors(i)) for i in range(graph.TensorsLength()))
        self.inputs = tuple(int(graph.Inputs(i)) for i in range(graph.InputsLength()))
        self.outputs = tuple(int(graph.Outputs(i)) for i in range(graph.OutputsLength()))
        #: Every operator of the file, those that are folded too.
        self.all_ops = tuple(self._op(i, graph.Operators(i)) for i in range(graph.OperatorsLength()))
        self.metadata = self._metadata()
        for op in self.all_ops:
            for t in (*op.inputs, *op.outputs):
                if not -1 <= t < len(self.tensors):
                    raise PackageError(
                        f"{self.name}: operator {op.number} names tensor {t}, which does not exist"
                    )
        made = Counter(t for op in self.all_ops for t in op.outputs)
        twice = next((t for t, n in made.items() if n > 1 and t >= 0), None)
        if twice is not None:
            raise PackageError(f"{self.name}: {made[twice]} operators write {self.tensors[twice].name}")
        for t in (*self.inputs, *self.outputs):
            if not 0 <= t < len(self.tensors):
                raise PackageError(f"{self.name}: the graph names tensor {t}, which does not exist")
        self.ops = self._folded()

    def _folded(self) -> tuple[Op, ...]:
        """The operators that are left when those that only compute constants have become constants, and those
        that no output needs are gone."""
        tensors = list(self.tensors)
        left: list[Op] = []
        for op in self.all_ops:
            shape, value = shaped(op, tensors), folded(op, tensors)
            if shape is not None:
                tensors[op.outputs[0]] = replace(tensors[op.outputs[0]], shape=shape)
            if value is None or op.outputs[0] in self.outputs:
                left.append(replace(op, index=len(left)))
            else:
                tensors[op.outputs[0]] = replace(tensors[op.outputs[0]], data=value)
        self.tensors = tuple(tensors)
        return _needed(left, self.outputs)

    def _tensor(self, index: int, t: tflite.Tensor) -> Tensor:
        self._charge(t.ShapeLength() + 1)
        name = (t.Name() or b"").decode(errors="replace") or f"tensor {index}"
        self._charge(len(name))
        dtype = _DTYPES.get(t.Type(), np.dtype(np.void))
        shape = tuple(int(v) for v in t.ShapeAsNumpy()) if t.ShapeLength() else ()
        if any(d < 0 or d > 1 << 24 for d in shape) or len(shape) > 8:
            raise PackageError(f"{self.name}: tensor {name} has the impossible shape {shape}")
        q = t.Quantization()
        self._charge(q.ScaleLength() + q.ZeroPointLength() if q else 0)
        scales = np.array(q.ScaleAsNumpy(), np.float32) if q and q.ScaleLength() else np.zeros(0, np.float32)
        zeros = (
            np.array(q.ZeroPointAsNumpy(), np.int64) if q and q.ZeroPointLength() else np.zeros(0, np.int64)
        )
        if len(scales) and not (np.isfinite(scales).all() and (scales > 0).all()):
            raise PackageError(f"{self.name}: tensor {name} has a scale that is not a positive number")
        data, offset = None, 0
        buffer = self._model.Buffers(t.Buffer())
        n = buffer.DataLength()
        if not n and _field(buffer, 6, "<Q") > 1:
            raise PackageError(
                f"{self.name}: the content of tensor {name} lies behind the FlatBuffer, as in files above "
                "2 GB; write the model with its weights inside"
            )
        if n:
            offset = buffer._tab.Vector(buffer._tab.Offset(4))
            if offset + n > len(self.data):
                raise PackageError(
                    f"{self.name}: the content of tensor {name} lies beyond the end of the file"
                )
            count = int(np.prod(shape, dtype=np.int64))
            if dtype.kind != "V" and count * dtype.itemsize == n:
                data = np.frombuffer(self.data, dtype, count, offset).reshape(shape)
            elif dtype.kind != "V":
                raise PackageError(f"{self.name}: tensor {name} of shape {shape} has {n} bytes of content")
        return Tensor(
            index, name, shape, dtype, scales, zeros, q.QuantizedDimension() if q else 0, data, offset
        )

    def _op(self, index: int, o: tflite.Operator) -> Op:
        code = self._model.OperatorCodes(o.OpcodeIndex())
        builtin = max(_field(code, 10, "<i"), code.DeprecatedBuiltinCode())
        name = _OP_NAMES.get(builtin, f"operator code {builtin}")
        if name == "CUSTOM":
            name = f"custom operator {(code.CustomCode() or b'?').decode(errors='replace')}"
        options, table = None, o.BuiltinOptions()
        if table is not None and name in _OPTIONS:
            options = _OPTIONS[name]()
            options.Init(table.Bytes, table.Pos)
        self._charge(o.InputsLength() + o.OutputsLength() + 1)
        inputs = tuple(o.InputsAsNumpy().tolist()) if o.InputsLength() else ()
        outputs = tuple(o.OutputsAsNumpy().tolist()) if o.OutputsLength() else ()
        return Op(index, name, inputs, outputs, options, index)

    def _charge(self, values: int) -> None:
        """Counts what is read. PackageError where tables share their parts so often that reading them takes
        far longer than the file is."""
        self._left -= 4 * values
        if self._left < 0:
            raise PackageError(f"{self.name} is damaged: its tables refer to the same parts again and again")

    @cached_property
    def unsigned(self) -> frozenset[int]:
        """The tensors that were uint8 before: a few kernels of uint8 round otherwise."""
        at, size = self.metadata.get(UNSIGNED_NAME, (0, 0))
        return frozenset(struct.unpack_from(f"<{size // 4}I", self.data, at))

    def label(self, op: Op) -> str:
        """How messages name an operator: number, kind, and the layer (output tensor) it makes."""
        layer = self.tensors[op.outputs[0]].name if op.outputs else "?"
        return f"operator {op.number} ({op.name}, layer {layer})"

    def _metadata(self) -> dict[str, tuple[int, int]]:
        """Metadata entries: name -> (offset in the file, length)."""
        found = {}
        for i in range(self._model.MetadataLength()):
            entry = self._model.Metadata(i)
            buffer = self._model.Buffers(entry.Buffer())
            if buffer is not None and buffer.DataLength():
                at = buffer._tab.Vector(buffer._tab.Offset(4))
                if at + buffer.DataLength() > len(self.data):
                    raise PackageError(f"{self.name}: a metadata entry lies beyond the end of the file")
                found[(entry.Name() or b"").decode(errors="replace")] = (at, buffer.DataLength())
        return found


def read_file(path: Path) -> bytes:
    """A model file's bytes, also those of a C array. PackageError in one line when it cannot be read."""
    try:
        if path.suffix.lower() in carray.SUFFIXES:
            return carray.read(path.read_text(errors="replace"), str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise PackageError(f"{path}: no such file") from None
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}") from None


def prefix_size(model: bytes, blob_size: int) -> tuple[int, int]:
    """(bytes put before the user's file, offset of the blob) that `with_metadata` will use for a blob of this
    size."""
    packed, at = _build(model, bytes(blob_size))
    return len(packed) - len(model), at


def with_metadata(model: bytes, blob: bytes, name: str = METADATA_NAME) -> bytes:
    """`model` with a metadata entry `name` that holds `blob`, 16-byte aligned. The old bytes follow
    unchanged."""
    return _build(model, blob, name)[0]


def _table_fields(data: bytes, pos: int) -> dict[int, int]:
    """Field id -> absolute position of the field, of the FlatBuffers table at `pos`."""
    vtable = pos - struct.unpack_from("<i", data, pos)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    offsets = struct.unpack_from(f"<{(size - 4) // 2}H", data, vtable + 4)
    return {i: pos + o for i, o in enumerate(offsets) if o}


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _vector(data: bytes, at: int) -> list[int]:
    """Absolute positions of the tables in the vector of tables that the field at `at` points to."""
    start = _follow(data, at)
    n = struct.unpack_from("<I", data, start)[0]
    return [_follow(data, start + 4 + 4 * i) for i in range(n)]


def _build(model: bytes, blob: bytes, entry: str = METADATA_NAME) -> tuple[bytes, int]:
    # Model fields: 0 version, 1 operator_codes, 2 subgraphs, 3 description, 4 buffers, 5 metadata_buffer, 6
    # metadata, 7 signature_defs. The prefix: root offset, identifier, vtable, Model table, vectors, our
    # Metadata and Buffer, blob.
    root = _follow(model, 0)
    fields = _table_fields(model, root)
    buffers = _vector(model, fields[4]) if 4 in fields else []
    entries = _vector(model, fields[6]) if 6 in fields else []
    old_vectors = {i: _follow(model, fields[i]) for i in (1, 2, 3, 7) if i in fields}
    out = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    later: list[tuple[int, int]] = []  # (position of an offset in the prefix, target in the old file)

    def align(n: int) -> None:
        out.extend(bytes(-len(out) % n))

    vtable = len(out)
    out += struct.pack("<HH8H", 4 + 16, 4 + 4 * 8, 4, 8, 12, 16, 20, 0, 24, 28)
    align(4)
    table = len(out)
    struct.pack_into("<I", out, 0, table)
    out += struct.pack("<iI6I", table - vtable, 3, 0, 0, 0, 0, 0, 0)
    # ids 1, 2, 3, 7 refer to the old file where they exist; an absent one loses its vtable entry
    for field, slot in ((1, 8), (2, 12), (3, 16), (7, 28)):
        if field in old_vectors:
            later.append((table + slot, old_vectors[field]))
        else:
            struct.pack_into("<H", out, vtable + 4 + 2 * field, 0)

    def start_vector(slot: int, n: int) -> int:
        align(4)
        struct.pack_into("<I", out, table + slot, len(out) - (table + slot))
        out.extend(struct.pack("<I", n))
        at = len(out)
        out.extend(bytes(4 * n))
        return at

    at = start_vector(20, len(buffers) + 1)
    later += [(at + 4 * i, b) for i, b in enumerate(buffers)]
    own_buffer = at + 4 * len(buffers)
    at = start_vector(24, len(entries) + 1)
    later += [(at + 4 * i, e) for i, e in enumerate(entries)]
    own_entry = at + 4 * len(entries)
    # Metadata table: 0 name, 1 buffer
    meta_vtable = len(out)
    out += struct.pack("<HHHH", 8, 12, 4, 8)
    align(4)
    meta = len(out)
    struct.pack_into("<I", out, own_entry, meta - own_entry)
    out += struct.pack("<iII", meta - meta_vtable, 0, len(buffers))
    name_at = len(out)
    struct.pack_into("<I", out, meta + 4, name_at - (meta + 4))
    name = entry.encode()
    out += struct.pack("<I", len(name)) + name + b"\0"
    align(2)
    # Buffer table: 0 data
    buffer_vtable = len(out)
    out += struct.pack("<HHH", 6, 8, 4)
    align(4)
    buffer = len(out)
    struct.pack_into("<I", out, own_buffer, buffer - own_buffer)
    out += struct.pack("<iI", buffer - buffer_vtable, 0)
    out.extend(bytes((12 - len(out)) % 16))
    struct.pack_into("<I", out, buffer + 4, len(out) - (buffer + 4))
    out += struct.pack("<I", len(blob))
    blob_at = len(out)
    out += blob
    align(ALIGN)
    for position, target in later:
        struct.pack_into("<I", out, position, len(out) + target - position)
    return bytes(out) + model, blob_at


__all__ = ["METADATA_NAME", "ModelFile", "Op", "Tensor", "prefix_size", "read_file", "with_metadata"]
