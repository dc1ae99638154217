"""Calibration data: real inputs from which the ranges of a float model's tensors are taken."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from quantfl.errors import UsageError

#: Fewer samples than this hardly show the range of a tensor; more than MOST are not looked at.
FEW, MOST = 20, 500
_NAMES = ("x", "x_train", "inputs", "images")


class CalibrationWarning(UserWarning):
    """Calibration data that may give a poor model."""


def samples(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [n, *shape] of a .npy array, or of the array of a .npz that holds inputs of this shape: x,
    x_train, inputs or images where there is one, else the one that fits. UsageError names file, array and
    what is due; CalibrationWarning below FEW samples."""
    if not path.exists():
        raise UsageError(f"{path}: no such file (--calibrate)")
    try:
        raw = np.load(path, allow_pickle=False)
        arrays = {"": raw} if isinstance(raw, np.ndarray) else {k: raw[k] for k in raw.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a .npy or .npz file of plain arrays ({error})") from None
    key = _chosen(arrays, shape, str(path))
    x = checked(arrays[key], f"{path}: {key}" if key else str(path))
    if x.shape[1:] != shape:
        x = x.reshape(len(x), *shape)  # _chosen has seen that it fits
    if len(x) < FEW:
        warnings.warn(
            f"{path} has {len(x)} samples: ranges taken from fewer than {FEW} may cut off later inputs; give "
            "some hundred",
            CalibrationWarning,
            stacklevel=2,
        )
    return x[:MOST]


def _chosen(arrays: dict[str, np.ndarray], shape: tuple[int, ...], source: str) -> str:
    """The name of the array with inputs of this shape."""
    size = int(np.prod(shape))

    def fits(a: np.ndarray) -> bool:
        # Channels of one may be left out, as in grey images.
        same = tuple(n for n in a.shape[1:] if n != 1) == tuple(n for n in shape if n != 1)
        return (a.ndim > 1 and (same or len(a) == 0)) or (a.ndim == 1 and size == 1)

    for key in _NAMES:
        if key in arrays and fits(arrays[key]):
            return key
    found = [k for k, a in arrays.items() if fits(a)]
    if len(found) == 1 or (found and found[0] == ""):
        return found[0]
    listed = ", ".join(f"{k or 'the array'} {a.dtype} {a.shape}" for k, a in arrays.items()) or "no array"
    why = f"several arrays fit: {', '.join(found)}; name the inputs x" if found else "none of them fits"
    due = f"(samples, {', '.join(map(str, shape))})"
    raise UsageError(f"{source} holds {listed}; the model takes inputs {due}; {why}")


def checked(x: np.ndarray, source: str) -> np.ndarray:
    """x as float32 [n, ...]. UsageError unless it holds finite numbers that differ, in at least one
    sample."""
    if x.dtype.kind not in "biuf" or x.ndim < 1 or x.size == 0:
        raise UsageError(
            f"{source}: {x.dtype} {x.shape} calibrates nothing; real inputs (samples, ...) are due"
        )
    with np.errstate(over="ignore"):
        values = x.astype(np.float32)
    if not np.isfinite(values).all():
        raise UsageError(f"{source}: NaN or infinity among the inputs, as float32; finite numbers are due")
    if values.min() == values.max():
        raise UsageError(f"{source}: every value is {values.min():g}; real inputs are due, which differ")
    return values


def labels_of(path: Path, count: int) -> np.ndarray | None:
    """The first `count` class labels of a calibration file, where it has some: y, y_train, labels or
    targets."""
    raw = np.load(path, allow_pickle=False)
    if isinstance(raw, np.ndarray):
        return None
    for key in ("y", "y_train", "labels", "targets"):
        if key in raw.files and raw[key].dtype.kind in "iu" and raw[key].ndim == 1 and len(raw[key]) >= count:
            found: np.ndarray = raw[key][:count]
            return found
    return None


def agreement(
    model: bytes, x: np.ndarray, floats: np.ndarray, labels: np.ndarray | None
) -> dict[str, float | int | None]:
    """How an int8 model, as boards run it, does beside the float one on x float32 [n, ...], whose outputs
    were `floats` [n, size].

    disagreement: share of samples with another class; with one output the mean absolute difference.
    float_accuracy, int8_accuracy: where labels are given. UnsupportedError: boards cannot run the model.
    """
    from quantfl.core.nn import Engine
    from quantfl.package.flatfile import ModelFile
    from quantfl.package.program import compile_program, entry_of

    file = ModelFile(model)
    engine = Engine(compile_program(model))
    entry = file.tensors[entry_of(file)]
    q = np.rint(x.reshape(len(x), -1) / np.float32(entry.scale)) + entry.zero_point
    got = engine.classify(np.clip(q, -128, 127).astype(np.int8))
    out: dict[str, float | int | None] = {
        "samples": len(x),
        "outputs": floats.shape[1],
        "float_accuracy": None,
        "int8_accuracy": None,
    }
    if floats.shape[1] == 1:
        near = (t for op in reversed(file.ops) for t in (*op.outputs, *op.inputs[:1]))
        t = next(file.tensors[i] for i in near if file.tensors[i].dtype == np.int8)
        real = (got.astype(np.float32) - t.zero_point) * np.float32(t.scale)
        out["disagreement"] = float(np.abs(real - floats).mean())
        return out
    out["disagreement"] = float((got.argmax(1) != floats.argmax(1)).mean())
    if labels is not None:
        out["float_accuracy"] = float((floats.argmax(1) == labels).mean())
        out["int8_accuracy"] = float((got.argmax(1) == labels).mean())
    return out
