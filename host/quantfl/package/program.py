"""The program: what a board runs, compiled from a full int8 .tflite and kept in the file's metadata.

Everything a kernel needs is computed here: shapes, padding, arena offsets, Q31 multipliers and shifts, biases
with the input zero-point folded in. Rounding follows tflite-micro (gemmlowp: two roundings), so results are
equal byte for byte. Layout: docs/PACKAGE.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantfl.core import ffi, lib
from quantfl.core.head import Head, Layer, tensors_of
from quantfl.errors import PackageError, UnsupportedError
from quantfl.package.elementwise import ElementwiseOperators
from quantfl.package.flatfile import METADATA_NAME, ModelFile, Op, damage, prefix_size, with_metadata
from quantfl.package.indexed import IndexedOperators
from quantfl.package.layout import lay_out
from quantfl.package.operators import CODES, NAMES, RECORD_SIZE, Record

MAGIC = b"QFLP"
LAYER_SIZE = lib.QFL_NN_HEAD_LAYER_BYTES


@dataclass(frozen=True)
class HeadSpec:
    """The trainable head: its layers and initial float32 parameters [params].

    kernel_scales: per layer of mode "scales" the float32 scales of its int8 kernel; its `frozen` is an offset
    in the user's file.
    """

    layers: tuple[Layer, ...]
    params: np.ndarray
    kernel_scales: tuple[np.ndarray, ...] = ()

    @property
    def dims(self) -> tuple[int, ...]:
        return head_dims(self.layers)


def head_dims(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """(F, outputs of every layer..., K); nothing without layers."""
    return (
        (math.prod(layers[0].in_shape), *(math.prod(layer.out_shape) for layer in layers)) if layers else ()
    )


class Compiler(ElementwiseOperators, IndexedOperators):
    """Turns the operators of one model into records and places its tensors. `compile_program` is the way
    in."""

    def records(self) -> list[Record]:
        return [self.record(op) for op in self.m.ops]

    def record(self, op: Op) -> Record:
        """The record of one operator, but for the places of its tensors."""
        handler = getattr(self, "op_" + op.name.lower(), None)
        if handler is None or op.name not in CODES:
            raise self.unsupported(op, "the device engine does not run this operator")
        r = Record(code=CODES[op.name])
        try:
            handler(op, r)
        except (AttributeError, TypeError, IndexError, ValueError, struct.error) as error:
            raise PackageError(f"{self.m.label(op)} is damaged ({type(error).__name__}: {error})") from None
        r.x = op.inputs[0] if r.x < 0 else r.x
        x, y = self.m.tensors[r.x], self.m.tensors[op.outputs[0]]
        r.src_size, r.dst_size, r.src_zero = x.size, y.size, x.zero_point
        if r.nothing:
            r.dst_size = r.src_size
        r.dst_zero = y.zero_point if r.y_zero is None else r.y_zero
        if r.x2 is not None:
            x2 = self.m.tensors[r.x2]
            r.src2_size, r.src2_zero = x2.size, x2.zero_point
        return r


def compile_program(
    data: bytes | ModelFile,
    *,
    cut_op: int | None = None,
    head: HeadSpec | None = None,
    name: str = "",
    labels: tuple[str, ...] = (),
    source: str = "the model",
    shift: int = 0,
    recompute: bool = False,
    row_tiling: bool = True,
) -> bytes:
    """The package: `data` (a full int8 .tflite, or one that is parsed already) with our program in its
    metadata.

    cut_op: operators [0, cut_op) are the backbone and the input of operator cut_op is the cut tensor; None:
    the whole model is backbone and there is nothing to train. shift: 0..15, by which all tensors are
    misaligned (tests of kernels). recompute: boards keep inputs instead of features, which are computed again
    for every visit. row_tiling: operators may run a few rows at a time to save RAM; without, record i is
    operator i and its output is in memory when it has run. UnsupportedError names operator, layer and remedy.
    """
    with damage(source):
        return _compile(
            original_model(ModelFile(data, source)) if isinstance(data, bytes) else data,
            cut_op,
            head,
            name,
            labels,
            source,
            shift,
            lib.QFL_NN_RECOMPUTE if recompute else 0,
            row_tiling,
        )


def _compile(
    model: ModelFile,
    cut_op: int | None,
    head: HeadSpec | None,
    name: str,
    labels: tuple[str, ...],
    source: str,
    shift: int,
    flags: int,
    row_tiling: bool,
) -> bytes:
    compiler = Compiler(model)
    if len(model.inputs) != 1 or not model.ops:
        raise UnsupportedError(
            f"{source} has {len(model.inputs)} inputs and {len(model.ops)} operators; one input is needed"
        )
    records = compiler.records()
    cut = len(records) if cut_op is None else cut_op
    if not 0 <= cut <= len(records):
        raise PackageError(f"{source}: cannot cut at operator {cut} of {len(records)}")
    layout = lay_out(model, records, compiler.tables, cut, shift=shift, row_tiling=row_tiling)
    ops, where = len(records), layout.where
    records = layout.records
    features = model.tensors[model.ops[cut].inputs[0] if cut < ops else model.ops[-1].outputs[0]]
    entry = model.tensors[entry_of(model)]
    layers = head.layers if head else ()
    if head is not None and (head.dims[0] != features.size or len(layers) > lib.QFL_HEAD_MAX_LAYERS):
        raise PackageError(f"{source}: a head {head.dims} does not fit {features.size} features")
    meta = json.dumps({"name": name, "labels": list(labels)}).encode()
    params = b"" if head is None else snap(head.params, tensors_of(layers)).astype("<f4").tobytes()
    scales = b"".join(s.astype("<f4").tobytes() for s in head.kernel_scales) if head else b""
    ops_at = lib.QFL_NN_HEADER_SIZE
    tables_at = ops_at + RECORD_SIZE * len(records)
    layers_at = tables_at + len(compiler.tables)
    scales_at = layers_at + LAYER_SIZE * len(layers)
    params_at = scales_at + len(scales)
    meta_at = params_at + len(params)
    size = -(-(meta_at + len(meta)) // 16) * 16
    prefix, blob_at = prefix_size(model.data, size)
    for r in records:
        r.weights = r.weights + (blob_at + tables_at if r.own_weights else prefix) if r.weights_size else 0
        r.table = blob_at + tables_at + r.table if r.table_count else 0
    placed, at = [], blob_at + scales_at
    for layer in layers:
        if layer.mode == "scales":
            layer = replace(layer, frozen=layer.frozen + prefix, scales=at)
            at += 4 * layer.out_shape[2]
        placed.append(layer.pack())
    header = {
        "magic": MAGIC,
        "version": lib.QFL_NN_VERSION,
        "flags": flags if head else 0,
        "size": size,
        "arena_size": layout.arena,
        "op_count": len(records),
        "cut_op": layout.cut,
        "input_offset": where[entry.index],
        "input_size": entry.size,
        "feature_offset": where[features.index],
        "feature_count": features.size,
        "feature_scale": features.scale,
        "feature_zero_point": features.zero_point,
        "head_layers": len(layers),
        "head_list": blob_at + layers_at if layers else 0,
        "head_layer_bytes": LAYER_SIZE,
        "cut_shift": (layout.cut - cut) & 0xFFFFFFFF,
        "head_params": blob_at + params_at if head else 0,
        "head_param_count": len(params) // 4,
        "ops": blob_at + ops_at,
        "file_size": prefix + len(model.data),
        "model": prefix,
        "model_size": len(model.data),
        "input_scale": entry.scale,
        "input_zero_point": entry.zero_point,
        "text": meta_at,
        "text_size": len(meta),
    }
    parts = [
        bytes(ffi.buffer(ffi.new("qfl_nn_header *", header))).ljust(lib.QFL_NN_HEADER_SIZE, b"\0"),
        *(r.pack() for r in records),
        bytes(compiler.tables),
        *placed,
        scales,
        params,
        meta,
    ]
    blob = b"".join(parts)
    return with_metadata(model.data, blob.ljust(size, b"\0"))


def entry_of(model: ModelFile) -> int:
    """The int8 tensor that a board's input is: the model's, or what its first operator makes of a float32
    input."""
    first = model.inputs[0]
    if model.tensors[first].dtype == np.float32:
        for op in model.ops:
            if op.name == "QUANTIZE" and op.inputs[0] == first:
                return op.outputs[0]
    return first


def snap(params: np.ndarray, tensors: tuple[int, ...] = ()) -> np.ndarray:
    """Head parameters on the grid of a power of two: 11 bits for the largest of each layer, and room for
    heads far larger.

    Sums of such parameters and of steps of the codec DZ are then exact in float32, so that a board reaches
    the same bytes through many small updates as through one that combines them.
    """
    unit = grid(params, tensors)
    return (np.rint(params.astype(np.float64) / unit) * unit).astype(np.float32)


def grid(params: np.ndarray, tensors: tuple[int, ...] = ()) -> float:
    """The grid's unit, a power of two, at least 2^-16: float32 is exact on it up to 2^24 times as much.
    tensors: sizes of kernel and bias of every layer; the finest that one of them needs is taken."""
    ends = np.cumsum([a + b for a, b in zip(tensors[::2], tensors[1::2], strict=True)])[:-1]
    layers = np.split(params, ends) if tensors else [params]
    largest = [float(np.abs(part).max(initial=0.0)) for part in layers]
    units = [2.0 ** max(-16, math.ceil(math.log2(v)) - 11) for v in largest if v > 0]
    return min(units, default=2.0**-16)


def original_model(model: ModelFile) -> ModelFile:
    """The user's own .tflite inside a package, or `model` itself when it is none. PackageError: it is
    damaged."""
    data, entry = model.data, model.metadata.get(METADATA_NAME)
    if entry is not None and entry[1] >= lib.QFL_NN_HEADER_SIZE and data[entry[0] : entry[0] + 4] == MAGIC:
        header = _header(data, entry[0])
        if header.model + header.model_size == len(data):
            return ModelFile(data[header.model :], model.name)
    return model


def _header(data: bytes, at: int) -> Any:
    """The qfl_nn_header at an offset of a package. ValueError when the bytes end before it does."""
    header = ffi.new("qfl_nn_header *")
    ffi.buffer(header)[:] = data[at : at + ffi.sizeof("qfl_nn_header")]
    return header


def original_of(data: bytes) -> bytes:
    """The bytes of the user's own .tflite inside a package, or `data` itself when it is none."""
    return original_model(ModelFile(data)).data if len(data) > 8 and data[4:8] == b"TFL3" else data


def _operators(data: bytes, header: Any) -> int:
    raw, mask = data[header.ops : header.ops + header.op_count * RECORD_SIZE], 0
    if len(raw) != header.op_count * RECORD_SIZE:
        raise ValueError("operator records beyond the end")
    for record in ffi.from_buffer("qfl_nn_record[]", raw):
        if record.code > 31:
            raise ValueError(f"no operator has the code {record.code}")
        mask |= 1 << record.code
    return mask


def _layers(data: bytes, header: Any) -> tuple[Layer, ...]:
    places = (header.head_list + i * LAYER_SIZE for i in range(header.head_layers))
    return tuple(Layer.unpack(data[at : at + LAYER_SIZE]) for at in places)


@dataclass(frozen=True)
class Needs:
    """What a package asks of a firmware's build. operators: bit c set for every operator code c, as
    QFL_NN_OPS has them; layers: of the head, in order."""

    operators: int
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, data: bytes, source: str = "the package") -> Needs:
        """Of a package's bytes, signed or not, which are parsed but not checked. PackageError when they are
        no package."""
        with damage(source):
            header = _header(data, ModelFile(data, source).metadata[METADATA_NAME][0])
            return cls(_operators(data, header), _layers(data, header))

    def missing_operators(self, linked: int) -> list[str]:
        """Names of the operators that an engine with the mask `linked` lacks."""
        lacking = self.operators & ~linked
        return [NAMES.get(c, f"operator code {c}") for c in range(1, 32) if lacking >> c & 1]


@dataclass(frozen=True)
class Package:
    """A package (docs/PACKAGE.md): an ordinary .tflite file, and what quantfl's metadata in it say."""

    data: bytes
    """The file."""
    arena_size: int
    """RAM that the engine needs, in bytes."""
    op_count: int
    """Records of the program."""
    cut_op: int
    """Records before the cut: the backbone."""
    input_size: int
    """int8 values of the input."""
    input_scale: float
    """Scale of the input's quantisation."""
    input_zero_point: int
    """Zero-point of the input's quantisation."""
    feature_count: int
    """int8 values of the features, F."""
    feature_scale: float
    """Scale of the features' quantisation."""
    feature_zero_point: int
    """Zero-point of the features' quantisation."""
    layers: tuple[Layer, ...]
    """Layers of the head."""
    params: np.ndarray
    """The initial head, float32 [params]."""
    name: str
    """Name of the model."""
    labels: tuple[str, ...]
    """Names of the classes; empty: none are known."""
    sha256: str
    """SHA-256 of the file, as hex."""
    operators: int
    original_at: int
    recompute: bool = False
    """Boards cache inputs, and compute features again."""

    @property
    def needs(self) -> Needs:
        return Needs(self.operators, self.layers)

    @property
    def dims(self) -> tuple[int, ...]:
        """(F, outputs of every layer..., K); nothing when there is nothing to train."""
        return head_dims(self.layers)

    @property
    def head(self) -> Head:
        """The head as boards compute it."""
        base = self.data if any(layer.mode == "scales" for layer in self.layers) else b""
        return Head(self.dims, self.feature_scale, self.feature_zero_point, self.layers, base)

    @property
    def original(self) -> bytes:
        """The bytes of the user's own .tflite."""
        return self.data[self.original_at :]


def open_package(data: bytes | ModelFile, source: str = "the package") -> Package:
    """Read a package, parsed already or not. PackageError when it is damaged, or a .tflite that has not been
    through `quantfl convert`."""
    model = ModelFile(data, source) if isinstance(data, bytes) else data
    if METADATA_NAME not in model.metadata:
        raise PackageError(
            f"{source} is a .tflite file but no quantfl package: run `quantfl convert` on it first"
        )
    return open_made(model.data, source)


def open_made(data: bytes, source: str = "the package") -> Package:
    """Read a package that this process has made: its FlatBuffer is not parsed again. The program is checked
    as the device checks it."""
    from quantfl.core.nn import check

    at = check(data, source).program_at
    with damage(source):
        return _read_package(data, at, source)


def _read_package(data: bytes, at: int, source: str) -> Package:
    h = _header(data, at)
    try:
        meta = json.loads(data[at + h.text : at + h.text + h.text_size])
        name, labels = str(meta["name"]), tuple(str(v) for v in meta["labels"])
    except (ValueError, KeyError, TypeError):
        raise PackageError(f"{source} is damaged: its name and labels cannot be read") from None
    return Package(
        data,
        h.arena_size,
        h.op_count,
        (h.cut_op - h.cut_shift) & 0xFFFFFFFF,
        h.input_size,
        h.input_scale,
        h.input_zero_point,
        h.feature_count,
        h.feature_scale,
        h.feature_zero_point,
        _layers(data, h),
        np.frombuffer(data, "<f4", h.head_param_count, h.head_params).astype(np.float32),
        name,
        labels,
        hashlib.sha256(data).hexdigest(),
        _operators(data, h),
        h.model if h.model + h.model_size == len(data) else 0,
        bool(h.flags & lib.QFL_NN_RECOMPUTE),
    )
