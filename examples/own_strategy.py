"""A strategy of your own: the median of the deltas instead of their mean (Yin et al., ICML 2018).

    python examples/own_strategy.py

One of six boards has wrong labels. The mean takes its delta in, the median leaves it out. quantfl offers the
median by name as well (strategy.aggregator); here is all that it takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import quantfl
from quantfl.core.codec import decode
from quantfl.data import load
from quantfl.strategy.base import Contribution, Snapshot
from quantfl.strategy.registry import Options, register
from quantfl.strategy.server_optimizers import ServerSgd

MODEL = Path(__file__).resolve().parents[1] / "models/digits/digits_int8.tflite"


class Median:
    """An aggregator: for every parameter the median over the clients, whatever their numbers of samples."""

    needs = "each"  # it must see every delta; sums of deltas are not enough

    def __init__(self, head):
        self.head = head

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """The median delta, float64 [params]."""
        if not contributions:
            return None
        deltas = [decode(c.data, self.head.tensors, c.agreed) for c in contributions]
        return np.median(deltas, axis=0).astype(np.float64)

    def state(self) -> Snapshot:
        return Snapshot()  # it remembers nothing

    def restore(self, snapshot: Snapshot) -> None:
        pass


@register("my-median", Options)
def my_median(parts, options):
    """The strategy: the usual optimizer, with another aggregator."""
    return parts.compose(ServerSgd(1.0), Median(parts.head))


with tempfile.TemporaryDirectory() as folder:
    digits, data = load("digits"), Path(folder) / "data.npz"
    board = np.arange(len(digits.x_train)) % 6
    y = np.where(board == 5, 9 - digits.y_train, digits.y_train)
    np.savez(data, x=digits.x_train, y=y, groups=board, x_test=digits.x_test, y_test=digits.y_test)
    for name in ("fedavg", "my-median"):
        run = quantfl.run(
            {
                "run": {"rounds": 8},
                "model": {"path": str(MODEL)},
                "fleet": {"emulate": "inproc", "boards": 6},
                "data": {"name": f"npz:{data}", "split": "by-group"},
                "train": {"lr": 0.003, "momentum": 0.9, "epochs": 4},
                "start": {"how": "none"},
                "uplink": {"codec": "fp32"},  # most values of a coded delta are 0, and so is their median
                "strategy": {"name": name},
            }
        )
        print(f"{name:10} {run.accuracy:.3f}")
