"""A start in closed form: the boards' integer sums against numpy, what the host makes of them, the ridge,
malformed answers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import ffi, lib
from quantfl.core.codec import CodecError, Form, dz_quantise, dz_step, dz_write
from quantfl.core.head import Head
from quantfl.strategy import closed_form
from quantfl.strategy.closed_form import StatsSpec, Sums, estimate, rounding_step, solve


def c_sums(q: np.ndarray, y: np.ndarray, classes: int, zero: int, dims: int = 0, seed: int = 1):
    """sums [d][K], counts [K], scatter's upper triangle as rows, by qfl_head_stats."""
    features, d = q.shape[1], dims or q.shape[1]
    data, stats = ffi.new("qfl_head_data *"), ffi.new("qfl_head_stats *")
    labels = np.ascontiguousarray(y, np.uint16)
    data.q, data.labels = ffi.from_buffer("int8_t[]", q), ffi.from_buffer("uint16_t[]", labels)
    data.count, data.scale, data.zero_point = len(y), 1.0, zero
    out, row = np.zeros((d + 1) * classes, np.int32), np.zeros(d, np.int32)
    status = lib.qfl_head_stats_begin(
        stats, data, features, classes, dims, seed, ffi.from_buffer("int32_t[]", out)
    )
    assert status == 0
    rows = []
    for i in range(d):
        lib.qfl_head_stats_row(stats, i, ffi.from_buffer("int32_t[]", row))
        rows.append(row[: d - i].copy())
    return (
        out[: d * classes].reshape(d, classes),
        out[d * classes :],
        rows,
        lib.qfl_head_stats_diagonal(stats),
    )


def sketched(a: np.ndarray, d: int, seed: int) -> np.ndarray:
    shift = 0
    while d << shift < a.shape[1]:
        shift += 1
    signs = np.array([lib.qfl_head_stats_sign(f, seed) for f in range(a.shape[1])])
    out = np.zeros((len(a), d), np.int64)
    for f in range(a.shape[1]):
        out[:, f % d] += signs[f] * a[:, f]
    return np.fix(out / 2**shift).astype(np.int64)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(-128, 127),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_sums_are_numpys(seed, n, features, classes, zero, sketch):
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (n, features)).astype(np.int8)
    y = rng.integers(0, classes, n)
    dims = int(rng.integers(1, features + 1)) if sketch else 0
    sums, counts, rows, diagonal = c_sums(q, y, classes, zero, dims, seed)
    a = q.astype(np.int64) - zero
    if dims and dims != features:
        a = sketched(a, dims, seed)
    one_hot = np.eye(classes, dtype=np.int64)[y]
    assert (sums == a.T @ one_hot).all() and (counts == one_hot.sum(0)).all()
    terms = sums[:, None, :] * sums[None, :, :]
    between = np.where(terms == 0, 0, np.fix(terms / np.maximum(counts, 1))).sum(-1).astype(np.int64)
    scatter = a.T @ a - between
    for i, row in enumerate(rows):
        assert (row == scatter[i, i:]).all()
    assert diagonal == pytest.approx(np.trace(scatter) / len(scatter), abs=1)


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(1)
    q, y = rng.integers(-128, 128, (60, 9)).astype(np.int8), rng.integers(0, 4, 60)
    order = rng.permutation(60)
    a, b = c_sums(q, y, 4, -128), c_sums(np.ascontiguousarray(q[order]), y[order], 4, -128)
    assert (
        (a[0] == b[0]).all()
        and (a[1] == b[1]).all()
        and all((x == z).all() for x, z in zip(a[2], b[2], strict=True))
    )


def answer(q: np.ndarray, y: np.ndarray, classes: int, zero: int, steps: float = 1e-3) -> bytes:
    """What a board answers to STATS, from its sums; steps: in units of diagonal and root mean square."""
    sums, counts, rows, diagonal = c_sums(q, y, classes, zero)
    upper = np.concatenate(rows).astype(np.float32)
    codes = [
        dz_step(np.float32([max(1.0, steps * diagonal)]), 1.0),
        dz_step(np.float32([1.0]), 1.0),
        dz_step(np.float32([1.0]), 1.0),
    ]
    parts = [upper, sums.reshape(-1).astype(np.float32), counts.astype(np.float32)]
    coded = [dz_write(dz_quantise(x, c), Form(c), [x.size]) for x, c in zip(parts, codes, strict=True)]
    return struct.pack("<HII", len(y), len(coded[0]), len(coded[1])) + b"".join(coded)


def gaussians(rng, n: int, classes: int = 4, features: int = 10, spread: float = 12.0):
    means = np.random.default_rng(99).normal(size=(classes, features)) * 14
    y = rng.integers(0, classes, n)
    q = np.clip(np.rint(means[y] + rng.normal(size=(n, features)) * spread), -128, 127).astype(np.int8)
    return q, y


def test_sums_and_counts_are_the_whole_sets_under_any_split():
    """Sums and counts of all boards are those of all data; the scatter is the one pooled within classes and
    boards."""
    rng = np.random.default_rng(2)
    q, y = gaussians(rng, 300)
    whole = Sums(10, 4)
    whole.add(answer(q, y, 4, 0))
    for parts in (np.array_split(np.argsort(y, kind="stable"), 5), np.array_split(rng.permutation(300), 7)):
        total = Sums(10, 4)
        for p in parts:
            one = Sums(10, 4)
            assert one.add(answer(np.ascontiguousarray(q[p]), y[p], 4, 0)) == len(p)
            total = total + one
        assert (total.sums == whole.sums).all() and (total.counts == whole.counts).all()
        expected = np.zeros((10, 10))
        for p in parts:
            for k in np.unique(y[p]):
                a = q[p][y[p] == k].astype(float)
                expected += (a - a.mean(0)).T @ (a - a.mean(0))
        np.testing.assert_allclose(total.scatter, expected, atol=40 * len(parts))


def test_the_head_separates_what_can_be_separated():
    rng = np.random.default_rng(3)
    head, folds = Head((10, 4), 0.1, 0), (Sums(10, 4), Sums(10, 4))
    for i in range(8):
        folds[i % 2].add(answer(*gaussians(rng, 40, spread=6.0), 4, 0, 0.02))
    found = solve(head, StatsSpec(), folds)
    params, ridge = found.params, found.ridge
    test = gaussians(rng, 500, spread=6.0)
    assert ridge in closed_form.RIDGES and head.evaluate(params, *test).accuracy > 0.95
    step = rounding_step(head, *folds)
    rounded = (np.rint(params / step) * step).astype(np.float32)
    assert abs(head.evaluate(rounded, *test).accuracy - head.evaluate(params, *test).accuracy) < 0.02


def test_the_ridge_is_the_one_that_predicts_the_other_half_best(monkeypatch):
    """It is chosen from the folds alone, symmetrically, and grows where there are few samples."""
    rng = np.random.default_rng(4)

    def folds(n: int) -> tuple[Sums, Sums]:
        pair = Sums(10, 4), Sums(10, 4)
        for f in pair:
            f.add(answer(*gaussians(rng, n, spread=40.0), 4, 0))
        return pair

    few, many = folds(14), folds(4000)
    assert closed_form.choose_ridge(few) == closed_form.choose_ridge(few[::-1])
    assert closed_form.choose_ridge(few) > closed_form.choose_ridge(many)
    errors = {
        r: closed_form._squared_error(r, *few) + closed_form._squared_error(r, *few[::-1])
        for r in closed_form.RIDGES
    }
    assert closed_form.choose_ridge(few) == min(errors, key=errors.get)
    assert closed_form.choose_ridge((few[0], Sums(10, 4))) == 0.1  # nobody to predict


def test_the_error_from_sums_is_the_error_on_the_samples():
    """_squared_error needs no sample: it equals one-hot ridge regression's mean squared error computed
    directly."""
    rng = np.random.default_rng(5)
    (qa, ya), (qb, yb) = gaussians(rng, 200), gaussians(rng, 150)
    seen, held = Sums(10, 4), Sums(10, 4)
    seen.add(answer(qa, ya, 4, 0, 1e-6))
    held.add(answer(qb, yb, 4, 0, 1e-6))
    a, b, onehot = qa.astype(float), qb.astype(float), np.eye(4)
    unit = np.trace(seen.scatter / 200) / 10
    centred = a - a.mean(0)
    kernel = np.linalg.solve(
        centred.T @ centred / 200 + 0.3 * unit * np.eye(10), centred.T @ onehot[ya] / 200
    )
    direct = ((b @ kernel + onehot[ya].mean(0) - a.mean(0) @ kernel - onehot[yb]) ** 2).sum(1).mean()
    assert closed_form._squared_error(0.3, seen, held) == pytest.approx(direct, rel=5e-3)


def test_a_class_nobody_has_is_never_told():
    rng = np.random.default_rng(6)
    q, y = gaussians(rng, 200)
    folds = (Sums(10, 6), Sums(10, 6))
    for i, f in enumerate(folds):
        f.add(answer(q[i::2].copy(), y[i::2], 6, 0))
    head = Head((10, 6), 0.1, 0)
    params = solve(head, StatsSpec(), folds).params
    assert np.isfinite(params).all()
    assert set(head.logits(params, q).argmax(1)) <= {0, 1, 2, 3}


def hands(rng: np.random.Generator, boards: int, own: float) -> tuple[Sums, Sums]:
    """Two folds of boards whose classes lie about the same means; own: how far each board's means of its own
    lie from them."""
    common, folds = np.random.default_rng(8).normal(0, 12, (4, 10)), (Sums(10, 4), Sums(10, 4))
    for i in range(boards):
        mine, y = common + rng.normal(0, own, common.shape), rng.integers(0, 4, 60)
        folds[i % 2].add(
            answer(np.clip(np.rint(rng.normal(mine[y], 12)), -128, 127).astype(np.int8), y, 4, 0, 0.02)
        )
    return folds


def test_a_head_is_as_sure_as_boards_not_seen_bear_out(monkeypatch):
    """Alike boards: the logits stand as they are. Where each has means of its own, they are scaled to what
    minimises the log loss on other boards, which the sums of both halves tell; further apart still, the head
    is not to be trusted."""
    monkeypatch.setattr(closed_form, "SUREST", 1.0)
    head, spec = Head((10, 4), 0.1, 0), StatsSpec()
    same, other, far = (
        solve(head, spec, hands(np.random.default_rng(9), 40, own)) for own in (0.0, 9.0, 24.0)
    )
    assert 0.9 < same.calibration <= 1 and same.trusted
    assert same.calibration > other.calibration > far.calibration and not far.trusted
    rng, common = np.random.default_rng(10), np.random.default_rng(8).normal(0, 12, (4, 10))
    y = rng.integers(0, 4, 6000)
    q = np.clip(np.rint(rng.normal(common[y] + rng.normal(0, 9.0, (len(y), 10)), 12)), -128, 127).astype(
        np.int8
    )
    logits = head.logits(other.params, q).astype(np.float64)

    def loss(scale: float) -> float:
        z = logits * scale
        z -= z.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]))

    assert loss(1.0) < loss(1.4) and loss(1.0) < loss(1 / other.calibration) and loss(1.0) < loss(0.6)
    assert closed_form.calibration(0.1, (hands(rng, 4, 0.0)[0], Sums(10, 4))) == 1.0  # nobody to ask


def test_a_head_that_may_be_sure_is_held_back_for_the_rounds_that_follow(monkeypatch):
    """Its predictions stay, its logits are SUREST times what they would be; one that is less sure is left as
    it is."""
    head, spec = Head((10, 4), 0.1, 0), StatsSpec()
    held = [solve(head, spec, hands(np.random.default_rng(9), 40, own)) for own in (0.0, 24.0)]
    monkeypatch.setattr(closed_form, "SUREST", 1.0)
    free = [solve(head, spec, hands(np.random.default_rng(9), 40, own)) for own in (0.0, 24.0)]
    assert held[0].calibration == free[0].calibration > 0.9 and free[1].calibration < 0.5
    np.testing.assert_allclose(held[0].params * free[0].calibration, free[0].params * 0.5, rtol=1e-5)
    assert (held[1].params == free[1].params).all()


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_nonsense_is_refused(data):
    with pytest.raises(CodecError):
        Sums(10, 4).add(data)


def test_damaged_answers_are_refused_and_leave_nothing_behind():
    rng = np.random.default_rng(7)
    good = answer(*gaussians(rng, 30), 4, 0)
    for bad in (good[:9], good[:40], good[:-1], b"\x05\0" + good[2:], good + b"\1" * 9, b"\0\0" + good[2:]):
        sums = Sums(10, 4)
        with pytest.raises(CodecError):
            sums.add(bad)
        assert (
            not sums.scatter.any() and not sums.means.any() and not sums.sums.any() and not sums.counts.any()
        )


def test_the_estimate_follows_boards_rounds_and_head():
    small, large, spec = Head((16, 4), 0.1, 0), Head((128, 10), 0.1, 0), StatsSpec()
    assert estimate(large, spec, 20, 50, 10, 20)[0] > 10 * estimate(small, spec, 20, 50, 10, 20)[0]
    assert estimate(large, spec, 20, 50, 10, 20)[1] == pytest.approx(
        10 * estimate(large, spec, 20, 5, 10, 20)[1], rel=1e-3
    )
    assert (
        estimate(large, StatsSpec(dims=16), 20, 50, 10, 20)[0] < estimate(large, spec, 20, 50, 10, 20)[0] / 2
    )
    # every board of a large fleet must be led to the new head, but only those that take part
    assert estimate(large, spec, 20, 50, 10, 400)[0] > 4 * estimate(large, spec, 20, 50, 10, 20)[0]
    assert estimate(large, spec, 20, 2, 10, 400)[0] == estimate(large, spec, 20, 2, 10, 10)[0]
    assert StatsSpec(0.4, 0.4, 32, 7).request() == struct.pack("<BBHI", 6, 6, 32, 7)
