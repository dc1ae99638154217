"""From a model file to a package: quantise if need be, cut, compile, check the fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import UnsupportedError, UsageError
from quantfl.package import cost as costs
from quantfl.package import cut as cutting
from quantfl.package import fit
from quantfl.package import source as sources
from quantfl.package.explain import Line, explain
from quantfl.package.flatfile import ModelFile, damage, read_file
from quantfl.package.operators import FLOAT_ENDS
from quantfl.package.program import Package, compile_program, open_made, original_model
from quantfl.package.rewrite import add_biases, with_output
from quantfl.package.unsigned import signed_model
from quantfl.suggest import meant


@dataclass(frozen=True)
class Converted:
    """A package and what there is to say about it. fits: one row per known board; cuts: every possible
    cut."""

    opened: Package
    name: str
    cut: cutting.Cut
    cuts: tuple[cutting.Cut, ...]
    fits: tuple[fit.Fit, ...]
    quality: dict[str, Any] | None = None

    @property
    def package(self) -> bytes:
        """The file's bytes."""
        return self.opened.data

    @property
    def arena_size(self) -> int:
        return self.opened.arena_size

    @property
    def sha256(self) -> str:
        return self.opened.sha256

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": len(self.package),
            "sha256": self.sha256,
            "arena_bytes": self.arena_size,
            "cut": _cut_json(self.cut),
            "cuts": [_cut_json(c) for c in self.cuts],
            "boards": [asdict(f) for f in self.fits],
            "quantised": self.quality,
        }


def _cut_json(c: cutting.Cut) -> dict[str, Any]:
    return {
        "op": c.number,
        "layer": c.layer,
        "head": c.text,
        "dims": list(c.dims),
        "train": c.mode,
        "params": c.params,
    }


def convert(
    path: Path,
    *,
    calibrate: Path | None = None,
    cut: str | None = None,
    name: str | None = None,
    labels: tuple[str, ...] = (),
    train: str = "all",
    recompute: bool = False,
    output: str | None = None,
) -> Converted:
    """Convert a .keras, .h5, .hdf5, SavedModel, .tflite (float, int8 or uint8) or a C array of one. Float
    models need calibration data. Errors name the layer and a remedy."""
    found = sources.load(path, calibrate)
    done = convert_bytes(
        found.model,
        source=str(path),
        cut=cut,
        name=name or path.stem,
        labels=labels,
        train=train,
        recompute=recompute,
        output=output,
    )
    return replace(done, quality=found.quality)


def cut_costs(
    path: Path,
    *,
    calibrate: Path | None = None,
    train: str = "all",
    recompute: bool = False,
    output: str | None = None,
) -> list[costs.Cost]:
    """What every possible cut of a model costs, the smallest head first; the package is made for each."""
    model = sources.load(path, calibrate).model
    with damage(str(path)):
        model = _chosen_output(signed_model(original_model(model)), str(path), output)
    first = convert_bytes(model, source=str(path), train=train, recompute=recompute)
    rows = []
    for c in first.cuts:
        done = convert_bytes(model, source=str(path), cut=str(c.number), train=train, recompute=recompute)
        rows.append(costs.cost(done.opened, done.cut))
    return rows


def explained(
    path: Path, *, calibrate: Path | None = None, cut: str | None = None, output: str | None = None
) -> tuple[list[Line], str]:
    """What becomes of every operator of a model, and what ends its trainable chain. A float model is
    quantised where calibration data is given, else only listed."""
    source, quantised = str(path), True
    plain = path.is_file() and path.suffix.lower() not in sources.KERAS
    model = ModelFile(read_file(path), source) if plain and calibrate is None else None
    if model is not None and sources.is_float(model):
        quantised = False
    else:
        model = model or sources.load(path, calibrate).model
    with damage(source):
        model = signed_model(original_model(model))
        if output is not None or len(model.outputs) > 1:
            model = _chosen_output(model, source, output or "0")
        return explain(model, cut, quantised=quantised)


def _chosen_output(model: ModelFile, source: str, output: str | None) -> ModelFile:
    """The model with the output that is named, by its tensor's name or its number; the others go, and with
    them what only they need, so that what is trained is what is scored."""
    names = [model.tensors[t].name for t in model.outputs]
    if output is None:
        if len(names) == 1:
            return model
        raise UnsupportedError(
            f"{source} has {len(names)} outputs ({', '.join(names) or 'none'}), and quantfl trains models "
            "with one: name it by --output, or export the model with the one you want"
        )
    found = [i for i, n in enumerate(names) if output in (n, str(i))]
    found = found or [i for i, n in enumerate(names) if output in n]
    if len(found) != 1:
        why = "fits several" if found else f"is none{meant(output, names)}"
        listed = ", ".join(f"{i} {n}" for i, n in enumerate(names))
        raise UsageError(f"--output {output} {why} of {source}'s outputs: {listed}")
    if len(names) == 1:
        return model
    return ModelFile(with_output(model, model.outputs[found[0]]), source)


def _one_way(model: ModelFile, source: str) -> None:
    """UnsupportedError: several inputs, or several samples at once."""
    if len(model.inputs) != 1:
        names = ", ".join(model.tensors[t].name for t in model.inputs) or "none"
        raise UnsupportedError(
            f"{source} has {len(model.inputs)} inputs ({names}), and quantfl trains models with one: "
            f"export the model with the one you want"
        )
    entry = model.tensors[model.inputs[0]]
    if len(entry.shape) > 1 and entry.shape[0] != 1:
        raise UnsupportedError(
            f"{source} takes {entry.shape[0]} samples at once: its input {entry.name} has shape "
            f"{entry.shape}, read by {_reader(model)}; export the model with a batch size of 1"
        )


def _reader(model: ModelFile) -> str:
    """The first operator that reads the model's input, as messages name it."""
    return next((model.label(op) for op in model.ops if model.inputs[0] in op.inputs), "no operator")


def convert_bytes(
    data: bytes | ModelFile,
    *,
    source: str,
    cut: str | None = None,
    name: str = "",
    labels: tuple[str, ...] = (),
    train: str = "all",
    recompute: bool = False,
    output: str | None = None,
) -> Converted:
    """Convert the bytes of a full int8 .tflite (or of a package, which is converted anew), parsed already or
    not. train: one of cut.MODES; recompute: boards cache inputs instead of features."""
    with damage(source):
        model = original_model(ModelFile(data, source) if isinstance(data, bytes) else data)
        model = _chosen_output(signed_model(model), source, output)
        _one_way(model, source)
        _full_int8(model)
        chosen = cutting.choose(model, cut).trained(train)
        without = cutting.without_own_bias(model, chosen)
        if without:  # the trained bias needs a place in the exported model
            model = ModelFile(add_biases(model, without), source)
        head = cutting.head_of(model, chosen)
    if labels and len(labels) != chosen.dims[-1]:
        raise UsageError(f"{len(labels)} labels given, but the model has {chosen.dims[-1]} classes")
    package = compile_program(
        model, cut_op=chosen.op, head=head, name=name, labels=labels, source=source, recompute=recompute
    )
    opened = open_made(package, source)
    return Converted(opened, name, chosen, tuple(cutting.possible_cuts(model)), tuple(fit.check(opened)))


def _full_int8(model: ModelFile) -> None:
    """Inputs and outputs are int8, or float32 with a QUANTIZE or DEQUANTIZE of the model's own beside
    them."""
    indices: set[int] = set()
    edges = {op.inputs[0] for op in model.ops if op.name == "QUANTIZE"}
    for op in model.ops:
        ends = op.name in FLOAT_ENDS and op.inputs[0] in edges
        if op.name == "DEQUANTIZE" or ends:
            edges |= set(op.outputs)
        if op.name == "ARG_MAX" and model.tensors[op.inputs[0]].dtype == np.int8:
            indices |= set(op.outputs)
    for t in (*model.inputs, *model.outputs):
        tensor = model.tensors[t]
        if tensor.dtype != np.int8 and t not in indices and not (tensor.dtype == np.float32 and t in edges):
            kind = tensor.dtype.name if tensor.dtype.kind != "V" else "another type"
            raise UnsupportedError(
                f"{model.name}: tensor {tensor.name} is {kind}, not int8: convert with full integer "
                "quantisation, "
                "int8 inputs and outputs (or give `quantfl convert` the float model and --calibrate)"
            )
