"""Robust aggregators: each against its paper's formula, whatever the order of the clients, on symbols and on
floats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quantfl.core.codec import Codec, Form, dz_value, dz_write
from quantfl.core.head import Head
from quantfl.errors import UsageError
from quantfl.fleet.config import parse
from quantfl.strategy.aggregators import (
    AggregatorOptions,
    WeightedMean,
    aggregator_names,
    find_aggregator,
    register_aggregator,
)
from quantfl.strategy.base import Contribution
from quantfl.strategy.robust import krum_scores

HEAD = Head((6, 3), 0.1, 0)
ROBUST = [name for name in aggregator_names() if name != "mean"]
FLEET = '[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n[strategy]\n'
CODE = 40


def of_floats(rows, samples=None) -> list[Contribution]:
    """Contributions whose deltas fp32 codes exactly."""
    samples = samples or [5] * len(rows)
    coded = [Codec("fp32").encode(r.astype(np.float32), HEAD.tensors) for r in rows]
    return [Contribution(n, data) for n, data in zip(samples, coded, strict=True)]


def of_symbols(rows, samples=None, code=CODE) -> list[Contribution]:
    samples = samples or [5] * len(rows)
    coded = [dz_write(r.astype(np.int32), Form(code, True), HEAD.tensors) for r in rows]
    return [Contribution(n, data, agreed=code) for n, data in zip(samples, coded, strict=True)]


def some(n: int, seed: int = 1) -> np.ndarray:
    """Whole numbers [n, params] around a common direction; the last third lies: large and opposite."""
    rng = np.random.default_rng(seed)
    rows = np.rint(rng.normal(size=HEAD.params) * 3 + rng.normal(size=(n, HEAD.params)))
    rows[n - n // 3 :] *= -4
    return rows


def krum_by_hand(rows, f):
    """Blanchard et al. 2017, section 4, in words."""
    scores = []
    for i, x in enumerate(rows):
        far = sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(rows) if j != i)
        scores.append(sum(far[: len(rows) - f - 2]))
    return scores


def bulyan_by_hand(rows, f):
    left, chosen = [*rows], []
    while len(chosen) < len(rows) - 2 * f:
        scores = [0.0] * len(left)
        for i, x in enumerate(left):
            far = sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(left) if j != i)
            scores[i] = sum(far[: max(1, len(left) - f - 2)])
        chosen.append(left.pop(int(np.argmin(scores))))
    out, keep = [], len(chosen) - 2 * f
    for column in np.array(chosen).T:
        middle = np.median(column)
        out.append(np.mean(sorted(sorted(column), key=lambda v: abs(v - middle))[:keep]))
    return np.array(out)


def clipped_by_hand(rows, weights, clip):
    norms = [np.linalg.norm(r) for r in rows]
    bound = clip * np.median(norms)
    parts = [w * r * min(1.0, bound / n) for w, r, n in zip(weights, rows, norms, strict=True)]
    return sum(parts) / sum(weights)


def by_hand(name, rows, weights, f=3, clip=1.0):
    ordered = np.sort(rows, axis=0)
    if name == "median":
        return np.median(rows, axis=0)
    if name == "trimmed_mean":
        return ordered[f : len(rows) - f].mean(axis=0)
    if name == "krum":
        return rows[int(np.argmin(krum_by_hand(rows, f)))]
    if name == "multi_krum":
        best = np.argsort(krum_by_hand(rows, f), kind="stable")[: len(rows) - f]
        return np.average(rows[best], axis=0, weights=np.array(weights)[best])
    if name == "bulyan":
        return bulyan_by_hand(rows, 1)  # of ten clients it stands against one
    return clipped_by_hand(rows, weights, clip)


@pytest.mark.parametrize("name", [n for n in ROBUST if n != "geometric_median"])
@pytest.mark.parametrize("coded", [of_floats, of_symbols])
def test_rules_are_their_papers_formulas(name, coded):
    rows, samples = some(10), [4, 9, 2, 5, 5, 7, 3, 8, 6, 5]
    rule = find_aggregator(name)(HEAD, AggregatorOptions(liars=0.3))
    unit = dz_value(CODE) if coded is of_symbols else 1.0
    given = coded(rows, samples)
    order = sorted(range(10), key=lambda i: given[i].data)  # by which ties are broken
    expected = by_hand(name, rows[order], [samples[i] for i in order]) * unit
    np.testing.assert_allclose(rule.mean(given), expected, rtol=1e-12, atol=1e-12 * unit)


def test_the_geometric_median_has_the_least_sum_of_distances():
    rows, weights = some(9), np.array([3, 1, 4, 1, 5, 2, 6, 5, 3])
    found = find_aggregator("geometric_median")(HEAD, AggregatorOptions()).mean(
        of_floats(rows, [int(w) for w in weights])
    )

    def cost(z):
        return float((weights * np.linalg.norm(rows - z, axis=1)).sum())

    # Its definition: the weighted unit vectors towards all deltas cancel, so no way leads further down.
    towards = (rows - found) / np.linalg.norm(rows - found, axis=1)[:, None]
    assert np.linalg.norm(weights @ towards) < 1e-4 * weights.sum()
    rng = np.random.default_rng(2)
    assert all(cost(found) <= cost(found + 0.01 * rng.normal(size=HEAD.params)) for _ in range(50))
    assert cost(found) < cost(np.average(rows, axis=0, weights=weights))


@pytest.mark.parametrize("name", ROBUST)
def test_the_order_of_the_clients_does_not_matter(name):
    rows, rule = some(7), find_aggregator(name)(HEAD, AggregatorOptions(liars=0.25))
    first = rule.mean(of_symbols(rows))
    for order in itertools.islice(itertools.permutations(range(7)), 1, 5000, 600):
        np.testing.assert_allclose(rule.mean(of_symbols(rows[list(order)])), first, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 40])
def test_any_number_of_clients_gives_a_finite_delta_among_theirs(name, n):
    rows = some(n) if n > 2 else some(5)[:n]
    for options in (AggregatorOptions(), AggregatorOptions(liars=0.0), AggregatorOptions(liars=0.49)):
        found = find_aggregator(name)(HEAD, options).mean(of_symbols(rows)) / dz_value(CODE)
        assert np.isfinite(found).all()
        assert np.linalg.norm(found) <= 1.001 * np.linalg.norm(rows, axis=1).max()
    assert find_aggregator(name)(HEAD, AggregatorOptions()).mean([]) is None


@pytest.mark.parametrize("name", ROBUST)
def test_deltas_of_nothing_give_nothing(name):
    found = find_aggregator(name)(HEAD, AggregatorOptions()).mean(of_symbols(np.zeros((6, HEAD.params))))
    assert not found.any()


@pytest.mark.parametrize("name", [n for n in ROBUST if n != "bulyan"])  # of ten it stands against one
def test_three_liars_of_ten_do_not_turn_the_delta_round(name):
    rows = some(10)
    honest = rows[:7].mean(axis=0)
    options = AggregatorOptions(liars=0.3)

    def agrees(found):
        return float(found @ honest) / (np.linalg.norm(found) * np.linalg.norm(honest))

    assert agrees(WeightedMean(HEAD).mean(of_symbols(rows))) < 0
    assert agrees(find_aggregator(name)(HEAD, options).mean(of_symbols(rows))) > 0.5


@pytest.mark.parametrize("name", ROBUST)
def test_deltas_of_several_steps_are_compared_as_what_they_say(name):
    """The first round: every client has a step of its own."""
    rows = some(8)
    mixed = [
        of_symbols(rows[i : i + 1] * (2 if i % 2 else 1), code=CODE - 4 * (i % 2))[0] for i in range(8)
    ]  # four codes are a factor of two
    assert dz_value(CODE) == pytest.approx(2 * dz_value(CODE - 4), rel=1e-6)
    options = AggregatorOptions(liars=0.25)
    one = find_aggregator(name)(HEAD, options).mean(of_symbols(rows))
    np.testing.assert_allclose(
        find_aggregator(name)(HEAD, options).mean(mixed), one, rtol=1e-5, atol=1e-6 * dz_value(CODE)
    )


def test_krum_leaves_out_the_delta_itself():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0], [1.0, 1.0]])
    np.testing.assert_allclose(krum_scores(rows @ rows.T, 1), krum_by_hand(rows, 1))


def test_a_description_names_an_aggregator():
    strategy = parse(FLEET + 'aggregator = "krum"\nliars = 0.2').strategy
    assert (strategy.aggregator, strategy.liars, strategy.clip) == ("krum", 0.2, 1.0)
    for text, said in (
        ('aggregator = "crumb"', "no aggregator 'crumb'; there are bulyan, geometric_median, krum, mean"),
        ("liars = 0.5", "strategy.liars"),
        ("clip = 0", "strategy.clip"),
    ):
        with pytest.raises(UsageError, match=said):
            parse(FLEET + text)


def test_an_aggregator_of_ones_own_is_a_function():
    @register_aggregator("first_of_all")
    def first(head, options):
        class First(WeightedMean):
            needs = "each"

            def mean(self, contributions):
                return super().mean(contributions[:1])

        return First(head, options.weighting)

    assert parse(FLEET + 'aggregator = "first_of_all"').strategy.aggregator == "first_of_all"
    rows = some(4)
    np.testing.assert_allclose(
        find_aggregator("first_of_all")(HEAD, AggregatorOptions()).mean(of_floats(rows)), rows[0]
    )
