"""The shipped model is what its recipe makes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from quantfl.package.flatfile import ModelFile
from tests.support import DEMO_MODEL, ROOT, need_digits


def test_the_recipe_rebuilds_the_shipped_model(tmp_path):
    """Bytes are equal on the same kind of processor. Elsewhere TensorFlow may round differently while
    training: then the structure must be equal and both models must classify alike (within 2 points of each
    other on either domain)."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra convert)")
    need_digits()
    out = tmp_path / "m.tflite"
    done = subprocess.run(
        [sys.executable, str(ROOT / "models" / "digits" / "recipe.py"), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours, shipped = out.read_bytes(), DEMO_MODEL.read_bytes()
    assert len(shipped) < 100_000
    if ours == shipped:
        return
    a, b = ModelFile(ours), ModelFile(shipped)
    assert [(o.name, o.inputs, o.outputs) for o in a.ops] == [(o.name, o.inputs, o.outputs) for o in b.ops]
    assert [(t.shape, t.dtype) for t in a.tensors] == [(t.shape, t.dtype) for t in b.tensors]
    from quantfl.data.dataset import load_digits
    from quantfl.data.quantise import to_int8
    from quantfl.fleet.finalise import stock_accuracy

    ds = load_digits(None)
    for images in (ds.x_test, np.rot90(ds.x_test, -1, axes=(1, 2))):
        scores = []
        for model, data in ((a, ours), (b, shipped)):
            t = model.tensors[model.inputs[0]]
            scores.append(stock_accuracy(data, to_int8(images, t.scale, t.zero_point, t.size), ds.y_test)[0])
        assert abs(scores[0] - scores[1]) <= 0.02
