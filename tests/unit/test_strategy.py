"""FedAvg: the average, what boards are sent, catching up, heads of their own, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.codec import Codec, CodecError, decode
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError
from quantfl.package.program import grid, snap
from quantfl.strategy.fedavg import Contribution, FedAvg

HEAD = Head((24, 5), 0.1, 0)


def start(downlink: Codec, seed: int = 1, **options) -> FedAvg:
    params = snap((np.random.default_rng(seed).normal(size=HEAD.params) * 0.3).astype(np.float32))
    return FedAvg(HEAD, params, downlink, unit=grid(params), **options)


def deltas(rng, count: int = 3) -> list[Contribution]:
    return [Contribution(int(rng.integers(1, 50)), (rng.laplace(size=HEAD.params) * 0.01).astype(np.float32)) for _ in range(count)]


CODECS = [Codec("fp32"), Codec("bu", 64), Codec("bu", 4, means=True), Codec("dz", step=2.0), Codec("dz", step=6.0)]


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_nothing_is_lost_over_rounds(codec):
    """Head plus residual is the initial head plus all averages, whatever the downlink's coding."""
    s, rng = start(codec), np.random.default_rng(2)
    exact = s.params.astype(np.float64)
    for _ in range(12):
        c = deltas(rng)
        weight = sum(x.samples for x in c)
        exact += sum(x.samples * x.delta.astype(np.float64) for x in c) / weight
        s.step(c)
        np.testing.assert_allclose(s.params.astype(np.float64) + s.residual, exact, atol=2e-6)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_board_that_follows_ends_on_the_same_bytes(codec):
    s, rng = start(codec), np.random.default_rng(3)
    board = s.params.copy()
    for _ in range(6):
        update = s.step(deltas(rng))
        assert head_hash(board) == update.base
        board = board + decode(update.data, HEAD.tensors)
        assert board.tobytes() == s.params.tobytes() and head_hash(board) == update.result


@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.sampled_from([1.0, 3.0, 5.0]))
@settings(max_examples=40, deadline=None)
def test_catching_up_is_exact_and_no_dearer_than_the_chain(seed, rounds, step):
    s, rng = start(Codec("dz", step=step)), np.random.default_rng(seed)
    held, chain = s.params.copy(), 0
    for i in range(rounds):
        scale = 0.8**i  # steps change as training settles
        chain += len(s.step([Contribution(c.samples, c.delta * np.float32(scale)) for c in deltas(rng)]).data) + 30
    way = s.lead(head_hash(held))
    assert way is not None and sum(len(u.data) + 30 for u in way) <= chain
    for update in way:
        held = held + decode(update.data, HEAD.tensors)
        assert head_hash(held) == update.result
    assert held.tobytes() == s.params.tobytes()
    assert s.lead(s.hash) == [] and s.lead(12345) is None


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_restored_strategy_goes_on_alike(codec):
    a, rng = start(codec), np.random.default_rng(4)
    first = a.hash
    for _ in range(5):
        a.step(deltas(rng))
    b = start(codec)
    b.restore(a.params, a.residual, a.updates)
    assert b.hash == a.hash and [u.data for u in b.lead(first)] == [u.data for u in a.lead(first)]
    more = [deltas(rng) for _ in range(3)]
    for c in more:
        assert a.step(c).data == b.step(c).data
    assert a.params.tobytes() == b.params.tobytes()


def test_own_heads_stay_near_the_global_one():
    s, rng = start(Codec("dz", step=4.0), shared=False), np.random.default_rng(5)
    boards = [s.params.copy() for _ in range(4)]
    seen = [s.params.copy() for _ in range(4)]
    for round_ in range(30):
        s.step([Contribution(c.samples, c.delta * np.float32(0.7**round_)) for c in deltas(rng)])
        i = int(rng.integers(4))
        data, after = s.approach(boards[i], seen[i])
        seen[i] = s.params.copy()
        assert len(data) < HEAD.params
        boards[i] = boards[i] + decode(data, HEAD.tensors)
        assert boards[i].tobytes() == after.tobytes()
    for i in range(4):
        boards[i] = s.approach(boards[i], seen[i])[1]
    assert max(np.abs(b - s.params).max() for b in boards) < 0.02


def test_the_order_of_answers_does_not_matter_but_the_order_of_clients_is_kept():
    c = deltas(np.random.default_rng(6), 5)
    a, b = start(Codec("bu", 16)), start(Codec("bu", 16))
    assert a.step(c).data == b.step(list(c)).data
    assert a.step([]) is None


def test_nonsense_is_refused():
    s = start(Codec("bu", 16))
    with pytest.raises(CodecError):
        s.read(b"", 3)
    with pytest.raises(CodecError, match="no samples"):
        s.read(Codec("fp32").encode(np.zeros(HEAD.params, np.float32), HEAD.tensors), 0)
    with pytest.raises(RunError, match="not finite"):
        s.step([Contribution(1, np.full(HEAD.params, 3e38, np.float32)), Contribution(1, np.full(HEAD.params, np.inf, np.float32))])
