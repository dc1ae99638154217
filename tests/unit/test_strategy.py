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
from quantfl.strategy.downlink import KEPT, Chain, Lattice
from quantfl.strategy.fedavg import FedAvg
from quantfl.strategy.rate import Rate, Span

HEAD = Head((24, 5), 0.1, 0)


def first_params(seed: int = 1) -> np.ndarray:
    return snap((np.random.default_rng(seed).normal(size=HEAD.params) * 0.3).astype(np.float32))


def start(downlink: str | Codec, *, rounds: int = 20, absence: float = 1.0) -> FedAvg:
    """downlink: a Codec of a chain, or "lattice" or "lattice+dither"."""
    params = first_params()
    if isinstance(downlink, Codec):
        how: Chain | Lattice = Chain(HEAD, downlink, params)
    else:
        dither = 0.6 if downlink.endswith("dither") else 0.0
        how = Lattice(HEAD, params, unit=grid(params), absence=absence, dither=dither, seed=3)
    return FedAvg(HEAD, params, how, Rate(rounds, Span(8.0, 2.0), Span(4.0, 1.0), 8.0))


def contributions(s: FedAvg, rng, codec: Codec, count: int = 3, scale: float = 0.01):
    out = []
    for _ in range(count):
        delta = (rng.laplace(size=HEAD.params) * scale).astype(np.float32)
        out.append(s.read(codec.encode(delta, HEAD.tensors), int(rng.integers(1, 50)), loss=1.0))
    return out


WAYS = [Codec("fp32"), Codec("bu", 64), Codec("bu", 4, means=True), Codec("bq", 8), "lattice", "lattice+dither"]


def follow(s: FedAvg, index: int, board: np.ndarray) -> np.ndarray:
    """What a board does with what it is sent: it checks every hash."""
    way = s.lead(index, head_hash(board))
    if way.updates is None:
        board = way.params.copy()
    else:
        for update in way.updates:
            assert update.base == head_hash(board)
            board = board + decode(update.data, HEAD.tensors)
            assert update.result == head_hash(board)
    assert way.result == head_hash(board) and board.tobytes() == way.params.tobytes()
    return board


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_board_that_follows_ends_on_the_same_bytes(way):
    s, rng, board = start(way), np.random.default_rng(3), first_params()
    for round_ in range(1, 9):
        s.step(round_, contributions(s, rng, Codec("dz", step=2.0)))
        board = follow(s, 0, board)
    assert s.lead(0, head_hash(board)).updates == ()


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), rounds=st.integers(2, 20))
@settings(max_examples=15, deadline=None)
def test_a_board_any_number_of_rounds_behind_is_led_at_no_more_than_the_whole_head(way, seed, rounds):
    s, rng = start(way, rounds=rounds), np.random.default_rng(seed)
    boards = [first_params() for _ in range(4)]
    for round_ in range(1, rounds + 1):
        s.step(round_, contributions(s, rng, Codec("dz", step=2.0), scale=0.01 * 0.8**round_))
        index = int(rng.integers(4))
        boards[index] = follow(s, index, boards[index])
    for index, board in enumerate(boards):
        lead = s.lead(index, head_hash(board))
        assert lead.updates is None or sum(len(u.data) for u in lead.updates) <= s.params.nbytes + 1
        follow(s, index, board)
        assert s.lead(index, 12345).updates is None and s.lead(index, None).updates is None


@pytest.mark.parametrize("codec", [w for w in WAYS if isinstance(w, Codec)], ids=str)
def test_nothing_is_lost_over_rounds(codec):
    """What the boards of a chain hold and what they lack is the global head, which is the first head plus all averages."""
    s, rng = start(codec), np.random.default_rng(2)
    exact = s.params.astype(np.float64)
    for round_ in range(1, 13):
        c = contributions(s, rng, Codec("fp32"))
        exact += sum(x.samples * decode(x.data, HEAD.tensors).astype(np.float64) for x in c) / sum(x.samples for x in c)
        s.step(round_, c)
        np.testing.assert_allclose(s.params, exact, atol=2e-6)
    # What coding left out goes out with later rounds: with nothing new to say the boards' head comes near the global one.
    before = np.abs(s.downlink.shared - s.params).max()
    for round_ in range(13, 20):
        s.step(round_, [s.read(Codec("fp32").encode(np.zeros(HEAD.params, np.float32), HEAD.tensors), 1)])
    assert np.abs(s.downlink.shared - s.params).max() <= before / 4 + 1e-6


@pytest.mark.parametrize("way", ["lattice", "lattice+dither"])
def test_heads_of_a_lattice_stay_within_a_step_of_the_global_one(way):
    s, rng = start(way, rounds=30, absence=3.0), np.random.default_rng(5)
    boards = [first_params() for _ in range(6)]
    for round_ in range(1, 31):
        s.step(round_, contributions(s, rng, Codec("dz", step=2.0), scale=0.01 * 0.9**round_))
        boards = [follow(s, i, b) for i, b in enumerate(boards)]
    from quantfl.core.codec import dz_value

    step = dz_value(s.downlink.versions[-1].code)
    spread = 0.5 + (0.3 if way.endswith("dither") else 0.0)
    for board in boards:
        assert np.abs(board - s.params).max() <= spread * step * 1.001
    if way.endswith("dither"):  # the boards' roundings differ and cancel in their mean
        mean = np.abs(np.mean(boards, axis=0) - s.params).mean()
        assert len({b.tobytes() for b in boards}) == 6 and mean < np.mean([np.abs(b - s.params).mean() for b in boards])
    else:
        assert len({b.tobytes() for b in boards}) == 1


def test_the_host_remembers_versions_not_boards():
    s, rng = start("lattice+dither", rounds=200), np.random.default_rng(6)
    for round_ in range(1, 150):
        s.step(round_, contributions(s, rng, Codec("dz", step=2.0), count=1))
    assert len(s.downlink.versions) <= KEPT + 1
    # A board that was reset holds the first head, however long ago that was.
    follow(s, 17, first_params())


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_restored_strategy_goes_on_alike(way):
    a, rng = start(way), np.random.default_rng(4)
    for round_ in range(1, 6):
        a.step(round_, contributions(a, rng, Codec("dz", step=2.0)))
    board = follow(a, 2, first_params())
    b = start(way)
    b.params = a.params.copy()
    b.rate.restore(a.rate.state())
    b.downlink.restore(*a.downlink.state())
    more = [contributions(a, rng, Codec("dz", step=2.0)) for _ in range(3)]
    for round_, c in enumerate(more, 6):
        a.step(round_, c)
        b.step(round_, c)
    assert a.params.tobytes() == b.params.tobytes()
    assert a.lead(2, head_hash(board)).updates == b.lead(2, head_hash(board)).updates
    assert a.rate.uplink_code(9) == b.rate.uplink_code(9) and a.rate.downlink_steps(9) == b.rate.downlink_steps(9)


def test_deltas_with_an_agreed_step_are_summed_as_integers_in_any_order():
    from quantfl.core.codec import Form, dz_quantise, dz_write

    s, rng = start("lattice"), np.random.default_rng(7)
    shares = []
    for _ in range(9):
        symbols = dz_quantise((rng.laplace(size=HEAD.params) * 0.01).astype(np.float32), 120)
        shares.append(s.read(dz_write(symbols, Form(120, True, 0), HEAD.tensors), int(rng.integers(1, 1000)), agreed=120))
    order = rng.permutation(9)
    assert s.mean(shares).tobytes() == s.mean([shares[i] for i in order]).tobytes()
    decoded = sum(c.samples * decode(c.data, HEAD.tensors, 120).astype(np.float64) for c in shares)
    np.testing.assert_allclose(s.mean(shares), decoded / sum(c.samples for c in shares), rtol=1e-9, atol=1e-12)


def test_no_answers_no_step():
    s = start("lattice")
    before = s.params.tobytes()
    assert s.mean([]) is None and not s.step(1, []) and s.params.tobytes() == before


def test_nonsense_is_refused():
    s = start(Codec("bu", 16))
    zeros = Codec("fp32").encode(np.zeros(HEAD.params, np.float32), HEAD.tensors)
    with pytest.raises(CodecError):
        s.read(b"", 3)
    with pytest.raises(CodecError):
        s.read(zeros[:-1], 3)
    with pytest.raises(CodecError, match="no samples"):
        s.read(zeros, 0)
    huge = s.read(Codec("fp32").encode(np.full(HEAD.params, 3e38, np.float32), HEAD.tensors), 1)
    s.params = np.full(HEAD.params, 3e38, np.float32)
    with pytest.raises(RunError, match="not finite"):
        s.step(1, [huge])
