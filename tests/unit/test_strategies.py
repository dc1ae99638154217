"""Strategies by name: each against its paper's formula, through checkpoints, from a description, and from
docs/EXTENDING.md."""

from __future__ import annotations

import json
import re
from importlib import metadata

import numpy as np
import pytest

from quantfl.core.codec import Codec
from quantfl.core.head import Head
from quantfl.errors import RunError, UsageError
from quantfl.fleet.config import parse
from quantfl.strategy import registry
from quantfl.strategy.aggregators import AggregatorOptions
from quantfl.strategy.base import Snapshot
from quantfl.strategy.downlink import SharedDownlink
from quantfl.strategy.rate_control import AdaptiveRate, StepSchedule
from tests.support import ROOT

HEAD = Head((6, 3), 0.1, 0)
FLEET = '[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n[strategy]\n'


def made(name: str, weighting: str = "samples", **options):
    params = np.random.default_rng(1).normal(size=HEAD.params).astype(np.float32)
    downlink = SharedDownlink(HEAD, Codec("fp32"), params)
    rate = AdaptiveRate(9, StepSchedule(4.0, 4.0), StepSchedule(4.0, 4.0), 4.0)
    entry = registry.find(name)
    parts = registry.Parts(HEAD, params, downlink, rate, options=AggregatorOptions(weighting))
    return entry.make(parts, entry.options.model_validate(options))


def contributions(strategy, round_: int, weights=(3, 5, 9)):
    """Deltas that fp32 codes exactly, and their weighted mean."""
    rng = np.random.default_rng([7, round_])
    deltas = [rng.normal(size=HEAD.params).astype(np.float32) * 0.1 for _ in weights]
    coded = [
        strategy.read(Codec("fp32").encode(d, HEAD.tensors), n) for d, n in zip(deltas, weights, strict=True)
    ]
    return coded, np.average([d.astype(np.float64) for d in deltas], axis=0, weights=weights)


def fedavgm(x, mean, s, lr=0.5, momentum=0.8):
    s["v"] = momentum * s.get("v", 0.0) + mean
    return x + lr * s["v"]


def adaptive(second):
    def step(x, mean, s, lr=0.05, beta1=0.8, beta2=0.95, tau=1e-2):
        s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * mean
        s["v"] = second(s.get("v", np.full_like(mean, tau**2)), mean**2, beta2)
        return x + lr * s["m"] / (np.sqrt(s["v"]) + tau)

    return step


ADAPTIVE = {"server_lr": 0.05, "beta1": 0.8, "beta2": 0.95, "tau": 1e-2}
FORMULAS = {
    "fedavg": (lambda x, mean, s: x + 0.5 * mean, {"server_lr": 0.5}),
    "fedavgm": (fedavgm, {"server_lr": 0.5, "momentum": 0.8}),
    "fedadam": (adaptive(lambda v, d2, b: b * v + (1 - b) * d2), ADAPTIVE),
    "fedyogi": (adaptive(lambda v, d2, b: v - (1 - b) * d2 * np.sign(v - d2)), ADAPTIVE),
    "fedadagrad": (
        adaptive(lambda v, d2, b: v + d2),
        {k: ADAPTIVE[k] for k in ("server_lr", "beta1", "tau")},
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_strategy_is_its_papers_formula(name):
    formula, options = FORMULAS[name]
    strategy, memory = made(name, **options), {}
    exact = strategy.params.astype(np.float64)
    for round_ in range(1, 9):
        coded, mean = contributions(strategy, round_)
        exact = formula(exact, mean, memory)
        assert strategy.step(round_, coded)
        np.testing.assert_allclose(strategy.params, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_restored_strategy_goes_on_alike(name):
    a, b = made(name), made(name)
    for round_ in range(1, 5):
        a.step(round_, contributions(a, round_)[0])
    kept = a.state()
    b.restore(
        Snapshot({k: v.copy() for k, v in kept.arrays.items()}, json.loads(json.dumps(dict(kept.values))))
    )
    for round_ in range(5, 9):
        for strategy in (a, b):
            strategy.step(round_, contributions(strategy, round_)[0])
        assert a.params.tobytes() == b.params.tobytes() and a.plan(0, None).result == b.plan(0, None).result


@pytest.mark.parametrize("name", FORMULAS)
def test_a_step_that_is_not_finite_changes_nothing(name):
    strategy = made(name, server_lr=100.0)
    strategy.step(1, contributions(strategy, 1)[0])
    before = strategy.state()
    huge = strategy.read(Codec("fp32").encode(np.full(HEAD.params, 3e38, np.float32), HEAD.tensors), 1)
    if name in ("fedavg", "fedavgm"):
        with pytest.raises(RunError, match="not finite"):
            strategy.step(2, [huge])
        after = strategy.state()
        assert {k: v.tobytes() for k, v in after.arrays.items()} == {
            k: v.tobytes() for k, v in before.arrays.items()
        }
    else:  # the adaptive ones divide by what they have seen, so that even this delta moves the head a little
        moved = np.abs(strategy.params.astype(np.float64))
        assert strategy.step(2, [huge]) and np.isfinite(strategy.params).all()
        assert np.abs(strategy.params).max() < moved.max() + 2000


def test_equal_weighting_counts_every_client_once():
    strategy = made("fedavg", "equal")
    start = strategy.params.astype(np.float64)
    coded, _ = contributions(strategy, 1)
    strategy.step(1, coded)
    _, equal = contributions(strategy, 1, (1, 1, 1))
    np.testing.assert_allclose(strategy.params, start + equal, rtol=1e-5, atol=1e-6)


def test_a_description_names_its_strategy_and_its_options():
    config = parse(FLEET + 'name = "fedadam"\nbeta1 = 0.5\n')
    assert config.strategy.options().beta1 == 0.5 and config.strategy.options().server_lr == 0.1
    assert parse(FLEET).strategy.options().server_lr == 1.0
    assert parse(FLEET) == parse(FLEET + "server_lr = 1.0\n") != parse(FLEET + "server_lr = 0.9\n")
    assert parse(FLEET).model_dump() == parse(FLEET + "server_lr = 1.0\n").model_dump()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "fedsgd"', ["no strategy 'fedsgd'", "fedavgm"]),
        ('name = "fedavg"\nbeta1 = 0.5', ["beta1", "server_lr"]),
        ('name = "fedadam"\nbeta1 = 1.5', ["beta1", "less than 1", "1.5"]),
        ('weighting = "loss"', ["strategy.weighting"]),
    ],
)
def test_mistakes_in_a_strategys_keys_are_named(text, words):
    with pytest.raises(UsageError) as error:
        parse(FLEET + text)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def block(name: str) -> str:
    text = (ROOT / "docs" / "EXTENDING.md").read_text()
    return re.search(rf"<!-- run:{name} -->\n```\w+\n(.*?)```", text, re.DOTALL)[1]


def test_the_strategy_of_the_documentation_works(tmp_path, monkeypatch):
    (tmp_path / "my_sign.py").write_text(block("strategy"))
    monkeypatch.syspath_prepend(tmp_path)
    offered = metadata.EntryPoint("my-sign", "my_sign", registry.GROUP)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "entry_points", lambda **_: (offered,))
    config = parse('[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n' + block("description"))
    assert "my-sign" in registry.names() and config.strategy.options().server_lr == 0.002
    strategy = made("my-sign", server_lr=0.002)
    before = strategy.params.copy()
    coded, mean = contributions(strategy, 1)
    strategy.step(1, coded)
    np.testing.assert_allclose(strategy.params - before, 0.002 * np.sign(mean), atol=1e-6)


def test_a_package_that_does_not_work_is_named(monkeypatch):
    offered = metadata.EntryPoint("broken", "no_such_module", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: (offered,))
    with pytest.raises(UsageError, match="no_such_module"):
        registry.find("broken")
