"""Admission: what is refused and why, whatever the order in which updates come."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.codec import Codec, Form, dz_write, is_dz
from quantfl.core.head import Head
from quantfl.errors import UsageError
from quantfl.fleet.config import parse
from quantfl.strategy.admission import SHORT, Admission, Bounds, Candidate
from quantfl.strategy.composed import ComposedStrategy
from quantfl.strategy.downlink import SharedDownlink
from quantfl.strategy.rate_control import AdaptiveRate, StepSchedule

DIMS = (12, 4)
HEAD = Head(DIMS, 0.1, 0)
SIZE = sum(HEAD.tensors)


def admission(codec: str = "fp32", **bounds) -> Admission:
    made = Codec(codec)
    rate = AdaptiveRate(9, StepSchedule(4.0, 4.0), StepSchedule(4.0, 4.0), 4.0, window=5, budget=None)
    strategy = ComposedStrategy(
        HEAD, np.zeros(SIZE, np.float32), SharedDownlink(HEAD, made, np.zeros(SIZE, np.float32)), rate
    )
    return Admission(Bounds(**bounds), made.fields[0], strategy.read, HEAD, 20)


def values(seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(SIZE)).astype(np.float32)


def honest(i: int, *, codec: str = "fp32", scale: float = 1.0, round_: int = 1) -> Candidate:
    data = Codec(codec).encode(values(1000 * round_ + i, scale), HEAD.tensors)
    return Candidate(f"board-{i}", round_, round_, 20, data, 20)


def refused(candidate: Candidate, codec: str = "fp32", **bounds) -> str:
    others = [honest(i, codec=codec) for i in (5, 6, 7)]
    verdict = admission(codec, **bounds).judge([*others, candidate])
    assert set(verdict.admitted) == {o.name for o in others}
    return verdict.refused[candidate.name]


@pytest.mark.parametrize("codec", ["fp32", "bu", "bq", "dz"])
def test_honest_updates_are_admitted(codec):
    verdict = admission(codec).judge(
        [honest(i, codec=codec, scale=s) for i, s in enumerate((0.3, 1, 1, 2, 2.2))]
    )
    assert len(verdict.admitted) == 5 and not verdict.refused


def change(c: Candidate, **fields) -> Candidate:
    return dataclasses.replace(c, **fields)


def test_stale_updates():
    assert refused(change(honest(1), round=0)) == "stale: its delta is of round 0, not 1"
    assert (
        refused(change(honest(1), head=1, asked_head=0xABCDEF01))
        == "stale: its delta is of head 00000001, not abcdef01"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00" * 9,
        Codec("fp32").encode(np.zeros(SIZE - 1, np.float32), [SIZE - 1]),
        Codec("bu").encode(values(1), HEAD.tensors),
        b"\x0f" * 40,
    ],
)
def test_wrong_shapes(data):
    assert refused(change(honest(1), data=data)).startswith("wrong shape")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_updates(bad):
    x = values(1)
    x[7] = bad
    assert refused(change(honest(1), data=b"\x00" + x.tobytes())).startswith("not finite")
    bu = bytearray(Codec("bu").encode(values(1), HEAD.tensors))
    bu[2:6] = np.float32(bad).tobytes()
    assert refused(change(honest(1, codec="bu"), data=bytes(bu)), "bu").startswith("not finite")


def test_outsized_updates():
    assert "more than 2.5 times the median" in refused(honest(1, scale=30))
    assert "at most 20 allowed" in refused(honest(1, scale=9), max_norm=20.0, times_median=0.0)
    coarse = np.zeros(SIZE, np.int32)
    coarse[3] = 1
    assert "too large" in refused(change(honest(1), data=dz_write(coarse, Form(250), HEAD.tensors)), "dz")


def test_a_single_liar_among_three_does_not_shift_the_bound():
    verdict = admission().judge([honest(0), honest(1, scale=1e12), honest(2)])
    assert set(verdict.refused) == {"board-1"}


def test_without_bounds_everything_finite_is_admitted():
    assert (
        not admission(times_median=0.0)
        .judge([honest(0), honest(1), honest(2), honest(3, scale=1e15)])
        .refused
    )


def test_more_samples_than_the_board_holds():
    assert refused(change(honest(1), samples=65535)) == "it claims 65535 samples, but holds 20"
    assert not admission().judge([change(honest(1), samples=65535, known=0)]).refused


def test_replays_of_any_boards_earlier_delta_also_after_a_resume():
    a = admission()
    old = [honest(i) for i in range(3)]
    a.judge(old)
    again = change(old[0], name="board-9", round=2, asked=2)
    assert a.judge([again]).refused == {"board-9": "replayed: the very delta of board-0 in round 1"}
    boards = {
        c.name: {"delta_sha256": hashlib.sha256(c.data).hexdigest(), "delta_bytes": len(c.data)} for c in old
    }
    resumed = admission()
    resumed.remember([{"round": 0}, {"round": 1, "boards": boards}])
    assert resumed.judge([again]).refused == a.judge([again]).refused
    assert not admission(replays=False).judge([again]).refused


def test_short_deltas_are_no_replays():
    """All-zero DZ deltas are one byte; two boards that have nothing to say agree honestly."""
    silent = dz_write(np.zeros(SIZE, np.int32), Form(100), HEAD.tensors)
    assert is_dz(silent) and len(silent) < SHORT
    a = admission("dz")
    for round_ in (1, 2, 3):
        assert not a.judge([Candidate(f"b{i}", round_, round_, 5, silent) for i in range(4)]).refused


lies = st.sampled_from(["none", "none", "none", "huge", "nan", "shape", "stale", "samples", "replay"])


@given(st.lists(lies, min_size=1, max_size=9), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_the_order_does_not_matter(what, rng):
    a = admission()
    a.judge([honest(0, round_=7)])
    candidates = []
    for i, lie in enumerate(what):
        c = honest(i, scale=1e5 if lie == "huge" else 1.0, round_=8)
        nan = b"\x00" + np.full(SIZE, np.nan, np.float32).tobytes()
        fields = {
            "nan": {"data": nan},
            "shape": {"data": b"\x00"},
            "stale": {"round": 3},
            "samples": {"samples": 999},
            "replay": {"data": honest(0, round_=7).data},
        }
        candidates.append(change(c, **fields.get(lie, {})))
    shuffled = candidates[:]
    rng.shuffle(shuffled)
    first, second = admission(), admission()
    for each in (first, second):
        each.judge([honest(0, round_=7)])
    x, y = first.judge(candidates), second.judge(shuffled)
    assert x == y
    for i, lie in enumerate(what):
        if lie not in ("none", "huge"):
            assert f"board-{i}" in x.refused
        if lie == "none":
            assert f"board-{i}" in x.admitted


def test_a_claim_nobody_can_check_counts_for_twice_the_median():
    """One board of ten owned the model by claiming 65,535 samples."""
    boards = [change(honest(i), samples=20, known=0) for i in range(9)]
    liar = change(honest(9), samples=65535, known=0)
    verdict = admission().judge([*boards, liar])
    assert verdict.admitted["board-9"].samples == 40 and verdict.admitted["board-0"].samples == 20
    assert admission(max_samples=100).judge([*boards, liar]).admitted["board-9"].samples == 100
    fed = change(liar, known=65535)  # the host put them there itself
    assert admission().judge([*boards, fed]).admitted["board-9"].samples == 65535


def test_keys_of_the_description():
    base = '[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n[admission]\n'
    assert parse(base + "max_norm = 3\ntimes_median = 0\nreplays = false").admission.bounds() == Bounds(
        3.0, 0.0, None, False
    )
    for wrong in ("max_norm = 0", "times_median = 0.5", "times_median = -1", "max_norms = 1"):
        with pytest.raises(UsageError, match="admission"):
            parse(base + wrong)
