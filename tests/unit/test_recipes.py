"""Every recipe's graph, untrained, goes through the converter, the engine and every cut."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.package.convert import convert_bytes
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import open_package
from tests.support import ROOT

RECIPES = {
    "mnist_cnn": [], "dscnn_fsdd": [], "resnet8": [], "mobilenet_v1": ["--size", "96"], "mobilenet_v2": ["--size", "32"],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_graph_converts_and_runs(name, tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")
    out = tmp_path / "model.tflite"
    command = [sys.executable, str(ROOT / "models" / name / "recipe.py"), "--epochs", "0", "--out", str(out), *RECIPES[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    converted = convert_bytes(out.read_bytes(), source=name)
    assert converted.cut.dims[-1] == 10 and len(converted.cuts) >= (1 if name == "resnet8" else 2)  # a residual ends what is trainable
    x = np.random.default_rng(1).integers(-128, 128, (2, ModelFile(out.read_bytes()).tensors[0].size), np.int8)
    second = convert_bytes(out.read_bytes(), source=name, cut=str(converted.cuts[:2][-1].op))
    engine, p = Engine(second.package), open_package(second.package)
    logits = p.head.logits(p.params, engine.run_batch(np.resize(x, (2, p.input_size))))
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
