"""`quantfl bench models`: what `quantfl convert` makes of models that other people have published.

Per file: whether it converts, whether the package gives the stock interpreter's bytes (tflite-micro; LiteRT's
reference kernels for what uint8 models have), the head, RAM of activations, operators, and the refusal's
line. A float model is quantised on random inputs, for here only its structure counts. Files lie in
models/ of the shared data, or in the folder QUANTFL_MODELS.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.core.nn import Engine
from quantfl.data.dataset import find
from quantfl.errors import DataError, QuantflError
from quantfl.package.calibrate import CalibrationWarning
from quantfl.package.convert import Converted, convert
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import open_package
from quantfl.package.source import is_float
from quantfl.package.stock import OWN, quiet, stock

_STEPS, _QUICK, _CALIBRATE = 20, 4, 20


def files() -> list[Path]:
    """The models, sorted; the same bytes once."""
    folder = Path(os.environ.get("QUANTFL_MODELS") or find("models", None))
    found: dict[bytes, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".tflite"):
        found.setdefault(path.read_bytes(), path)
    if not found:
        raise DataError(f"{folder} holds no .tflite file")
    return list(found.values())


def run(quick: bool = False) -> list[dict[str, Any]]:
    """One row per file; the last one sums up."""
    rows = [row(path, _QUICK if quick else _STEPS) for path in files()]
    done = sum(r["converts"] == "yes" for r in rows)
    total = {
        "file": f"{len(rows)} files",
        "input": "",
        "converts": f"{done}",
        "exact": f"{sum(r['exact'] == 'yes' for r in rows)}",
        "head": "",
        "arena_bytes": None,
        "operators": "",
        "why": "",
    }
    return [*rows, total]


def row(path: Path, steps: int) -> dict[str, Any]:
    """What convert makes of one file."""
    out: dict[str, Any] = {
        "file": path.name,
        "input": "",
        "converts": "no",
        "exact": "",
        "head": "",
        "arena_bytes": None,
        "operators": "",
        "why": "",
    }
    try:
        model = ModelFile(path.read_bytes(), path.name)
        out["input"] = ", ".join(model.tensors[t].dtype.name for t in model.inputs)
        out["operators"] = " ".join(sorted({op.name for op in model.all_ops}))
        done, oracle = _converted(path, model)
        out |= {"converts": "yes", "head": done.cut.text, "arena_bytes": done.arena_size}
        out["exact"] = _exact(oracle, done.package, steps)
    except QuantflError as error:
        out["why"] = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
    return out


def _converted(path: Path, model: ModelFile) -> tuple[Converted, bytes]:
    """The package, and the full int8 or uint8 model that a stock interpreter runs beside it."""
    if not is_float(model):
        done = convert(path)
        return done, path.read_bytes()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        inputs = Path(folder) / "x.npy"
        shape = model.tensors[model.inputs[0]].shape[1:]
        np.save(inputs, np.random.default_rng(2).normal(size=(_CALIBRATE, *shape)).astype(np.float32))
        done = convert(path, calibrate=inputs)
    return done, done.opened.original


def _exact(model: bytes, package: bytes, steps: int) -> str:
    """Whether outputs are equal on random and structured inputs, one after the other."""
    engine, oracle = Engine(package), stock(model)
    if oracle.name == OWN:
        return "no interpreter"
    opened = open_package(package)
    file = ModelFile(model)
    rng, wrong = np.random.default_rng(1), 0
    for i in range(steps):
        x = rng.integers(-128, 128, opened.input_size).astype(np.int8)
        if i % 2:
            x = np.where(np.arange(x.size) % (i + 1) == 0, x, np.int8(x[0])).astype(np.int8)
        with quiet():
            expected = oracle.run(x)
        wrong += _differing(expected, engine.classify(x[None])[0], file)
    return "yes" if not wrong else f"{wrong} differ"


def _differing(expected: np.ndarray, got: np.ndarray, model: ModelFile) -> int:
    """How many values of a stock interpreter's output are not what the board's int8 output stands for."""
    last = model.ops[-1]
    if expected.dtype == np.uint8:
        expected = (expected ^ 0x80).view(np.int8)
    if expected.dtype == np.int8:
        return int((expected != got).sum())
    if last.name == "ARG_MAX":
        return int(expected[0] != got.argmax())
    inside = next(op for op in reversed(model.ops) if op.name == "DEQUANTIZE")
    t = model.tensors[inside.inputs[0]]
    real = (got.astype(np.float32) - t.zero_point) * np.float32(t.scale)
    if last.name in ("SOFTMAX", "LOG_SOFTMAX"):  # in floating point, where libraries round otherwise
        logs = real - real.max() - np.log(np.exp(real - real.max()).sum())
        real = np.exp(logs) if last.name == "SOFTMAX" else logs
        return int((np.abs(real - expected) > 1e-5).sum())
    return int((real != expected).sum())


def by_operator(rows: list[dict[str, Any]]) -> Counter[str]:
    """How many refusals name which operator."""
    names = (r["why"].split("(", 1)[-1].split(",", 1)[0] for r in rows if r["why"])
    return Counter(names)


def parts(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """As tables: what converts, what is refused."""
    keys = ("file", "input", "converts", "exact", "head", "arena_bytes")
    total = f"{rows[-1]['converts']} of {rows[-1]['file']} convert, {rows[-1]['exact']} with the same bytes"
    refused = [{"file": r["file"], "why": r["why"]} for r in rows[:-1] if r["why"]]
    return [
        (total, [{k: r[k] for k in keys} for r in rows[:-1]]),
        *([("refused", refused)] if refused else []),
    ]


__all__ = ["by_operator", "files", "parts", "row", "run"]
