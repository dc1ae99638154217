"""FedAvg, the two downlinks and the rate: exact bytes on boards that follow, catching up, order, checkpoints,
nonsense."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.codec import Codec, CodecError, Form, decode, dz_quantise, dz_step, dz_value, dz_write
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError
from quantfl.fleet.config import DownlinkTable, UplinkTable
from quantfl.package.program import grid, snap
from quantfl.strategy.base import Snapshot
from quantfl.strategy.composed import ComposedStrategy
from quantfl.strategy.downlink import FRAME, KEPT, DitheredDownlink, SharedDownlink
from quantfl.strategy.rate_control import FINEST_START, AdaptiveRate, StepSchedule, update_similarity

HEAD = Head((24, 5), 0.1, 0)


def origin(seed: int = 1) -> np.ndarray:
    return snap((np.random.default_rng(seed).normal(size=HEAD.params) * 0.3).astype(np.float32))


def rate(rounds: int = 20, **options) -> AdaptiveRate:
    return AdaptiveRate(rounds, StepSchedule(4.0, 2.0), StepSchedule(4.0, 3.0), 4.0, **options)


def chain(codec: Codec, **options) -> ComposedStrategy:
    return ComposedStrategy(HEAD, origin(), SharedDownlink(HEAD, codec, origin()), rate(), **options)


def lattice(rounds_away: float = 4.0, dither: float = 0.6, **options) -> ComposedStrategy:
    how = DitheredDownlink(
        HEAD, origin(), unit=grid(origin()), rounds_away=rounds_away, dither=dither, seed=9
    )
    return ComposedStrategy(HEAD, origin(), how, rate(), **options)


def answers(
    s: ComposedStrategy, rng, count: int = 3, scale: float = 0.01, codec: Codec | None = None
) -> list:
    """Contributions of `count` clients."""
    codec = codec or Codec("fp32")
    return [
        s.read(
            codec.encode((rng.laplace(size=HEAD.params) * scale).astype(np.float32), HEAD.tensors),
            int(rng.integers(1, 50)),
        )
        for _ in range(count)
    ]


def follow(held: np.ndarray, way) -> np.ndarray:
    """A board's head after it went the way it was shown, hashes checked as a board does."""
    if way.updates is None:
        return way.params.copy()
    for update in way.updates:
        assert head_hash(held) == update.base
        held = held + decode(update.data, HEAD.tensors)
        assert head_hash(held) == update.result
    return held


CODECS = [
    Codec("fp32"),
    Codec("bu", 64),
    Codec("bu", 4, means=True),
    Codec("bq", 16),
    Codec("bu", 16, coded=True),
]
KINDS = {
    **{str(c): lambda c=c: chain(c) for c in CODECS},
    "lattice": lattice,
    "one lattice": lambda: lattice(dither=0.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_head_is_the_first_plus_all_means(kind):
    """Nothing that the downlink rounds away is lost: the global head is kept unrounded."""
    s, rng = KINDS[kind](), np.random.default_rng(2)
    exact = s.params.astype(np.float64)
    for round_ in range(1, 13):
        c = answers(s, rng)
        exact += sum(x.samples * decode(x.data, HEAD.tensors).astype(np.float64) for x in c) / sum(
            x.samples for x in c
        )
        assert s.step(round_, c)
        np.testing.assert_allclose(s.params.astype(np.float64), exact, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_that_follows_holds_the_bytes_the_host_names(kind):
    s, rng = KINDS[kind](), np.random.default_rng(3)
    board = origin()
    for round_ in range(1, 9):
        s.step(round_, answers(s, rng))
        way = s.plan(3, head_hash(board))
        board = follow(board, way)
        assert board.tobytes() == way.params.tobytes() and head_hash(board) == way.result
        assert s.plan(3, way.result).updates == ()
        assert s.plan(3, 12345).updates is None and s.plan(3, None).updates is None


@pytest.mark.parametrize("codec", CODECS[1:], ids=str)
def test_what_a_chain_left_out_goes_out_later(codec):
    """Once the global head rests, the boards' one comes ever nearer to it."""
    s, rng = chain(codec), np.random.default_rng(12)
    s.step(1, answers(s, rng))
    away = [np.abs(s.params - s.downlink.shared).max()]
    for _ in range(4):
        s.downlink.publish(s.params, 1.0)
        away.append(np.abs(s.params - s.downlink.shared).max())
    assert away[-1] <= away[0] / 16


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.booleans(), st.integers(0, 5000))
@settings(max_examples=40, deadline=None)
def test_a_board_any_rounds_behind_gets_one_update_that_lands_exactly(seed, rounds, dither, index):
    s, rng = lattice(dither=0.6 if dither else 0.0), np.random.default_rng(seed)
    held = follow(origin(), s.plan(index, head_hash(origin())))
    away_at = int(rng.integers(rounds))
    for i in range(rounds):
        if i == away_at:
            held = follow(held, s.plan(index, head_hash(held)))
        s.step(i + 1, answers(s, rng, scale=0.01 * 0.8**i))
    way = s.plan(index, head_hash(held))
    assert way.updates is not None and len(way.updates) <= 1
    held = follow(held, way)
    assert held.tobytes() == way.params.tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_a_chain_of_updates_or_the_head_whichever_is_cheaper(seed, rounds):
    s, rng = chain(Codec("bu", 16)), np.random.default_rng(seed)
    held, costs = origin(), []
    for i in range(rounds):
        s.step(i + 1, answers(s, rng))
        costs.append(len(s.downlink.updates[-1].data) + FRAME)
    way = s.plan(0, head_hash(held))
    whole = 4 * HEAD.params + 64
    if sum(costs) < whole:
        assert way.updates is not None and len(way.updates) == rounds
    else:
        assert way.updates is None
    assert follow(held, way).tobytes() == s.downlink.shared.tobytes()


def test_versions_that_were_dropped_lead_to_the_whole_head_and_the_first_one_stays():
    s, rng = lattice(), np.random.default_rng(5)
    early = None
    for i in range(KEPT + 40):
        s.step(i + 1, answers(s, rng))
        if i == 3:
            early = follow(origin(), s.plan(7, head_hash(origin())))
    assert len(s.downlink.versions) == KEPT
    assert s.plan(7, head_hash(early)).updates is None  # too long ago
    way = s.plan(7, head_hash(origin()))  # a board that was reset holds the package's head
    assert follow(origin(), way).tobytes() == way.params.tobytes()


def test_memory_does_not_grow_with_the_boards():
    """A lattice keeps versions, not boards: what it knows of a board is two numbers, and it can do without
    them."""
    s, rng = lattice(), np.random.default_rng(6)
    heads = {}
    for i in range(6):
        s.step(i + 1, answers(s, rng))
        for index in range(i, 600, 6):
            heads[index] = follow(origin(), s.plan(index, head_hash(origin())))
    arrays = s.downlink.state().arrays
    assert sum(a.size for a in arrays.values()) == 7 * HEAD.params
    known = [v for versions in s.downlink._known.values() for v in versions.values()]
    assert len(known) <= 600 and all(isinstance(v, int) for v in known)
    s.downlink._known.clear()  # a host that was restarted knows nothing of the boards
    for index in (0, 5, 17, 400):
        way = s.plan(index, head_hash(heads[index]))
        assert way.updates is not None
        assert follow(heads[index], way).tobytes() == way.params.tobytes()


def test_boards_roundings_cancel_in_their_mean():
    """Dithered heads differ, stay within a step of the global one, and their mean is nearer to it than any of
    them."""
    s, rng = lattice(dither=1.0), np.random.default_rng(7)
    for i in range(5):
        s.step(i + 1, answers(s, rng))
    step = dz_value(s.downlink.versions[-1].code)
    boards = np.stack([s.downlink.board_head(i) for i in range(64)])
    away = boards - s.params
    assert np.abs(away).max() <= step * (1 + 1e-3) and len({b.tobytes() for b in boards}) == 64
    one = float(np.sqrt((away[0].astype(np.float64) ** 2).mean()))
    assert float(np.sqrt((away.mean(0).astype(np.float64) ** 2).mean())) < 0.25 * one
    same = lattice(dither=0.0)
    same.step(1, answers(same, np.random.default_rng(8)))
    assert len({same.downlink.board_head(i).tobytes() for i in range(8)}) == 1


def test_the_lattice_gets_finer_an_octave_at_a_time():
    s, rng = lattice(), np.random.default_rng(8)
    codes = []
    for i in range(30):
        s.step(i + 1, answers(s, rng, scale=0.02 * 0.7**i if i < 25 else 0.5))
        codes.append(s.downlink.versions[-1].code)
    assert all(c % 4 == 0 for c in codes) and all(a - b in (0, 4) for a, b in itertools.pairwise(codes))
    assert dz_value(codes[-1]) >= grid(origin())


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_strategy_goes_on_alike(kind):
    a, rng = KINDS[kind](), np.random.default_rng(4)
    boards = [origin() for _ in range(4)]
    for i in range(6):
        a.step(i + 1, answers(a, rng))
        boards[i % 4] = follow(boards[i % 4], a.plan(i % 4, head_hash(boards[i % 4])))
    b = KINDS[kind]()
    kept = a.state()
    values = json.loads(json.dumps(dict(kept.values)))  # as a checkpoint keeps it
    b.restore(Snapshot({k: v.copy() for k, v in kept.arrays.items()}, values))
    assert b.hash == a.hash and b.rate == a.rate
    for i in range(6, 12):
        c = answers(a, rng)
        assert a.step(i + 1, c) and b.step(i + 1, c)
        for index, held in enumerate(boards):
            ways = a.plan(index, head_hash(held)), b.plan(index, head_hash(held))
            assert ways[0].updates == ways[1].updates and ways[0].result == ways[1].result
            if index == i % 4:
                boards[index] = follow(held, ways[0])
    assert a.params.tobytes() == b.params.tobytes()


def test_a_start_in_closed_form_moves_all_boards():
    for kind in ("lattice", "bu64"):
        s, rng = KINDS[kind](), np.random.default_rng(9)
        target = (rng.normal(size=HEAD.params) * 0.5).astype(np.float32)
        s.reset(target, 0.02)
        assert s.params.tobytes() == target.tobytes()
        board = follow(origin(), s.plan(2, head_hash(origin())))
        assert np.abs(board - target).max() <= 0.05
        s.step(2, answers(s, rng))
        way = s.plan(2, head_hash(board))
        assert follow(board, way).tobytes() == way.params.tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_sums_of_symbols_do_not_depend_on_the_order_of_clients(seed, clients):
    s, rng = lattice(), np.random.default_rng(seed)
    contributions, exact = [], np.zeros(HEAD.params)
    for _ in range(clients):
        x = (rng.laplace(size=HEAD.params) * 0.01).astype(np.float32)
        code = dz_step(x, 2.0) if rng.random() < 0.5 else 120
        data = dz_write(dz_quantise(x, code), Form(code, agreed=code == 120, offset=1), HEAD.tensors)
        c = s.read(data, int(rng.integers(1, 100)), agreed=120 if code == 120 else 0)
        contributions.append(c)
        exact += c.samples * decode(data, HEAD.tensors, c.agreed).astype(np.float64)
    mean = s.aggregator.mean(contributions)
    shuffled = [contributions[i] for i in rng.permutation(clients)]
    assert s.aggregator.mean(shuffled).tobytes() == mean.tobytes()
    np.testing.assert_allclose(mean, exact / sum(c.samples for c in contributions), rtol=1e-9, atol=1e-12)


def test_a_round_without_answers_changes_nothing():
    s = lattice()
    before = s.params.tobytes(), len(s.downlink.versions)
    assert s.step(1, []) is False and s.aggregator.mean([]) is None
    assert (s.params.tobytes(), len(s.downlink.versions)) == before


def test_nonsense_is_refused():
    s = lattice()
    zeros = np.zeros(HEAD.params, np.float32)
    for bad in (b"", b"\x07", b"\x02\x00\x01", b"\x04", Codec("fp32").encode(zeros[:-1], [HEAD.params - 1])):
        with pytest.raises(CodecError):
            s.read(bad, 3)
    with pytest.raises(CodecError, match="no samples"):
        s.read(Codec("fp32").encode(zeros, HEAD.tensors), 0)
    huge = s.read(Codec("fp32").encode(np.full(HEAD.params, 3e38, np.float32), HEAD.tensors), 1)
    assert s.step(1, [huge])
    before = s.params.tobytes()
    with pytest.raises(RunError, match="not finite"):
        s.step(2, [huge])
    assert s.params.tobytes() == before


def test_a_head_beyond_what_float32_adds_exactly_goes_whole():
    s = lattice()
    s.reset(np.full(HEAD.params, 2.0**23 * grid(origin()), np.float32), 1.0)
    assert s.plan(0, head_hash(origin())).updates is None


def test_steps_go_from_coarse_to_fine():
    r = rate(rounds=11)
    assert r.uplink_code(1) == 0  # nobody knows yet how large deltas are
    r.observe([100, 104, 96], 2.0)
    assert r.preferred == 100
    codes = [r.uplink_code(i) for i in range(1, 12)]
    assert codes[0] == 100 and codes[-1] == 96 and codes == sorted(codes, reverse=True)
    downs = [r.downlink_steps(i) for i in range(1, 12)]
    assert downs[0] == 4.0 and abs(downs[-1] - 3.0) < 1e-9


def test_a_plateau_of_the_loss_makes_steps_finer():
    falling, flat = rate(rounds=100), rate(rounds=100)
    for i in range(20):
        falling.observe([100], 3.0 * 0.9**i)
        flat.observe([100], 1.0)
        flat.observe([], float("nan"))  # not a loss
    assert falling.plateau_boost == 0.0 and flat.plateau_boost > 0.0
    assert flat.uplink_code(30) <= falling.uplink_code(30) and flat.downlink_steps(
        30
    ) < falling.downlink_steps(30)
    for _ in range(200):
        flat.observe([100], 1.0)
    assert flat.plateau_boost == 1.0 and flat.progress(2) == 1.0


@given(st.integers(2, 6), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_similarity_is_that_of_all_pairs_of_deltas(clients, seed):
    rng = np.random.default_rng(seed)
    deltas, weights = (
        rng.normal(size=(clients, 40)) + rng.normal(size=40) * rng.uniform(0, 2),
        rng.integers(1, 60, clients),
    )
    norms = np.linalg.norm(deltas, axis=1)
    pairs = [(i, j) for i in range(clients) for j in range(clients) if i != j]
    inner = sum(weights[i] * weights[j] * (deltas[i] @ deltas[j]) for i, j in pairs)
    parallel = sum(weights[i] * weights[j] * norms[i] * norms[j] for i, j in pairs)
    assert update_similarity(weights @ deltas / weights.sum(), weights, norms) == pytest.approx(
        inner / parallel, abs=1e-9
    )


def test_similarity_from_parallel_to_nothing_shared_to_not_known():
    one, other = np.eye(2) * 3.0
    assert update_similarity(one, [1, 5, 2], [3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert update_similarity((one + other) / 2, [4, 4], [3.0, 3.0]) == pytest.approx(0.0)
    assert (
        update_similarity(one, [7], [3.0]) is None
        and update_similarity(one / 2, [1, 1], [3.0, 0.0]) is None
        and update_similarity(one, [], []) is None
    )


def test_steps_follow_the_similarity_of_the_first_deltas_unless_they_are_given():
    def steps(similarity: float | None, fixed: bool = False) -> list[float]:
        up, down = ({"step": 8.0, "step_end": 2.0}, {"step": 10.0, "step_end": 2.0}) if fixed else ({}, {})
        r = AdaptiveRate(11, UplinkTable(**up).schedule(10), DownlinkTable(**down).schedule(10), 8.0)
        r.observe([100], None, similarity)
        r.observe([100], None, 0.3)  # only the first says anything
        return [2 ** ((r.uplink_code(i) - 100) / 4) * 8.0 for i in (2, 11)] + [
            r.downlink_steps(i) for i in (1, 11)
        ]

    usual, similarity, apart = steps(0.3), steps(0.9), steps(0.04)
    assert steps(None) == usual and usual[2:] == [10.0, pytest.approx(2.0)]
    assert (
        similarity[0] < usual[0]
        and similarity[2] == 10.0 * FINEST_START
        and similarity[1] == usual[1]
        and similarity[3] == usual[3]
    )
    assert apart[0] > 1.9 * usual[0] and apart[1] < usual[1] and apart[2:] == [16.0, pytest.approx(2.0)]
    assert steps(-0.1) == steps(0.0) == apart  # as wide as it gets
    assert steps(0.9, True) == steps(0.04, True) == steps(None, True)


def test_a_saturated_choice_of_a_boards_own_says_nothing():
    """TRAIN named a step far finer than the board's own: what it answers is only that its own is coarser by
    that much or more."""
    s = lattice()
    symbols = np.zeros(HEAD.params, np.int32)
    symbols[3] = 1
    for offset, own in ((-5, 0), (-4, 116), (9, 129), (10, 0)):
        data = dz_write(symbols, Form(120, True, offset), HEAD.tensors)
        assert s.read(data, 5, agreed=120).own_code == own


def test_the_lattice_may_get_coarser_while_no_board_has_been_away_for_long():
    """A first small movement must not fix a fine step for good; boards led before follow to the coarser
    lattice."""
    s, rng = lattice(rounds_away=4.0), np.random.default_rng(12)
    codes, boards = [], [origin() for _ in range(3)]
    for i in range(8):
        s.step(i + 1, answers(s, rng, scale=0.001 if i in (0, 5) else 0.1))
        codes.append(s.downlink.versions[-1].code)
        boards[i % 3] = follow(boards[i % 3], s.plan(i % 3, head_hash(boards[i % 3])))
        assert (boards[i % 3] == s.downlink.board_head(i % 3)).all()
    assert (
        codes[1] > codes[0] + 8
        and max(codes[4:]) <= codes[3]
        and all(a >= b for a, b in itertools.pairwise(codes[3:]))
    )


def test_a_budget_makes_steps_coarser_while_it_would_be_overrun():
    tight, ample = rate(rounds=10, budget=1000.0), rate(rounds=10, budget=1e9)
    spent = {id(tight): 0.0, id(ample): 0.0}
    for r in (tight, ample):
        r.observe([100], None)
        for i in range(1, 6):
            last = 400.0 / r.budget_scale**0.75  # what a round costs, as SLOPE says
            spent[id(r)] += last
            r.spend(i, spent[id(r)], last)
    assert tight.budget_scale > 2.0 and ample.budget_scale == 1.0
    assert tight.uplink_code(6) > ample.uplink_code(6)
    assert not tight.exhausted(999.0) and tight.exhausted(1000.0) and not rate().exhausted(1e12)


def test_few_clients_a_round_code_finer_unless_told_how():
    """Their rounding errors do not cancel in the mean."""
    assert UplinkTable().schedule(4) == UplinkTable().schedule(100) == StepSchedule(8.0, 1.6, (16.0, 1.0))
    assert UplinkTable().schedule(1) == StepSchedule(4.0, 0.8, (8.0, 0.5)) and DownlinkTable().schedule(
        1
    ) == StepSchedule(5.0, 1.0, (8.0, 1.0))
    assert UplinkTable(step_end=1.2).schedule(4) == StepSchedule(8.0, 1.2, (16.0, 1.2))
    assert UplinkTable(step=8.0, step_end=1.2).schedule(1) == StepSchedule(8.0, 1.2)
    assert UplinkTable(step=1.0).schedule(1) == StepSchedule(1.0, 0.8) and UplinkTable(step=0.5).schedule(
        1
    ) == StepSchedule(0.5, 0.5)


def test_a_lattice_of_a_silent_first_round_is_no_finer_than_any_other():
    """Nothing has moved: that says nothing about how fine the lattice has to be."""
    origin = np.zeros(HEAD.params, np.float32)
    moved = np.random.default_rng(3).normal(size=HEAD.params).astype(np.float32)
    silent, plain = (
        DitheredDownlink(HEAD, origin, unit=2.0**-16, rounds_away=4, dither=0.6, seed=1) for _ in range(2)
    )
    silent.publish(origin, 4.0)
    assert silent.plan(0, head_hash(origin)).updates == ()
    silent.publish(moved, 4.0)
    plain.publish(moved, 4.0)
    assert dz_value(silent.versions[-1].code) >= dz_value(plain.versions[-1].code) / 2 >= 1.0
