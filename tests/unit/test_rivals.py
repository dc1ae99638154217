"""Rival codecs against their papers' properties: unbiasedness, error at given bits, exact round trips,
malformed bytes refused."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core.codec import Codec, CodecError
from quantfl_lab.rivals.base import Bits, Sender, gamma, omega, pack, to_bytes, unpack
from quantfl_lab.rivals.buckets import Compressed, Ours
from quantfl_lab.rivals.rotated import Eden, chunks, hadamard, lloyd_max
from quantfl_lab.rivals.simple import Float, Int8
from quantfl_lab.rivals.sparse import PowerSgd, Sign, Stc
from quantfl_lab.rivals.stochastic import FedPaq, Qsgd, TernGrad

ALL = [
    Float(32),
    Float(16),
    Int8(),
    Qsgd(),
    Qsgd(1, None, "l2"),
    Qsgd(36, None, "l2"),
    Qsgd(3, 128, "max", "gamma"),
    FedPaq(1),
    FedPaq(10),
    TernGrad(),
    TernGrad(None),
    Eden(1),
    Eden(2),
    Eden(4),
    Stc(0.01),
    Stc(0.05),
    Stc(1.0),
    Sign(),
    PowerSgd(1),
    PowerSgd(2),
    Ours(Codec("bu", 64)),
    Ours(Codec("bq", 16)),
    Compressed(64),
    Compressed(16),
]
SHAPES = ((40, 10), (10,))
NAMES = [f"{type(q).__name__}-{q}" for q in ALL]


def draw(shapes=SHAPES, seed: int = 1) -> np.ndarray:
    n = sum(math.prod(s) for s in shapes)
    return (np.random.default_rng(seed).standard_normal(n) * 0.01).astype(np.float32)


def nmse(q, x: np.ndarray, shapes, seed: int = 1) -> tuple[float, float]:
    """(error relative to the square of x, bits per value)"""
    data = q.encode(x, shapes, {}, seed)
    error = q.decode(data, shapes, seed).astype(np.float64) - x
    return float(error @ error) / float(x.astype(np.float64) @ x), 8 * len(data) / x.size


@pytest.mark.parametrize("q", ALL, ids=NAMES)
def test_round_trip(q):
    """What is decoded codes again into itself where the code is deterministic, has x's shape, and no larger
    error than x has."""
    ones = np.ones(1, np.float32)
    for shapes, x in (
        (SHAPES, draw()),
        (((7,),), draw(((7,),))),
        (SHAPES, np.zeros(410, np.float32)),
        (((1,),), ones),
    ):
        data = q.encode(x, shapes, {}, 5)
        assert isinstance(data, bytes) and data == q.encode(x, shapes, {}, 5)
        y = q.decode(data, shapes, 5)
        assert y.dtype == np.float32 and y.shape == x.shape and np.isfinite(y).all()
        if not x.any():
            assert not y.any()


@pytest.mark.parametrize("q", ALL, ids=NAMES)
def test_what_is_not_finite_is_refused(q):
    for bad in (np.nan, np.inf):
        x = draw()
        x[7] = bad
        with pytest.raises(CodecError):
            q.encode(x, SHAPES, {}, 1)


@pytest.mark.parametrize("q", ALL, ids=NAMES)
def test_malformed_bytes(q):
    """Every truncation and every extension is refused; damaged bytes are refused or give finite values."""
    data = q.encode(draw(), SHAPES, {}, 3)
    for n in range(len(data)):
        with pytest.raises(CodecError):
            q.decode(data[:n], SHAPES, 3)
    with pytest.raises(CodecError):
        q.decode(data + b"\1", SHAPES, 3)
    rng = np.random.default_rng(4)
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(data))] = rng.integers(256)
        with np.errstate(all="ignore"):
            try:
                y = q.decode(bytes(damaged), SHAPES, 3)
            except CodecError:
                continue
        assert y.shape == (410,)


@pytest.mark.parametrize("q", ALL, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes(q, data):
    with np.errstate(all="ignore"), contextlib.suppress(CodecError):
        assert q.decode(data, SHAPES, 0).shape == (410,)


UNBIASED = [q for q in ALL if q.unbiased]


@pytest.mark.parametrize("q", UNBIASED, ids=[str(q) for q in UNBIASED])
def test_unbiased(q):
    """The mean over many seeds comes as near as its own spread allows: |mean - x|^2 ~ error / draws."""
    x, draws = draw(seed=2), 400
    decoded = np.stack([q.decode(q.encode(x, SHAPES, {}, s), SHAPES, s) for s in range(draws)]).astype(
        np.float64
    )
    square = float(x.astype(np.float64) @ x)
    spread = ((decoded - x) ** 2).sum(1).mean() / square
    off = ((decoded.mean(0) - x) ** 2).sum() / square
    assert 0.7 * spread / draws < off < 1.4 * spread / draws
    assert abs(float((decoded.mean(0) @ x) / square) - 1) < 4 * math.sqrt(spread / draws)


@pytest.mark.parametrize("q", [Stc(0.05), Sign(), PowerSgd(1), Int8(), Ours(Codec("bu", 4))], ids=str)
def test_those_called_biased_are(q):
    x = draw(seed=2)
    decoded = np.stack([q.decode(q.encode(x, SHAPES, {}, s), SHAPES, s) for s in range(100)]).astype(
        np.float64
    )
    spread = ((decoded - decoded.mean(0)) ** 2).sum(1).mean()
    assert not q.unbiased and ((decoded.mean(0) - x) ** 2).sum() > 2 * spread / 100


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.571), (2, 0.133), (3, 0.036), (4, 0.0096)])
def test_eden_error_on_gaussian_values(bits, expected):
    """1/(1 - D) - 1 for Lloyd-Max distortion D, as theorem 2.3 has it."""
    shapes = ((1 << 14,),)
    error, rate = nmse(Eden(bits), draw(shapes), shapes)
    assert error == pytest.approx(expected, rel=0.04) and rate == pytest.approx(bits, rel=0.01)
    d = float(np.square(np.subtract.outer(draw(shapes) * 100, lloyd_max(bits))).min(1).mean())
    assert expected == pytest.approx(1 / (1 - d) - 1, rel=0.05)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_lloyd_max(bits, expected):
    """Max 1960, table 1."""
    z, c = np.random.default_rng(1).standard_normal(400_000), lloyd_max(bits)
    d = np.mean((z - c[np.searchsorted((c[1:] + c[:-1]) / 2, z)]) ** 2)
    assert d == pytest.approx(expected, rel=0.01)


def test_eden_does_not_care_what_it_is_given():
    """The rotation makes any vector look normal: heavy tails have the error of Gaussian values."""
    shapes, heavy = ((4096,),), np.random.default_rng(1).lognormal(0, 1.2, 4096).astype(np.float32)
    errors = [nmse(Eden(2), heavy, shapes, s)[0] for s in range(20)]
    assert np.mean(errors) == pytest.approx(0.133, rel=0.1)


def test_chunks_cover_any_length():
    for n in (1, 2, 63, 64, 65, 410, 1290, 2570, 6500):
        pieces = chunks(n)
        assert sum(v for v, _ in pieces) == n and sum(s for _, s in pieces) < 1.02 * n + 64
        assert all(s & (s - 1) == 0 and v <= s for v, s in pieces)
    x = draw(((64,),))
    assert np.allclose(hadamard(hadamard(x)), x) and np.isclose(
        np.linalg.norm(hadamard(x)), np.linalg.norm(x)
    )


@pytest.mark.parametrize("levels", [1, 4, 36])
def test_qsgd_variance_bound(levels):
    """Lemma 3.1: E|Q(x) - x|^2 <= min(n / s^2, sqrt(n) / s) |x|^2, and at most s (s + sqrt(n)) non-zero
    values in the mean."""
    n = 1296
    x, q = draw(((n,),)), Qsgd(levels, None, "l2")
    decoded = [q.decode(q.encode(x, ((n,),), {}, s), ((n,),), s) for s in range(100)]
    square = float(x.astype(np.float64) @ x)
    assert (
        np.mean([((y - x) ** 2).sum() for y in decoded]) / square
        <= min(n / levels**2, math.sqrt(n) / levels) * 1.02
    )
    assert np.mean([np.count_nonzero(y) for y in decoded]) <= levels * (levels + math.sqrt(n))


def test_qsgd_lengths():
    """Theorem 3.2 for s = 1 and corollary 3.3: at most 2.8 n + 32 bits for s = sqrt(n)."""
    n = 1296
    x = draw(((n,),))
    dense = np.mean([8 * len(Qsgd(36, None, "l2").encode(x, ((n,),), {}, s)) for s in range(20)])
    assert dense <= 2.8 * n + 32 + 8
    sparse = np.mean([8 * len(Qsgd(1, None, "l2").encode(x, ((n,),), {}, s)) for s in range(20)])
    s, root = 1, math.sqrt(n)
    bound = (3 + 1.5 * math.log2(2 * (s**2 + n) / (s * (s + root)))) * s * (s + root) + 32
    assert sparse <= 1.1 * bound


@pytest.mark.parametrize("levels", [1, 3, 7, 15])
@pytest.mark.parametrize("norm", ["l2", "max"])
def test_qsgd_error_is_what_its_rounding_makes(levels, norm):
    """E|Q(x) - x|^2 = sum (norm / s)^2 f (1 - f), f the fraction of a level that rounding takes off."""
    n = 4096
    x, q = draw(((n,),)), Qsgd(levels, 512, norm)
    expected = 0.0
    for piece in np.split(x.astype(np.float64), n // 512):
        unit = (np.linalg.norm(piece) if norm == "l2" else np.abs(piece).max()) / levels
        f = np.abs(piece) / unit % 1.0
        expected += (unit**2 * f * (1 - f)).sum() / float(x.astype(np.float64) @ x)
    assert np.mean([nmse(q, x, ((n,),), s)[0] for s in range(10)]) == pytest.approx(expected, rel=0.05)


def test_ternary_is_worse_without_clipping():
    shapes = ((4096,),)
    plain, clipped = (nmse(TernGrad(c), draw(shapes), shapes) for c in (None, 2.5))
    assert clipped[0] < plain[0] and plain[1] == clipped[1] == pytest.approx(1.6, rel=0.01)
    x = draw(shapes)
    x[9] = 1.0  # a hundred standard deviations
    assert TernGrad().decode(TernGrad().encode(x, shapes, {}, 1), shapes, 1)[9] < 0.1


def test_stc_takes_the_largest():
    x = np.zeros(1000, np.float32)
    x[[3, 400, 999]] = 5, -4, 3
    q = Stc(0.003)
    y = q.decode(q.encode(x, ((1000,),), {}, 1), ((1000,),), 1)
    assert np.flatnonzero(y).tolist() == [3, 400, 999] and y[[3, 400, 999]].tolist() == [4, -4, 4]


@pytest.mark.parametrize("p", [0.01, 0.05])
def test_stc_position_bits(p):
    """Eq. 17: b* + 1 / (1 - (1 - p)^(2^b*)) bits for a position, and one for the sign."""
    n, q = 20_000, Stc(p)
    b = q._golomb(n)
    bits = b + 1 / (1 - (1 - p) ** (2**b)) + 1
    measured = 8 * (len(q.encode(draw(((n,),)), ((n,),), {}, 1)) - 4) / (p * n)
    assert measured == pytest.approx(bits, rel=0.03)


def test_signs_error():
    """1 - 2/pi on Gaussian values (the contraction 1 - |x|_1^2 / (n |x|_2^2))."""
    shapes = ((1 << 14,),)
    assert nmse(Sign(), draw(shapes), shapes)[0] == pytest.approx(1 - 2 / math.pi, rel=0.02)


def test_power_sgd_is_exact_on_low_rank_and_converges_on_others():
    rng = np.random.default_rng(5)
    u, v = rng.standard_normal((60, 2)), rng.standard_normal((20, 2))
    m, shapes = (u @ v.T).astype(np.float32).reshape(-1), ((60, 20),)
    assert nmse(PowerSgd(2), m, shapes)[0] < 1e-10 and nmse(PowerSgd(2), m, shapes)[1] == 32 * 2 * 80 / 1200
    x, memory, q = draw(shapes), {}, PowerSgd(1)
    for s in range(50):
        y = q.decode(q.encode(x, shapes, memory, s), shapes, s)
    values = np.linalg.svd(x.reshape(60, 20), compute_uv=False)
    error = ((x - y) ** 2).sum() / (x**2).sum()
    assert error == pytest.approx(1 - values[0] ** 2 / (values**2).sum(), rel=1e-3)  # Eckart-Young


@pytest.mark.parametrize("q", [Stc(0.01), Sign(), PowerSgd(1), Eden(1), Int8()], ids=str)
def test_error_feedback_sends_all_in_the_end(q):
    """What was sent in T messages of one vector differs from T of it by a residual that does not grow
    (Karimireddy et al. 2019, lemma 3), though each message alone loses a part for good."""
    x, sender, total = draw(), Sender(q, feedback=True), np.zeros(410)
    norms = []
    for t in range(400):
        total += q.decode(sender.send(x, SHAPES, t), SHAPES, t)
        norms.append(np.linalg.norm(sender.residual))
    assert np.allclose(400 * x - total, sender.residual, atol=1e-3)
    assert max(norms[200:]) < 1.4 * max(norms[:200])  # without bound it would be 2
    assert np.linalg.norm(total / 400 - x) < 0.6 * np.linalg.norm(x)


def test_compressed_is_lossless_and_never_much_longer():
    for levels in (4, 16, 64):
        x = draw(seed=6)
        bu, packed = Ours(Codec("bu", levels)), Compressed(levels)
        data = packed.encode(x, SHAPES, {}, 1)
        assert np.array_equal(
            packed.decode(data, SHAPES, 1), bu.decode(bu.encode(x, SHAPES, {}, 1), SHAPES, 1)
        )
        assert len(data) < len(bu.encode(x, SHAPES, {}, 1))


def test_elias():
    """Elias 1975; omega's table starts 0, 100, 110, 101000."""
    assert [omega(n) for n in (1, 2, 3, 4, 16)] == ["0", "100", "110", "101000", "10100100000"]
    assert [gamma(n) for n in (1, 2, 5)] == ["1", "010", "00101"]
    values = [*range(1, 300), 65535, 2**31]
    for code, read in ((omega, Bits.omega), (gamma, Bits.gamma)):
        bits = Bits(to_bytes("".join(code(v) for v in values)))
        assert [read(bits) for _ in values] == values
        bits.end()


def test_packed_bits():
    for width in (1, 3, 6, 8):
        values = np.random.default_rng(1).integers(0, 1 << width, 77)
        assert np.array_equal(unpack(pack(values, width), 77, width), values)
    with pytest.raises(CodecError):
        unpack(b"\xff", 5, 1)
