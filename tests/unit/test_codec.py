"""qfl_codec: BU(L) against a numpy statement of its definition, limits of its error, refusal of malformed
bytes."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantfl.core import ffi, lib
from quantfl.core.codec import (
    LEVELS,
    Codec,
    CodecError,
    Form,
    decode,
    dz_encode,
    dz_quantise,
    dz_read,
    dz_step,
    dz_value,
    dz_with_feedback,
    dz_write,
)

floats = st.floats(-1e6, 1e6, width=32)
vectors = hnp.arrays(np.float32, st.integers(1, 300), elements=floats)


def bu_oracle(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and midpoints of one range, in float32 as defined in docs/CODEC.md."""
    lo, hi = x.min(), x.max()
    step = np.float32((hi - lo) / np.float32(levels))
    if hi == lo or not step > 0:
        return np.zeros(len(x), int), np.full(len(x), lo, np.float32)
    index = np.minimum(((x - lo) / step).astype(np.float32).astype(np.int64), levels - 1)
    return index, (lo + (index.astype(np.float32) + np.float32(0.5)) * step).astype(np.float32)


@given(vectors, st.sampled_from(LEVELS))
def test_bu_equals_its_definition_bit_for_bit(x, levels):
    x = x + np.float32(0)  # no -0: which of the two zeros is the lower end is not defined
    data = Codec("bu", levels).encode(x, [len(x)])
    index, values = bu_oracle(x, levels)
    assert decode(data, [len(x)]).tobytes() == values.tobytes()
    bits = levels.bit_length() - 1
    if struct.unpack_from("<ff", data, 2)[0] != struct.unpack_from("<ff", data, 2)[1]:
        assert len(data) == 10 + (len(x) * bits + 7) // 8
        packed = int.from_bytes(data[10:], "little")
        assert [(packed >> (bits * i)) & (levels - 1) for i in range(len(x))] == index.tolist()
        assert packed >> (bits * len(x)) == 0
    else:
        assert len(data) == 10


@given(vectors, st.sampled_from(LEVELS), st.booleans(), st.booleans())
def test_error_is_at_most_a_bucket(x, levels, per_tensor, means):
    tensors = [len(x)] if len(x) < 3 else [len(x) // 3, len(x) - len(x) // 3]
    y = decode(Codec("bu", levels, per_tensor, means).encode(x, tensors), tensors)
    width = (float(x.max()) - float(x.min())) / levels
    slack = 4 * np.spacing(np.float32(np.abs(x).max()))
    assert np.abs(y.astype(np.float64) - x).max() <= (width if means else width / 2) + slack


@given(vectors)
def test_means_are_never_worse_than_midpoints(x):
    def squared(means: bool) -> float:
        return float(
            (
                (decode(Codec("bu", 4, False, means).encode(x, [len(x)]), [len(x)]).astype(np.float64) - x)
                ** 2
            ).sum()
        )

    assert (
        squared(True) <= squared(False) * (1 + 1e-3) + 1e-9 * float((x.astype(np.float64) ** 2).sum()) + 1e-30
    )


@given(vectors)
def test_fp32_is_exact(x):
    data = Codec("fp32").encode(x, [len(x)])
    assert len(data) == 1 + 4 * len(x)
    assert decode(data, [len(x)]).tobytes() == x.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", [Codec("fp32"), Codec("bu", 64), Codec("bu", 4, True, True)])
def test_non_finite_values_are_refused(codec, bad):
    x = np.linspace(-1, 1, 50).astype(np.float32)
    x[17] = bad
    with pytest.raises(CodecError, match="NaN or infinity"):
        codec.encode(x, [50])


def test_a_range_beyond_float32_is_refused():
    with pytest.raises(CodecError, match="bounds"):
        Codec("bu", 4).encode(np.array([-3e38, 3e38], np.float32), [2])


def test_constants_cost_a_header_only():
    x = np.full(10_000, -0.25, np.float32)
    data = Codec("bu", 256).encode(x, [10_000])
    assert len(data) == 10
    assert (decode(data, [10_000]) == x).all()


def test_golden_vector():
    """The example of docs/CODEC.md."""
    data = Codec("bu", 4).encode(np.array([-1, -0.5, 0, 0.5, 1], np.float32), [5])
    assert data.hex() == "0102000080bf0000803fe403"
    assert decode(data, [5]).tolist() == [-0.75, -0.25, 0.25, 0.75, 0.75]


@given(st.binary(max_size=200), st.integers(1, 60))
@settings(max_examples=400)
def test_arbitrary_bytes_are_refused_or_decode_to_finite_values(data, n):
    with contextlib.suppress(CodecError):
        assert np.isfinite(decode(data, [n])).all()


@given(
    vectors,
    st.sampled_from([Codec("bu", 8), Codec("bu", 64, True), Codec("bu", 4, False, True), Codec("fp32")]),
    st.data(),
)
@settings(max_examples=200)
def test_truncated_extended_or_misaddressed_bytes_are_refused(x, codec, data):
    encoded = codec.encode(x, [len(x)])
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(CodecError):
            decode(wrong, [len(x)])


def dz_oracle(x: np.ndarray, step: float) -> np.ndarray:
    """Symbols times step, in float32 as defined in docs/CODEC.md."""
    t = (np.abs(x) / np.float32(step)).astype(np.float32) + np.float32(0.5)
    return (np.sign(x) * np.floor(t) * np.float32(step)).astype(np.float32)


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 12),
    st.floats(1e-6, 1e3),
)
@settings(max_examples=200, deadline=None)
def test_dz_equals_its_definition_bit_for_bit(rows, columns, seed, steps, scale):
    rng = np.random.default_rng(seed)
    x = (rng.laplace(size=(rows + 1) * columns) * scale).astype(np.float32)
    x *= rng.random(x.size) < rng.random()
    tensors = [rows * columns, columns]
    data = Codec("dz", step=steps).encode(x, tensors)
    step = dz_value(dz_step(x, steps))
    rms = float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    if rms > 1e-9:
        wanted = round(16 * steps) / 16 * rms
        assert step <= wanted * (1 + 1e-3) and step * 1.25 * (1 + 1e-3) >= wanted
    assert (decode(data, tensors) == dz_oracle(x, step)).all()
    if not dz_oracle(x, step).any():
        assert len(data) == 1


def test_dz_of_an_outer_product_costs_less_than_its_entropy():
    """Rows and columns of a dense layer's delta are busy or not together; contexts must find that."""
    rng = np.random.default_rng(1)
    x = np.outer(rng.gamma(0.3, size=128), rng.normal(size=10) * rng.gamma(0.5, size=10)).astype(np.float32)
    x = np.concatenate([x.reshape(-1), rng.normal(size=10).astype(np.float32) * 0.1])
    data = Codec("dz", step=0.5).encode(x, [1280, 10])
    symbols = np.rint(decode(data, [1280, 10]) / dz_value(data[1])).astype(int)
    _, counts = np.unique(symbols, return_counts=True)
    p = counts / counts.sum()
    assert len(data) < 0.9 * -(counts * np.log2(p)).sum() / 8


@given(st.integers(0, 255))
def test_dz_steps_are_a_grid(code):
    assert dz_value(code) == (4 + code % 4) * 2.0 ** (code // 4 - 40)


def test_dz_extremes():
    x = np.zeros(1000, np.float32)
    x[500] = 1e9
    y = decode(dz_encode(x, 160, [1000]), [1000])  # step 4: a symbol far beyond the unary part
    assert y[500] == 4 * 2**24 and np.count_nonzero(y) == 1
    assert Codec("dz", step=1).encode(np.zeros(5, np.float32), [5]) == b"\x02"


@given(st.binary(min_size=1, max_size=120).map(lambda b: b"\x02" + b), st.integers(1, 60), st.integers(1, 8))
@settings(max_examples=500)
def test_dz_of_arbitrary_bytes_is_refused_or_finite(data, rows, columns):
    with contextlib.suppress(CodecError):
        assert np.isfinite(decode(data, [rows * columns, columns])).all()


CODED = [
    Codec(kind, levels, per_tensor, means, coded=coded)
    for kind in ("bu", "bq")
    for levels in (4, 16, 64)
    for per_tensor in (False, True)
    for means in (False, True)
    for coded in (False, True)
]


def bq_oracle(x: np.ndarray, levels: int) -> np.ndarray:
    """Midpoints, as defined in docs/CODEC.md."""
    order = np.sort(x)
    if order[0] == order[-1]:
        return np.full(len(x), order[0], np.float32)
    edges = np.append(order[np.arange(levels) * len(x) // levels], order[-1]).astype(np.float32)
    index = np.searchsorted(edges[1:levels], x, side="right")
    return (edges[index] + (edges[index + 1] - edges[index]) * np.float32(0.5)).astype(np.float32)


@given(vectors, st.sampled_from([4, 8, 64, 256]))
@settings(max_examples=150, deadline=None)
def test_bq_equals_its_definition(x, levels):
    width = np.float32(x.max() - x.min())
    if np.float32(width / np.float32(levels)) > 0:
        np.testing.assert_array_equal(
            decode(Codec("bq", levels).encode(x, [len(x)]), [len(x)]), bq_oracle(x, levels)
        )


@given(vectors, st.sampled_from(CODED))
@settings(max_examples=300, deadline=None)
def test_coding_the_indices_changes_no_value(x, codec):
    tensors = [len(x)] if len(x) < 3 else [len(x) // 3, len(x) - len(x) // 3]
    plain = Codec(codec.kind, codec.levels, codec.per_tensor, codec.means)
    data = codec.encode(x, tensors)
    assert decode(data, tensors).tobytes() == decode(plain.encode(x, tensors), tensors).tobytes()
    assert codec.encode(x, tensors) == data


@given(vectors, st.sampled_from([c for c in CODED if c.coded]), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_coded_bytes_are_refused_or_decode_to_something_finite(x, codec, data):
    encoded = bytearray(codec.encode(x, [len(x)]))
    at, value = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(0, 255))
    encoded[at] = value
    for wrong in (bytes(encoded), bytes(encoded[:at]), bytes(encoded) + b"\1"):
        with contextlib.suppress(CodecError):
            assert np.isfinite(decode(wrong, [len(x)])).all()


@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize("flags", [0x40, 0x50, 0x60])
def test_coded_buckets_beyond_64_levels_are_refused(kind, flags):
    """They have no place in the coder's tables."""
    tables = struct.pack("<ff", -1.0, 1.0) + b"\0" * 1024
    with pytest.raises(CodecError):
        decode(bytes((kind | flags, 8)) + tables + b"\x55" * 300, [200, 20])
    with pytest.raises(CodecError, match="not supported"):
        Codec("bu" if kind == 1 else "bq", 256, coded=True).encode(
            np.arange(220, dtype=np.float32), [200, 20]
        )


def test_coding_pays_on_a_heads_delta_and_costs_little_at_worst():
    rng = np.random.default_rng(2)
    delta = np.concatenate(
        [np.outer(rng.gamma(0.3, size=128), rng.normal(size=10)).reshape(-1), rng.normal(size=10) * 0.1]
    )
    size = {c: len(Codec("bu", 64, coded=c).encode(delta, [1280, 10])) for c in (False, True)}
    assert size[True] < 0.6 * size[False]
    flat = rng.random(4000).astype(np.float32)
    size = {c: len(Codec("bu", 16, coded=c).encode(flat, [4000])) for c in (False, True)}
    assert size[True] < 1.03 * size[False]


some = [*[0] * 8, 1, -1, 2, -3, 14, 15, 16, -40, 2**20, -(2**24)]
symbols = hnp.arrays(np.int32, st.integers(2, 400), elements=st.sampled_from(some))


@given(symbols, st.integers(1, 255), st.booleans(), st.integers(-5, 10), st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_dz_symbols_survive(s, code, agreed, offset, columns):
    tensors = [len(s) - columns, columns] if len(s) > columns else [len(s)]
    form = Form(code, agreed, offset if agreed else 0)
    data = dz_write(s, form, tensors)
    back, read = dz_read(data, tensors, code if agreed else 0)
    assert (back == s).all()
    if s.any() or agreed:
        assert read == form
    if not s.any():
        assert len(data) == 1
    if agreed:
        with pytest.raises(CodecError):
            dz_read(data, tensors)  # nobody agreed on a step
        assert len(dz_write(s, Form(code), tensors)) == len(data) + int(s.any())
    with pytest.raises(CodecError):
        dz_read(data + b"\0", tensors, code if agreed else 0)
    longer = data + b"\1" * 9
    # rarely these are bytes of other symbols: a reader has asked for four bytes more than it needs to tell
    # them apart
    try:
        back, read = dz_read(longer, tensors, code if agreed else 0)
    except CodecError:
        return
    again = dz_write(back, read, tensors)
    assert (
        (back != s).any()
        and len(longer) - 4 <= len(again) <= len(longer)
        and longer[: len(again) - 1] == again[:-1]
    )


@given(symbols, st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_the_streaming_writer_makes_the_same_bytes(s, code):
    data, size = dz_write(s, Form(code), [len(s)]), ffi.new("uint32_t *")
    out, memory = (
        ffi.new("uint8_t[]", len(data) + 8),
        ffi.new("uint64_t[]", (lib.qfl_codec_dz_stream_size() + 7) // 8),
    )
    stream = ffi.cast("qfl_codec_dz_stream *", memory)
    lib.qfl_codec_dz_stream_begin(stream, code, out, len(data) + 8)
    for v in s:
        lib.qfl_codec_dz_stream_put(stream, int(v))
    status = lib.qfl_codec_dz_stream_end(stream, size)
    assert status == 0 and bytes(ffi.buffer(out, size[0])) == data


def test_a_stream_without_room_says_so():
    stream, out, size = ffi.new("uint64_t[]", 256), ffi.new("uint8_t[]", 8), ffi.new("uint32_t *")
    for cap in (0, 1, 5):
        s = ffi.cast("qfl_codec_dz_stream *", stream)
        lib.qfl_codec_dz_stream_begin(s, 100, out, cap)
        for v in range(-50, 50):
            lib.qfl_codec_dz_stream_put(s, v)
        assert lib.qfl_codec_dz_stream_end(s, size) == lib.QFL_E_NOMEM


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)),
    st.integers(120, 170),
)
@settings(max_examples=150, deadline=None)
def test_error_feedback_keeps_what_quantising_loses(x, code):
    """Symbols are the nearest, but of magnitude 2 at most; with the residual they are the values, to 1/66 of
    a step, as far as int8 reaches; fed back, they are what comes next."""
    step, residual, unit = dz_value(code), np.zeros(len(x), np.int8), lib.QFL_CODEC_RESIDUAL
    work = x.copy()
    lib.qfl_codec_dz_quantise(
        ffi.from_buffer("float[]", work), len(x), code, ffi.from_buffer("int8_t[]", residual)
    )
    s = work.view(np.int32)
    assert (s == np.clip(dz_quantise(x, code), -lib.QFL_CODEC_FED, lib.QFL_CODEC_FED)).all()
    lost = x.astype(np.float64) / step - s
    far = np.abs(lost) > 127.5 / unit
    assert (residual[far] == 127 * np.sign(lost[far])).all()
    assert np.abs(residual[~far] / unit - lost[~far]).max(initial=0) <= 0.51 / unit
    kept = residual.copy()
    symbols = dz_with_feedback(np.zeros(len(x), np.float32), 0, kept, 0.5 * step, code)
    np.testing.assert_allclose(symbols + kept / unit, residual / unit * 0.5, atol=0.51 / unit)


@given(st.integers(1, 12), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_rows_are_coded_without_their_means(rows, columns, seed):
    """Symbols and residual are the values less their row's mean, whatever is added to a row."""
    rng = np.random.default_rng(seed)
    x, unit = np.clip(rng.laplace(size=(rows, columns)), -2.5, 2.5).astype(np.float32), lib.QFL_CODEC_RESIDUAL
    residual = np.zeros(x.size, np.int8)
    symbols = dz_with_feedback(x.reshape(-1), columns, residual, 0.0, 152)  # a step of 1
    got = (symbols + residual / unit).reshape(rows, columns)
    np.testing.assert_allclose(got, x - x.mean(1, keepdims=True, dtype=np.float64), atol=1 / unit)
    moved = np.zeros(x.size, np.int8)
    again = dz_with_feedback(
        (x + rng.normal(size=(rows, 1)).astype(np.float32)).reshape(-1), columns, moved, 0.0, 152
    )
    np.testing.assert_allclose(again + moved / unit, got.reshape(-1), atol=2 / unit)


def test_many_rounds_of_feedback_lose_nothing():
    """A constant delta far below a step gets through in the mean."""
    x, total, step = np.full(50, 0.13, np.float32), np.zeros(50), dz_value(160)
    residual = np.zeros(50, np.int8)
    for _ in range(400):
        total += dz_with_feedback(x, 0, residual, step, 160) * step
    np.testing.assert_allclose(total / 400, 0.13, rtol=0.1)


def test_a_change_beyond_two_steps_goes_on_with_the_next_deltas():
    """And the half step that was too much at the end stays where it is, though nothing else changes."""
    step, residual = dz_value(160), np.zeros(3, np.int8)
    sent = [
        dz_with_feedback(step * np.array([v, -v, 0], np.float32), 0, residual, step, 160).tolist()
        for v in (5.5, 0, 0, 0, 0)
    ]
    assert sent == [[2, -2, 0], [2, -2, 0], [2, -2, 0], [0, 0, 0], [0, 0, 0]]
    far = np.full(3, 1e30, np.float32)
    assert (
        dz_with_feedback(far, 0, residual, 0.0, 160).tolist() == [2, 2, 2] and residual.tolist() == [127] * 3
    )
