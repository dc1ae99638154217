"""Sufficient statistics that no honest board can send, each of which once ended a run or chose its head."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from quantfl.core.codec import Form, decode, dz_quantise, dz_step, dz_write
from quantfl.core.head import Head
from quantfl.strategy.closed_form import StatsSpec, solve
from quantfl.strategy.statistics_admission import BoardStatistics, admit
from tests.unit.test_closed_form import answer, gaussians

D, K, SPEC = 10, 4, StatsSpec(0.4, 0.4)


def fp32(x: np.ndarray) -> bytes:
    return b"\0" + np.asarray(x, "<f4").tobytes()


def parts(data: bytes) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    n, a, b = struct.unpack_from("<HII", data)
    upper = decode(data[10 : 10 + a], [D * (D + 1) // 2]).astype(float)
    sums = decode(data[10 + a : 10 + a + b], [D * K]).astype(float)
    return n, upper, sums, decode(data[10 + a + b :], [K]).astype(float)


def packed(n: int, upper, sums, counts) -> bytes:
    coded = [fp32(x) for x in (upper, sums, counts)]
    return struct.pack("<HII", n & 0xFFFF, len(coded[0]), len(coded[1])) + b"".join(coded)


def honest(i: int, classes: list[int] | None = None) -> bytes:
    q, y = gaussians(np.random.default_rng(100 + i), 40, spread=6.0)
    if classes is not None:
        keep = np.isin(y, classes)
        q, y = np.ascontiguousarray(q[keep]), y[keep]
    return answer(q, y, K, 0, 0.02)


def flipped(n, up, su, c, rng):
    return packed(n, up, -su, c)


def rotated(n, up, su, c, rng):
    return packed(n, up, np.roll(su.reshape(D, K), 1, axis=1), np.roll(c, 1))


def rotated_many(n, up, su, c, rng):
    factor = 65535 / c.sum()
    many = np.floor(np.roll(c, 1) * factor)
    many[0] += 65535 - many.sum()
    return packed(65535, up * 0.01, np.roll(su.reshape(D, K), 1, axis=1) * factor, many)


def huge_scatter(n, up, su, c, rng):
    return packed(n, np.full_like(up, 3e38), su, c)


def negative_scatter(n, up, su, c, rng):
    return packed(n, np.full_like(up, -3e38), su, c)


def huge_sums(n, up, su, c, rng):
    return packed(n, up, np.where(rng.random(su.size) < 0.5, 3e38, -3e38), c)


def fractional(n, up, su, c, rng):
    return packed(n, up, su, c + rng.random(K) * 0.01)


def cancelling(n, up, su, c, rng):
    return packed(n, up, su, np.array([n + 1e9, -1e9, 0, 0]))


def nan_counts(n, up, su, c, rng):
    return packed(n, up, su, np.where(np.arange(K) == 0, np.nan, c))


def nan_scatter(n, up, su, c, rng):
    return packed(n, np.where(np.arange(up.size) == 0, np.nan, up), su, c)


def infinite_sums(n, up, su, c, rng):
    return packed(n, up, np.full_like(su, np.inf), c)


def nothing(n, up, su, c, rng):
    return packed(n, up * 0, su * 0, c)


def indefinite(n, up, su, c, rng):
    matrix = np.zeros((D, D))
    matrix[np.triu_indices(D)] = up
    matrix[0, 1] = 100 * abs(matrix[0, 0])
    return packed(n, matrix[np.triu_indices(D)], su, c)


ATTACKS = [
    flipped,
    rotated,
    rotated_many,
    huge_scatter,
    negative_scatter,
    huge_sums,
    fractional,
    cancelling,
    nan_counts,
    nan_scatter,
    infinite_sums,
    nothing,
    indefinite,
]


def judged(answers: list[bytes], known: int = 0, **options):
    boards = [BoardStatistics(f"board-{i}", known, data) for i, data in enumerate(answers)]
    return admit(boards, SPEC, D, K, **options)


@pytest.mark.parametrize("liars", [1, 3])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("error")
def test_lies_are_refused_and_the_head_is_the_honest_boards(attack, liars):
    rng = np.random.default_rng(1)
    answers = [honest(i) for i in range(10)]
    lies = [attack(*parts(a), rng) for a in answers[:liars]]
    found = judged(lies + answers[liars:])
    assert set(found.refused) == {f"board-{i}" for i in range(liars)}
    assert all("\n" not in reason for reason in found.refused.values())
    alone = judged(answers[liars:]).statistics
    folds = [list(found.statistics.values())[i::2] for i in (0, 1)]
    total = [sum(f[1:], f[0]) for f in folds]
    params = solve(Head((D, K), 0.1, 0), SPEC, (total[0], total[1])).params
    assert len(alone) == len(found.statistics) == 10 - liars and np.isfinite(params).all()
    test = gaussians(rng, 400, spread=6.0)
    assert Head((D, K), 0.1, 0).evaluate(params, *test).accuracy > 0.95


@pytest.mark.parametrize("split", [None, [0, 1], [2]], ids=["all classes", "two classes", "one class"])
def test_honest_boards_are_admitted_however_uneven_their_data(split):
    answers = [honest(i) for i in range(6)] + [honest(i, split) for i in range(6, 9)]
    assert judged(answers).refused == {}


def test_a_claim_nobody_can_check_counts_for_twice_the_median():
    q, y = gaussians(np.random.default_rng(5), 4000, spread=6.0)
    answers = [honest(i) for i in range(8)] + [answer(q, y, K, 0, 0.02)]
    found = judged(answers)
    assert not found.refused and found.statistics["board-8"].counts.sum() == pytest.approx(80)
    assert judged(answers, max_samples=500).statistics["board-8"].counts.sum() == pytest.approx(500)
    known = [BoardStatistics(f"board-{i}", 4000, data) for i, data in enumerate(answers)]
    assert admit(known, SPEC, D, K).statistics["board-8"].counts.sum() == 4000  # the host fed them: no claim
    few = admit([BoardStatistics("a", 39, honest(1))], SPEC, D, K)
    assert "claims 40 samples, but holds 39" in few.refused["a"]


def test_coarse_statistics_of_honest_boards_are_admitted():
    """Rounding at the default steps breaks no bound, whatever the features are."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, k = int(rng.integers(2, 60)), int(rng.integers(1, K + 1))
        q = np.clip(np.rint(rng.normal(rng.normal() * 60, rng.uniform(1, 60), (n, D))), -128, 127).astype(
            np.int8
        )
        y = rng.integers(0, k, n)
        a = q.astype(float) + 128
        sums = np.stack([a[y == c].sum(0) for c in range(K)], 1)
        counts = np.bincount(y, minlength=K).astype(float)
        centred = a - (sums / np.maximum(counts, 1)).T[y]
        upper = (centred.T @ centred)[np.triu_indices(D)].astype(np.float32)
        scale = [
            max(1.0, 0.4 * np.trace(centred.T @ centred) / D),
            max(1.0, 0.4 * float(np.sqrt((sums**2).mean()))),
            1.0,
        ]
        codes = [dz_step(np.float32([s]), 1.0) for s in scale]
        values = (upper, sums.reshape(-1).astype(np.float32), counts.astype(np.float32))
        coded = [dz_write(dz_quantise(v, c), Form(c), [v.size]) for v, c in zip(values, codes, strict=True)]
        data = struct.pack("<HII", n, len(coded[0]), len(coded[1])) + b"".join(coded)
        assert judged([data]).refused == {}
