"""qfl_head: gradients by finite differences, the step against a float64 statement, order of samples, exp and
log."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import ffi, lib
from quantfl.core.head import FitConfig, Head

SHAPES = [(7, 3), (16, 10), (5, 8, 4), (6, 9, 5, 3), (12, 1, 2), (33, 17)]


def make(dims: tuple[int, ...], seed: int = 1, n: int = 12):
    rng = np.random.default_rng(seed)
    head = Head(dims, 0.03, -7)
    w = (rng.normal(size=head.params) * 0.3).astype(np.float32)
    q = rng.integers(-128, 128, (n, dims[0]), np.int8)
    q[:, ::3] = -7  # zeros, as ReLU features have
    return head, w, q, rng.integers(0, dims[-1], n).astype(np.uint16)


def layers(dims, w):
    """Kernel [in, out] and bias of each layer as float64 views of a parameter vector."""
    at, out = 0, []
    for i, o in itertools.pairwise(dims):
        out.append((w[at : at + i * o].reshape(i, o), w[at + i * o : at + (i + 1) * o]))
        at += (i + 1) * o
    return out


def loss64(dims, w, x, label) -> float:
    for k, (kernel, bias) in enumerate(layers(dims, w)):
        x = x @ kernel + bias
        if k + 2 < len(dims):
            x = np.maximum(x, 0)
    x = x - x.max()
    return float(np.log(np.exp(x).sum()) - x[label])


def grad64(dims, w, x, label) -> np.ndarray:
    acts, stack = [x], layers(dims, w)
    for k, (kernel, bias) in enumerate(stack):
        x = x @ kernel + bias
        if k + 2 < len(dims):
            x = np.maximum(x, 0)
        acts.append(x)
    p = np.exp(x - x.max())
    d = p / p.sum()
    d[label] -= 1
    parts = []
    for k in range(len(stack) - 1, -1, -1):
        parts[:0] = [np.outer(acts[k], d).reshape(-1), d]
        d = (stack[k][0] @ d) * (acts[k] > 0)
    return np.concatenate(parts)


@pytest.mark.parametrize("dims", SHAPES)
def test_gradient_by_finite_differences(dims):
    head, w, q, y = make(dims)
    w64, x = w.astype(np.float64), (q[0].astype(np.float64) + 7) * 0.03
    _, g = head.gradient(w, q[0], int(y[0]))
    rng = np.random.default_rng(0)
    for i in rng.choice(head.params, min(head.params, 60), replace=False):
        e = 1e-5
        up, down = w64.copy(), w64.copy()
        up[i] += e
        down[i] -= e
        numeric = (loss64(dims, up, x, y[0]) - loss64(dims, down, x, y[0])) / (2 * e)
        assert abs(g[i] - numeric) < 1e-4 + 1e-3 * abs(numeric), (i, g[i], numeric)


@pytest.mark.parametrize("dims", SHAPES)
def test_gradient_and_loss_equal_backpropagation_in_float64(dims):
    head, w, q, y = make(dims, seed=5)
    for row, label in zip(q, y, strict=True):
        loss, g = head.gradient(w, row, int(label), 0.25)
        x = (row.astype(np.float64) + 7) * float(np.float32(0.03))
        assert math.isclose(loss, loss64(dims, w.astype(np.float64), x, label), rel_tol=1e-5, abs_tol=1e-5)
        np.testing.assert_allclose(
            g, 0.25 * grad64(dims, w.astype(np.float64), x, label), rtol=2e-4, atol=2e-6
        )


@pytest.mark.parametrize("dims", [(16, 10), (5, 8, 4)])
@pytest.mark.parametrize(
    ("momentum", "decay", "prox"), [(0, 0, 0), (0.9, 0, 0), (0.5, 0.01, 0), (0.9, 0.01, 0.1)]
)
def test_fit_equals_sgd_in_float64(dims, momentum, decay, prox):
    head, w, q, y = make(dims, n=23)
    config = FitConfig(lr=0.05, momentum=momentum, weight_decay=decay, prox=prox, epochs=3, batch=5, seed=9)
    got, loss = head.fit(w, q, y, config)
    w64, w0, v = w.astype(np.float64), w.astype(np.float64), np.zeros(head.params)
    x = (q.astype(np.float64) + 7) * float(np.float32(0.03))
    for epoch in range(3):
        order = [lib.qfl_head_order(9, epoch, 23, i) for i in range(23)]
        losses = []
        for at in range(0, 23, 5):
            batch = order[at : at + 5]
            losses += [loss64(dims, w64, x[i], y[i]) for i in batch]
            g = sum(grad64(dims, w64, x[i], y[i]) for i in batch) / len(batch)
            v = momentum * v + g + decay * w64 + prox * (w64 - w0)
            w64 = w64 - 0.05 * v
    np.testing.assert_allclose(got, w64, rtol=1e-3, atol=2e-5)
    assert math.isclose(loss, np.mean(losses), rel_tol=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(1, 700))
@settings(max_examples=150, deadline=None)
def test_order_is_a_permutation(seed, epoch, count):
    assert sorted(lib.qfl_head_order(seed, epoch, count, i) for i in range(count)) == list(range(count))


def test_order_depends_on_seed_and_epoch_and_looks_random():
    def order(seed, epoch):
        return [lib.qfl_head_order(seed, epoch, 500, i) for i in range(500)]

    assert order(1, 0) != order(2, 0) and order(1, 0) != order(1, 1)
    # Rank correlation with the identity over many seeds: a shuffle's is N(0, 1/499).
    ranks = np.arange(500)
    r = [np.corrcoef(ranks, order(s, 0))[0, 1] for s in range(200)]
    assert abs(np.mean(r)) < 0.02 and np.std(r) < 0.1


def one_at_a_time(
    head: Head, w: np.ndarray, q: np.ndarray, y: np.ndarray, config: FitConfig
) -> tuple[np.ndarray, float]:
    """The fit whose features are put down anew before every visit, which takes no two samples at once."""
    trained, v, row = w.copy(), np.empty_like(w), np.empty((1, q.shape[1]), np.int8)
    data, _keep = head._data(q, y)
    rows = ffi.from_buffer("int8_t[]", row)
    data.q, data.one_row = rows, 1
    c = ffi.new(
        "qfl_head_config *",
        {
            k: getattr(config, k)
            for k in ("lr", "momentum", "weight_decay", "prox", "epochs", "batch", "seed", "holdout")
        },
    )
    fit, scratch = ffi.new("qfl_head_fit *"), head._scratch()
    assert (
        lib.qfl_head_fit_begin(
            fit, head._shape, c, data, head._floats(trained), head._floats(w), head._floats(v), scratch
        )
        == 0
    )
    more = 1
    while more:
        row[0] = q[lib.qfl_head_fit_next(fit)]
        more = lib.qfl_head_fit_step(fit)
    return trained, fit.loss


@given(
    st.integers(1, 25),
    st.integers(1, 24),
    st.integers(1, 12),
    st.sampled_from([0, 0.3, 1]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None)
def test_two_samples_at_once_give_the_bytes_of_one_after_the_other(features, classes, batch, zeros, seed):
    rng = np.random.default_rng(seed)
    head = Head((features * int(rng.integers(1, 5)), classes), 0.03, -7)
    w = (rng.normal(size=head.params) * 0.3).astype(np.float32)
    n = int(rng.integers(3, 20))
    q, y = rng.integers(-128, 128, (n, head.dims[0]), np.int8), rng.integers(0, classes, n).astype(np.uint16)
    q[rng.random(q.shape) < zeros] = -7
    config = FitConfig(
        lr=0.05, momentum=0.9, epochs=2, batch=batch, seed=seed, holdout=int(rng.choice([0, 3]))
    )
    together, loss = head.fit(w, q, y, config)
    apart, expected = one_at_a_time(head, w, q, y, config)
    assert together.tobytes() == apart.tobytes() and loss == expected


def test_held_back_samples_do_not_train():
    head, w, q, y = make((16, 10), n=20)
    config = FitConfig(lr=0.1, epochs=2, batch=3, seed=4, holdout=4)
    got, _ = head.fit(w, q, y, config)
    q2, y2 = q.copy(), y.copy()
    q2[3::4], y2[3::4] = 99, (y[3::4] + 1) % 10
    again, _ = head.fit(w, q2, y2, config)
    assert got.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1},
        {"epochs": 0},
        {"batch": 0},
        {"holdout": 1},
    ],
)
def test_hyper_parameters_out_of_range_are_refused(bad):
    head, w, q, y = make((7, 3))
    with pytest.raises(ValueError, match="bounds"):
        head.fit(w, q, y, FitConfig(**({"lr": 0.1} | bad)))


def test_labels_out_of_range_are_refused():
    head, w, q, y = make((7, 3))
    y[5] = 3
    with pytest.raises(ValueError, match="bounds"):
        head.fit(w, q, y, FitConfig())


def test_exp_and_log_are_accurate():
    x = -np.abs(np.random.default_rng(1).normal(size=4000) * 20).astype(np.float32)
    x = x[x > -87]
    got = np.array([lib.qfl_head_exp(float(v)) for v in x], np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(got - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()
    z = np.exp(np.random.default_rng(2).normal(size=4000) * 10).astype(np.float32)
    got = np.array([lib.qfl_head_log(float(v)) for v in z], np.float32)
    exact = np.log(z.astype(np.float64))
    assert (np.abs(got - exact) <= 2 * np.spacing(np.abs(exact).astype(np.float32)) + 1e-7).all()
    assert lib.qfl_head_exp(-200.0) == 0.0 and lib.qfl_head_exp(0.0) == 1.0 and lib.qfl_head_log(1.0) == 0.0


def test_evaluate_counts_like_argmax():
    head, w, q, y = make((33, 17), n=200)
    score = head.evaluate(w, q, y)
    logits = head.logits(w, q)
    assert score.count == 200 and score.correct == int((logits.argmax(1) == y).sum())
    x = (q.astype(np.float64) + 7) * float(np.float32(0.03))
    assert math.isclose(
        score.loss,
        np.mean([loss64((33, 17), w.astype(float), a, b) for a, b in zip(x, y, strict=True)]),
        rel_tol=1e-5,
    )
