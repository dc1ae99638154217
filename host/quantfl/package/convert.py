"""From a model file to a package: quantise if need be, cut, compile, check the fit."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import PackageError, ToolError, UnsupportedError, UsageError
from quantfl.package import cost as costs
from quantfl.package import cut as cutting
from quantfl.package import fit
from quantfl.package.calibrate import CalibrationWarning
from quantfl.package.flatfile import ModelFile, damage, read_file
from quantfl.package.program import Package, compile_program, open_made, original_model
from quantfl.package.rewrite import add_biases
from quantfl.package.unsigned import signed_model

#: Suffixes, in any case, of files that Keras loads.
KERAS = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Converted:
    """A package and what there is to say about it. fits: one row per known board; cuts: every possible
    cut."""

    opened: Package
    name: str
    cut: cutting.Cut
    cuts: tuple[cutting.Cut, ...]
    fits: tuple[fit.Fit, ...]

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
) -> Converted:
    """Convert a .keras, .h5, .hdf5, SavedModel or full int8 .tflite. Errors name the layer and a remedy."""
    data = model_bytes(path, calibrate)
    return convert_bytes(
        data,
        source=str(path),
        cut=cut,
        name=name or path.stem,
        labels=labels,
        train=train,
        recompute=recompute,
    )


def model_bytes(path: Path, calibrate: Path | None = None) -> bytes:
    """A model file as a full int8 .tflite; Keras models are quantised on the calibration data."""
    if path.is_dir() or path.suffix.lower() in KERAS:
        return keras_to_tflite(path, calibrate)
    return read_file(path)


def cut_costs(
    path: Path, *, calibrate: Path | None = None, train: str = "all", recompute: bool = False
) -> list[costs.Cost]:
    """What every possible cut of a model costs, the smallest head first; the package is made for each."""
    model = ModelFile(model_bytes(path, calibrate), str(path))
    first = convert_bytes(model, source=str(path), train=train, recompute=recompute)
    rows = []
    for c in first.cuts:
        done = convert_bytes(model, source=str(path), cut=str(c.number), train=train, recompute=recompute)
        rows.append(costs.cost(done.opened, done.cut))
    return rows


def _one_way(model: ModelFile, source: str) -> None:
    """UnsupportedError: several inputs or outputs, so that what is trained need not be what is scored."""
    for ends, what in ((model.inputs, "inputs"), (model.outputs, "outputs")):
        if len(ends) != 1:
            names = ", ".join(model.tensors[t].name for t in ends) or "none"
            raise UnsupportedError(
                f"{source} has {len(ends)} {what} ({names}), and quantfl trains models with one: "
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
) -> Converted:
    """Convert the bytes of a full int8 .tflite (or of a package, which is converted anew), parsed already or
    not. train: one of cut.MODES; recompute: boards cache inputs instead of features."""
    with damage(source):
        model = original_model(ModelFile(data, source) if isinstance(data, bytes) else data)
        model = signed_model(model)
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
    edges = {op.inputs[0] for op in model.ops if op.name == "QUANTIZE"}
    edges |= {t for op in model.ops if op.name == "DEQUANTIZE" for t in op.outputs}
    for t in (*model.inputs, *model.outputs):
        tensor = model.tensors[t]
        if tensor.dtype != np.int8 and not (tensor.dtype == np.float32 and t in edges):
            kind = tensor.dtype.name if tensor.dtype.kind != "V" else "another type"
            raise UnsupportedError(
                f"{model.name}: tensor {tensor.name} is {kind}, not int8: convert with full integer "
                "quantisation, "
                "int8 inputs and outputs (or give `quantfl convert` the .keras file and --calibrate)"
            )


def keras_to_tflite(path: Path, calibrate: Path | None) -> bytes:
    """Full int8 conversion in a process of its own: TensorFlow is heavy, leaks per call and writes to
    stdout."""
    if not path.exists():
        raise PackageError(f"{path}: no such file or folder")
    if calibrate is None:
        raise UsageError(
            f"{path} has to be quantised: give --calibrate FILE.npz or .npy with some hundred real inputs"
        )
    if not calibrate.exists():
        raise UsageError(f"{calibrate}: no such file (--calibrate)")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.tflite"
        command = [sys.executable, "-m", "quantfl.package.keras_convert", str(path), str(calibrate), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith('{"kind": "warning"'):
                warnings.warn(json.loads(line)["message"], CalibrationWarning, stacklevel=3)
        if out.exists():
            return out.read_bytes()
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("{") and '"warning"' not in line[:20]:
                failure = json.loads(line)
                error = {"tool": ToolError, "usage": UsageError}.get(failure["kind"], PackageError)
                raise error(failure["message"])
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise PackageError(f"{path}: TensorFlow could not convert it: {last}")
