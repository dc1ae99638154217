"""Data of your own: arrays in an .npz file, divided between boards by who made them.

    python examples/own_data.py [FILE.npz]

FILE: arrays x, y, x_test, y_test, and groups for the split. Without it, a file is made from scikit-learn's
digits, and twelve people are made up who wrote them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import quantfl

MODEL = Path(__file__).resolve().parents[1] / "models/digits/digits_int8.tflite"


def make(path: Path) -> None:
    """Write the arrays. x is in the units of the model's calibration, here 0 to 255."""
    digits = load_digits()
    x = (digits.images * (255 / 16)).astype(np.float32)  # [1797, 8, 8]
    y = digits.target  # [1797], classes 0 to 9
    writer = np.arange(len(x)) % 12
    np.savez(path, x=x[:1200], y=y[:1200], groups=writer[:1200], x_test=x[1200:], y_test=y[1200:])


def federate(path: Path) -> None:
    """Train on twelve boards, each of which holds the samples of one writer."""
    run = quantfl.run(
        {
            "run": {"rounds": 5},
            "model": {"path": str(MODEL)},
            "fleet": {"emulate": "inproc", "boards": 12},
            "data": {"name": f"npz:{path}", "split": "by-group"},
            "train": {"lr": 0.003, "momentum": 0.9, "epochs": 4},
        }
    )
    for round_, accuracy in run.history.curve("accuracy"):
        print(f"round {round_:2}  accuracy {accuracy:.3f}")


if len(sys.argv) > 1:
    federate(Path(sys.argv[1]))
else:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "mine.npz"
        make(made)
        federate(made)
