"""From what people have to a full int8 .tflite: Keras and SavedModel, float .tflite, C arrays.

Quantisers run in processes of their own: they are heavy, leak per call and write to stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import PackageError, QuantflError, ToolError, UsageError
from quantfl.package.calibrate import CalibrationWarning
from quantfl.package.flatfile import ModelFile, read_file

#: Suffixes, in any case, of files that Keras loads.
KERAS = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Source:
    """A full int8 or uint8 model. quality: how it does beside the float model that it was quantised from
    (calibrate.agreement), None: it was not quantised here."""

    model: ModelFile
    quality: dict[str, Any] | None = None


def load(path: Path, calibrate: Path | None = None) -> Source:
    """A model file as a full int8 .tflite; float models are quantised on the calibration data."""
    if path.is_dir() or path.suffix.lower() in KERAS:
        return _quantised("keras_convert", "TensorFlow", path, calibrate)
    data = read_file(path)
    model = ModelFile(data, str(path))
    if is_float(model):
        with tempfile.TemporaryDirectory() as folder:  # the process reads bytes, whatever the file was
            copy = Path(folder) / path.with_suffix(".tflite").name
            copy.write_bytes(data)
            return _quantised("float_convert", "ai-edge-quantizer", copy, calibrate, path)
    return Source(model)


def is_float(model: ModelFile) -> bool:
    """Whether the model has to be quantised: its input is float32, and no operator quantises it."""
    if len(model.inputs) != 1 or model.tensors[model.inputs[0]].dtype != np.float32:
        return False
    return not any(op.name == "QUANTIZE" and op.inputs[0] == model.inputs[0] for op in model.ops)


def _quantised(
    module: str, tool: str, path: Path, calibrate: Path | None, shown: Path | None = None
) -> Source:
    """Quantisation by the module's process. shown: what messages call the file."""
    shown = shown or path
    if not path.exists():
        raise PackageError(f"{path}: no such file or folder")
    if calibrate is None:
        raise UsageError(
            f"{shown} is a float model and has to be quantised: give --calibrate FILE.npz or .npy with some "
            "hundred real inputs"
        )
    if not calibrate.exists():
        raise UsageError(f"{calibrate}: no such file (--calibrate)")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.tflite"
        command = [sys.executable, "-m", f"quantfl.package.{module}", str(path), str(calibrate), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
        for note in said:
            if note["kind"] == "warning":
                warnings.warn(note["message"], CalibrationWarning, stacklevel=3)
        if out.exists():
            quality = [
                {k: v for k, v in note.items() if k != "kind"} for note in said if note["kind"] == "quality"
            ]
            model = ModelFile(out.read_bytes(), str(shown))
            return Source(model, quality[0] if quality else None)
    for note in said:
        if note["kind"] in ("tool", "usage", "model"):
            kinds: dict[str, type[QuantflError]] = {"tool": ToolError, "usage": UsageError}
            raise kinds.get(note["kind"], PackageError)(note["message"].replace(str(path), str(shown)))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise PackageError(f"{shown}: {tool} could not convert it: {last}")


def quality_text(q: dict[str, Any]) -> str:
    """One line on what quantisation did."""
    if q["outputs"] == 1:
        return (
            f"int8 beside float on {q['samples']} samples: mean absolute difference {q['disagreement']:.3g}"
        )
    text = f"int8 beside float on {q['samples']} samples: another class for {q['disagreement']:.1%}"
    if q["float_accuracy"] is not None:
        text += f"; accuracy float {q['float_accuracy']:.3f}, int8 {q['int8_accuracy']:.3f}"
    return text
