"""`quantfl bench attacks`: liars lie as they say, in well-formed deltas, and its rows are held to the bar."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from quantfl.core.codec import Form, dz_read, dz_value, dz_write
from quantfl.fleet.board_client import BoardClient
from quantfl.messages import Delta
from quantfl_lab.bench import attacks
from quantfl_lab.bench.attacks import Job, jobs, liars_of, parts, row, run_job
from quantfl_lab.bench.lying import ATTACKS, CLAIM, SCALE, UNDER, LyingClient, Ring, turned
from tests.support import need_digits

TENSORS, CODE = (40, 4), 60
BY_NAME = {attack.name: attack for attack in ATTACKS}


def symbols(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, sum(TENSORS)).astype(np.int32)


def honest(seed: int, round_: int = 1) -> Delta:
    return Delta(round_, 20, 0.5, dz_write(symbols(seed), Form(CODE, True), TENSORS), True, CODE)


def lies(name: str, seeds=(1, 2, 3), round_: int = 1, bound: float = 2.5) -> list[Delta]:
    """What the liars send whose honest deltas are of these seeds."""
    ring = Ring(len(seeds), bound)
    liars = [
        LyingClient.lying(BoardClient(i, f"b{i}", None, b""), BY_NAME[name], ring, TENSORS)
        for i, _ in enumerate(seeds)
    ]

    async def go():
        lie = [
            getattr(liar, f"_{name}")(honest(seed, round_)) for liar, seed in zip(liars, seeds, strict=True)
        ]
        return await asyncio.gather(*lie)

    return asyncio.run(go())


def of(delta: Delta) -> np.ndarray:
    found, form = dz_read(delta.data, TENSORS, CODE)
    assert form.agreed and form.code == CODE
    return found


def test_signs_scales_and_claims():
    assert (of(lies("sign")[0]) == -symbols(1)).all()
    assert (of(lies("scaling")[0]) == -SCALE * symbols(1)).all()
    claim = lies("samples")[0]
    assert claim.samples == CLAIM and (of(claim) == -symbols(1)).all()
    assert (turned(np.array([0, 3, 9], np.uint16)) == [9, 6, 0]).all()


def test_liars_that_collude_send_one_delta_just_under_the_bound():
    found = [of(delta) for delta in lies("collusion")]
    assert all((f == found[0]).all() for f in found)
    own = [symbols(seed) for seed in (1, 2, 3)]
    mean = np.mean(own, axis=0)
    norms = [np.linalg.norm(s) for s in own]
    assert np.linalg.norm(found[0]) == pytest.approx(UNDER * 2.5 * np.median(norms), rel=0.1)
    assert float(found[0] @ mean) / (np.linalg.norm(found[0]) * np.linalg.norm(mean)) < -0.97
    little = of(lies("little")[0]) * dz_value(CODE)
    assert little.shape == mean.shape and (little <= np.ceil(mean) * dz_value(CODE) + 1e-9).all()


def test_a_replay_is_the_first_delta_again():
    liar = LyingClient.lying(BoardClient(0, "b", None, b""), BY_NAME["replay"], Ring(1, 2.5), TENSORS)
    first, later = (asyncio.run(liar._replay(honest(seed, seed))) for seed in (1, 2))
    assert (of(first) == symbols(1)).all() and (of(later) == symbols(1)).all() and later.round == 2


def test_liars_are_the_same_for_every_attack():
    one = Job("digits", "iid", 10, 3, "sign", "mean", 1, 5)
    assert liars_of(one) == liars_of(replace(one, attack="labels", aggregator="krum"))
    assert len(liars_of(one)) == 3 and liars_of(one) != liars_of(replace(one, seed=2))


def test_quick_and_whole_benches_have_all_that_rows_need():
    for quick in (True, False):
        todo = list(jobs(quick))
        assert len(set(todo)) == len(todo)
        found: dict = {}
        for job in todo:
            found.setdefault(replace(job, seed=0), []).append({"accuracy": 0.9, "caught": 1, "wronged": 0})
        rows = [row(job, f, found) for job, f in found.items() if not job.alone]
        assert all(r["lost"] == pytest.approx(0.0) and r["meets"] for r in rows)
        assert parts(rows)


def test_one_run_with_liars_and_one_without():
    need_digits()
    job = Job("digits", "iid", 10, 3, "sign", "mean", 1, 8)
    lied, alone = run_job(job), run_job(replace(job, alone=True))
    assert lied["caught"] == 3 and lied["wronged"] == 0
    assert alone["caught"] == 0 and alone["accuracy"] > 0.6
    assert lied["accuracy"] > alone["accuracy"] - 0.3
    assert attacks.BAR["iid"] == 3.0
