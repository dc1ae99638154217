"""Boards that lead elsewhere than the others, and boards that are refused again and again."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from quantfl.core.codec import Codec, Form, dz_write
from quantfl.core.head import Head
from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.fleet.rounds import Rounds, Silent
from quantfl.fleet.setup import set_up_run
from quantfl.strategy.base import Contribution
from quantfl.strategy.outliers import COMPARED, LIMIT, Outliers, cosines, integers
from quantfl.strategy.reputation import Reputation
from tests.support import DEMO_MODEL, demo_config

HEAD = Head((12, 4), 0.1, 0)
SIZE = sum(HEAD.tensors)


def fleet(rng, liars: int = 3, boards: int = 10, shared: float = 0.6) -> dict[str, np.ndarray]:
    """Deltas of a round: honest boards share a direction, liars have it the other way round."""
    common = rng.standard_normal(SIZE)
    rows = {f"b{i}": shared * common + rng.standard_normal(SIZE) for i in range(boards)}
    return {name: -row if int(name[1:]) < liars else row for name, row in rows.items()}


def coded(rows: dict[str, np.ndarray]) -> dict[str, Contribution]:
    return {
        name: Contribution(5, Codec("fp32").encode(row.astype(np.float32), HEAD.tensors))
        for name, row in rows.items()
    }


def test_the_cosine_is_with_the_others_each_at_length_one():
    rows = {"a": np.array([2.0, 0.0]), "b": np.array([0.0, 5.0]), "c": np.array([1.0, 1.0]), "d": np.zeros(2)}
    unit = {name: row / np.linalg.norm(row) for name, row in rows.items() if row.any()}
    found = cosines(rows, set())
    assert set(found) == {"a", "b", "c"}
    for name in found:
        rest = sum(u for other, u in unit.items() if other != name)
        assert found[name] == pytest.approx(unit[name] @ rest / np.linalg.norm(rest))


def test_suspects_and_those_against_the_sum_have_no_part_in_it():
    rows = fleet(np.random.default_rng(1))
    found = cosines(rows, {"b0"})
    unit = {name: row / np.linalg.norm(row) for name, row in rows.items()}
    rest = sum(unit[f"b{i}"] for i in range(3, 10))
    assert found["b0"] == pytest.approx(unit["b0"] @ rest / np.linalg.norm(rest))
    assert max(found[f"b{i}"] for i in range(3)) < 0 < min(found[f"b{i}"] for i in range(3, 10))


def test_small_integers_are_compared_as_such():
    symbols = np.zeros(SIZE, np.int32)
    symbols[3] = -5
    data = dz_write(symbols, Form(40, True), HEAD.tensors)
    row = integers(Contribution(5, data, agreed=40), HEAD)
    assert row.dtype == np.int8 and row[3] == -5
    symbols[4] = 300
    row = integers(Contribution(5, dz_write(symbols, Form(40, True), HEAD.tensors), agreed=40), HEAD)
    assert row.dtype == np.float32 and row[4] == 300


def test_evidence_grows_with_the_rounds_and_honest_boards_have_none():
    outliers, rng, refused = Outliers(HEAD), np.random.default_rng(2), []
    for _ in range(8):
        refused.append(outliers.judge(coded(fleet(rng))))
    assert set(refused[-1]) == {"b0", "b1", "b2"} and refused[-1]["b0"].startswith("against the others")
    assert all(outliers.evidence[f"b{i}"] <= LIMIT for i in range(3, 10))


def test_an_honest_board_comes_back():
    outliers, rng = Outliers(HEAD), np.random.default_rng(3)
    for _ in range(8):
        outliers.judge(coded(fleet(rng, liars=1)))
    assert outliers.evidence["b0"] > LIMIT
    for _ in range(8):
        last = outliers.judge(coded(fleet(rng, liars=0)))
    assert not last and outliers.evidence["b0"] <= LIMIT


def test_where_all_disagree_nobody_is_an_outlier():
    """Near the end of training honest boards pull in all outliers."""
    outliers, rng = Outliers(HEAD), np.random.default_rng(4)
    for _ in range(30):
        rows = rng.standard_normal((10, SIZE))
        rows -= rows.mean(axis=0)
        refused = outliers.judge(coded({f"b{i}": row for i, row in enumerate(rows)}))
        assert not refused


def test_few_boards_are_not_compared():
    outliers = Outliers(HEAD)
    rows = dict(list(fleet(np.random.default_rng(5), liars=1).items())[: COMPARED - 1])
    for _ in range(9):
        assert outliers.judge(coded(rows)) == {}
    assert not outliers.evidence


def test_refusals_add_up_and_honest_rounds_take_them_back():
    reputation = Reputation(10, 3)
    assert not reputation.refused("a", "x") and not reputation.refused("a", "y")
    for _ in range(4):
        reputation.admitted("a")
    assert not reputation.refused("a", "z")
    assert reputation.refused("a", "the last") and reputation.left_out == {"a": "the last"}
    assert not reputation.refused("a", "again")  # said once
    again = Reputation(10, 3)
    again.restore(reputation.state())
    assert (again.counted, again.left_out) == (reputation.counted, reputation.left_out)


def test_at_most_a_minority_is_left_out_and_none_where_that_is_wished():
    reputation = Reputation(4, 1)
    assert [reputation.refused(n, "x") for n in "abc"] == [True, False, False]
    never = Reputation(10, 0)
    assert not any(never.refused("a", "x") for _ in range(20))


class Told(Silent):
    def __init__(self):
        self.said: list[str] = []

    def warn(self, text):
        self.said.append(text)


def flipping(prepared, liars):
    """Boards whose deltas arrive with the sign flipped: a well-formed lie."""
    from quantfl.core.codec import decode, dz_read, is_dz

    tensors = prepared.federation.strategy.head.tensors
    for client in prepared.federation.clients:
        if client.index not in liars:
            continue

        async def lie(round_, strategy, *, timeout, honest=client.contribute):
            delta = await honest(round_, strategy, timeout=timeout)
            if not is_dz(delta.data):
                return dataclasses.replace(
                    delta, data=Codec("fp32").encode(-decode(delta.data, tensors), tensors)
                )
            symbols, form = dz_read(delta.data, tensors, delta.step)
            return dataclasses.replace(delta, data=dz_write(-symbols, form, tensors))

        client.contribute = lie


def liars_run(folder, rounds: int, resume: bool) -> tuple[list[dict], list[str]]:
    config = demo_config(
        run={"rounds": rounds}, fleet={"boards": 9}, start={"how": "none"}, data={"split": "iid"}
    )
    told, place = Told(), RunFolder(folder)

    async def go():
        state = place.load() if resume else None
        prepared = set_up_run(
            config, base=DEMO_MODEL.parent, folder=place, progress=told, kind="inproc", state=state
        )
        if not resume:
            place.create()
            place.package.write_bytes(prepared.package.data)
        flipping(prepared, {0, 1})
        rounds_ = Rounds(prepared.federation, state)
        try:
            await rounds_.set_up()
            rounds_.score_start()
            rounds_.checkpoint()
            if not resume:  # broken off after five rounds
                told.round_done = lambda record: record["round"] == 5 and rounds_.stop()
            await rounds_.run()
        finally:
            await prepared.close()
        return rounds_.history

    return asyncio.run(go()), told.said


def test_liars_are_left_out_and_said_and_a_resumed_run_remembers(tmp_path):
    history, said = liars_run(tmp_path / "r", 12, resume=False)
    before = RunFolder(tmp_path / "r").load()
    history, more = liars_run(tmp_path / "r", 12, resume=True)
    left_out = {name for record in history for name in record.get("left_out", {})}
    names = sorted(history[1]["boards"])
    assert left_out == set(names[:2]), (said, more)
    assert sum("is left out of the rest of the run: against the others" in text for text in said + more) == 2
    assert sorted(history[-1]["boards"]) == names[2:]
    kept = before.admission.part("outliers").values
    assert before.round == 5 and any(kept[name] > 0 for name in names[:2])


def test_an_honest_fleet_loses_nobody(tmp_path):
    for split in ("iid", "dirichlet:0.3"):
        config = demo_config(run={"rounds": 12}, fleet={"boards": 8}, data={"split": split})
        outcome = asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=None, kind="inproc"))
        assert not any("refused" in r or "left_out" in r for r in outcome.history)
