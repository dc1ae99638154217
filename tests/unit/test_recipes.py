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
    "mnist_cnn": [],
    "dscnn_fsdd": [],
    "resnet8": [],
    "mobilenet_v1": ["--size", "96"],
    "mobilenet_v2": ["--size", "32"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_graph_converts_and_runs(name, tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")
    out = tmp_path / "model.tflite"
    command = [
        sys.executable,
        str(ROOT / "models" / name / "recipe.py"),
        "--epochs",
        "0",
        "--out",
        str(out),
        *RECIPES[name],
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    converted = convert_bytes(out.read_bytes(), source=name)
    assert converted.cut.dims[-1] == 10 and len(converted.cuts) >= (
        1 if name == "resnet8" else 2
    )  # a residual ends what is trainable
    x = np.random.default_rng(1).integers(
        -128, 128, (2, ModelFile(out.read_bytes()).tensors[0].size), np.int8
    )
    second = convert_bytes(out.read_bytes(), source=name, cut=str(converted.cuts[:2][-1].op))
    engine, p = Engine(second.package), open_package(second.package)
    logits = p.head.logits(p.params, engine.run_batch(np.resize(x, (2, p.input_size))))
    assert logits.shape == (2, 10) and np.isfinite(logits).all()


BROKEN_OFF = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from common import fit, seeded_tensorflow
tf = seeded_tensorflow(1, onednn=True)
x = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3), np.uint8)
y = np.arange(40) % 3
settings = {"lr": 1e-2, "batch": 8, "warm": 0.2, "flip": True, "shift": 2, "resize": 16}
start, save = None, tf.keras.Model.save

def net():
    global start
    tf.keras.backend.clear_session()
    layers = tf.keras.layers
    new = tf.keras.Sequential([layers.Input((16, 16, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, 2, use_bias=False),
                               layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dense(3),
                               layers.Softmax()])
    start = start or new.get_weights()
    new.set_weights(start)
    return new

def broken(self, path):
    if int(self.optimizer.iterations) > 5:
        raise KeyboardInterrupt
    save(self, path)

with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
    whole = fit(tf, net(), x, y, 3, Path(a) / "m.tflite", **settings).get_weights()
    tf.keras.Model.save = broken
    try:
        fit(tf, net(), x, y, 3, Path(b) / "m.tflite", **settings)
        raise SystemExit("was not broken off")
    except KeyboardInterrupt:
        pass
    tf.keras.Model.save = save
    parts = fit(tf, net(), x, y, 3, Path(b) / "m.tflite", **settings).get_weights()
    again = fit(tf, net(), x, y, 3, Path(b) / "m.tflite", **settings).get_weights()
    other = fit(tf, net(), x[::-1], y, 3, Path(b) / "m.tflite", **settings).get_weights()
    for kept in Path(b).glob("training-*.keras"):
        kept.write_bytes(b"junk")
    try:
        fit(tf, net(), x, y, 3, Path(b) / "m.tflite", **settings)
        raise AssertionError("took junk")
    except SystemExit as error:
        assert "delete it to begin anew" in str(error)
assert all(p.tobytes() == q.tobytes() == r.tobytes() for p, q, r in zip(whole, parts, again, strict=True))
assert any(p.tobytes() != q.tobytes() for p, q in zip(whole, start, strict=True))
assert any(p.tobytes() != q.tobytes() for p, q in zip(whole, other, strict=True))
"""


def test_a_training_that_was_broken_off_goes_on_to_the_same_weights():
    """Broken off while its second epoch is kept: it goes on after the first, byte for byte; other data begin
    anew."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF, str(ROOT / "models")], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        done.stdout.count("goes on after epoch 1 of 3") == 1
        and done.stdout.count("goes on after epoch 3 of 3") == 1
    )
