"""Pre-trained against random initialisation with nothing frozen: an MLP whose layers are all trained by the
boards' own head code.

The hidden layer is pre-trained at the host on another domain (digits: scikit-learn's upright digits, the
boards hold them turned by a quarter; mnist: FEMNIST's letters, the boards hold MNIST's digits), the last
layer starts fresh; or both layers start at random (He et al. 2015). Whether the paper trains all layers is
not known to us; its title and abstract speak of pre-trained initialisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quantfl.core.head import FitConfig, Head
from quantfl.data import load, split
from quantfl.data.dataset import digits_arrays
from quantfl.errors import DataError
from quantfl.fleet.config import DataTable, FleetTable, ModelTable, RunConfig, RunTable, TrainTable
from quantfl_lab.bench.setting import Setting

HIDDEN = 32
STARTS = ("pre-trained", "random")
RATES = (0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Domain:
    """x int8 [n, F] with zero-point -128 and scale 1/255, y [n]: for pre-training, for boards, for
    testing."""

    before: tuple[np.ndarray, np.ndarray]
    boards: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def _int8(images: np.ndarray) -> np.ndarray:
    """Pixels 0..255 to int8 [n, F]."""
    return (np.rint(images).clip(0, 255).reshape(len(images), -1) - 128).astype(np.int8)


def _halved(images: np.ndarray) -> np.ndarray:
    """28x28 to 14x14 by means of four."""
    x = images.reshape(len(images), 14, 2, 14, 2).astype(np.float32)
    return x.mean((2, 4))


def _digits() -> Domain:
    x, y = digits_arrays()
    turned = np.rot90(x, axes=(1, 2))
    return Domain(
        (_int8(x[:600]), y[:600]), (_int8(turned[600:1497]), y[600:1497]), (_int8(turned[1497:]), y[1497:])
    )


def _mnist() -> Domain:
    letters, digits = load("femnist-letters"), load("mnist")
    return Domain(
        (_int8(_halved(letters.x_train)), letters.y_train),
        (_int8(_halved(digits.x_train)), digits.y_train),
        (_int8(_halved(digits.x_test)), digits.y_test),
    )


@dataclass(frozen=True)
class Plan:
    """How a domain is federated."""

    domain: Callable[[], Domain]
    boards: int
    participation: float
    rounds: int
    samples: int | None
    epochs_before: int


PLANS = {
    "digits": Plan(_digits, 8, 1.0, 30, None, 40),
    "mnist": Plan(_mnist, 100, 0.1, 60, 200, 4),
}


@lru_cache(maxsize=2)
def _domain(task: str) -> Domain:
    return PLANS[task].domain()


def _he(rng: np.random.Generator, dims: tuple[int, ...]) -> np.ndarray:
    """Random parameters [params] of a head: kernels N(0, 2 / in), biases 0."""
    parts = [(rng.standard_normal((i, o)) * np.sqrt(2 / i), np.zeros(o)) for i, o in itertools.pairwise(dims)]
    return np.concatenate([np.concatenate([k.reshape(-1), b]) for k, b in parts]).astype(np.float32)


@lru_cache(maxsize=8)
def _pretrained(task: str, seed: int) -> np.ndarray:
    """The hidden layer's kernel and bias after pre-training."""
    x, y = _domain(task).before
    dims = (x.shape[1], HIDDEN, int(y.max()) + 1)
    head = Head(dims, 1 / 255, -128)
    fit = FitConfig(lr=0.1, momentum=0.9, epochs=PLANS[task].epochs_before, batch=32, seed=seed)
    w, _ = head.fit(_he(np.random.default_rng([seed, 1]), dims), x, y.astype(np.uint16), fit)
    return w[: dims[0] * HIDDEN + HIDDEN]


def setting(task: str, start: str, seed: int, rate: float, rounds: int | None = None) -> Setting:
    """start: "pre-trained" or "random"; the last layer is the same fresh one in both. DataError when the data
    are absent."""
    plan, domain = PLANS[task], _domain(task)
    x, y = domain.boards
    dims = (x.shape[1], HIDDEN, 10)
    params = _he(np.random.default_rng([seed, 2]), dims)
    if start == "pre-trained":
        hidden = _pretrained(task, seed)
        params[: hidden.size] = hidden
    parts = split("dirichlet:0.3", y, None, plan.boards, seed, per_client=plan.samples)
    config = RunConfig(
        model=ModelTable(path="none"),
        fleet=FleetTable(emulate="inproc", boards=plan.boards),
        run=RunTable(rounds=rounds or plan.rounds, seed=seed, participation=plan.participation),
        data=DataTable(name=task),
        train=TrainTable(lr=rate, epochs=2, batch=10),
    )
    clients = [(x[p], y[p].astype(np.uint16)) for p in parts]
    return Setting(config, Head(dims, 1 / 255, -128), params, clients, domain.test)


def tasks(quick: bool) -> list[str]:
    """digits alone when quick, or when there are no files of MNIST and FEMNIST."""
    if quick:
        return ["digits"]
    try:
        _domain("mnist")
    except DataError:
        return ["digits"]
    return ["digits", "mnist"]


def kurtosis(x: np.ndarray) -> float:
    """Excess kurtosis: 0 for normal values, 3 for Laplace's."""
    z = x.astype(np.float64) - x.mean(dtype=np.float64)
    return float((z**4).mean() / (z**2).mean() ** 2 - 3)


def entropy(x: np.ndarray, levels: int) -> float:
    """Order-0 entropy, bits per weight, of BU(levels)' indices: what coding them one by one cannot beat."""
    lo, hi = float(x.min()), float(x.max())
    index = np.minimum(((x.astype(np.float64) - lo) / ((hi - lo) / levels)).astype(np.int64), levels - 1)
    p = np.bincount(index) / x.size
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def spread(x: np.ndarray) -> float:
    """Width of all values in units of their root mean square: what BU divides into buckets."""
    return float((x.max() - x.min()) / np.sqrt(np.mean(x.astype(np.float64) ** 2)))
