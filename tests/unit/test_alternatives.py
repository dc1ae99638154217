"""Ideal code lengths and the trellis of `quantfl bench alternatives`, against what is known of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from quantfl.core.codec import Codec, Form, dz_write
from quantfl_lab.bench import ideal, trellis
from quantfl_lab.bench.alternatives import DeadZone, Sample
from quantfl_lab.rivals.buckets import Ours

SHAPES = ((64, 10), (10,))


def symbols(seed: int, p: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    s = rng.geometric(0.6, 650) * rng.choice((-1, 1), 650)
    return np.where(rng.random(650) < p, s, 0)


def test_independent_symbols_cost_their_entropy():
    p = 0.1
    told = [ideal.decisions(symbols(i, p), SHAPES, near=False) for i in range(200)]
    zero = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    magnitude = -(0.6 * math.log2(0.6) + 0.4 * math.log2(0.4)) / 0.6  # of a geometric distribution
    assert ideal.bits(told).mean() / 650 == pytest.approx(zero + p * (1 + magnitude), rel=0.03)


def test_a_context_that_tells_all_costs_next_to_nothing():
    told = [
        ideal.decisions(s, SHAPES, zero=s != 0, sign=np.sign(s) + 1)
        for s in (np.sign(symbols(i)) for i in range(40))
    ]
    plain = [ideal.decisions(np.sign(symbols(i)), SHAPES) for i in range(40)]
    assert ideal.bits(told).sum() < 0.2 * ideal.bits(plain).sum()


def test_ideal_lengths_are_near_the_real_coder():
    s = [symbols(i, 0.2) for i in range(30)]
    real = sum(8 * len(dz_write(x, Form(160), [640, 10])) for x in s)
    assert ideal.bits([ideal.decisions(x, SHAPES) for x in s]).sum() == pytest.approx(real, rel=0.12)


def test_one_message_is_refused():
    with pytest.raises(ValueError, match="other half"):
        ideal.bits([ideal.decisions(symbols(1), SHAPES)])


def test_the_trellis_finds_the_best_path():
    rng = np.random.default_rng(3)
    x, step, lam = rng.normal(0, 1, (6, 5)), 0.7, 0.4
    cost = np.array([[0.5, 2, 4, 6], [0.4, 2.5, 4, 6]])

    def total(row: np.ndarray, k: np.ndarray) -> float:
        value, odd = trellis.decode(k[None], step)
        told = cost[odd[0].astype(int), np.minimum(np.abs(k), 3)]
        return float(((row - value[0]) ** 2 + lam * told).sum())

    found = trellis.encode(x, step, lam, cost)
    for row, k in zip(x, found, strict=True):
        best = min(total(row, np.array(path)) for path in itertools.product(range(-4, 5), repeat=5))
        assert total(row, k) == pytest.approx(best)


def test_a_dead_zone_of_half_a_step_is_dz():
    x = np.random.default_rng(5).laplace(size=650).astype(np.float32)
    ours, mine = Ours(Codec("dz", step=2)), DeadZone(2.0)
    assert mine.encode(x, SHAPES, {"fresh": x}, 0) == ours.encode(x, SHAPES, {"fresh": x}, 0)
    data = DeadZone(2.0, 0.75, 0.1).encode(x, SHAPES, {}, 0)
    decoded = DeadZone(2.0, 0.75, 0.1).decode(data, SHAPES, 0)
    assert (decoded != 0).sum() < (ours.decode(ours.encode(x, SHAPES, {}, 0), SHAPES, 0) != 0).sum()


def test_dz_saves_nothing_against_itself():
    x = np.array([np.random.default_rng(i).laplace(size=650) for i in range(8)])
    s = Sample("test", 4.0, SHAPES, x, np.zeros_like(x), np.full(8, 2.0), 0)
    k = np.sign(x) * np.floor(np.abs(x) / 2 + 0.5)
    assert s.saved(s.bits(k.astype(int)), s.nmse(2 * k)) == pytest.approx(0, abs=1e-9)
    assert s.saved(1.0, 1.5) is None
