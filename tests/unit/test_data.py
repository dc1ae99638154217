"""Data sets and splits: properties, damaged files, real files where they are."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.data import load, split
from quantfl.data.idx import load_mnist, read_idx
from quantfl.data.quantise import to_int8
from quantfl.errors import DataError, UsageError
from tests.support import shared_data


@given(
    st.integers(1, 12),
    st.integers(0, 99),
    st.sampled_from(["iid", "dirichlet:0.1", "dirichlet:5", "by-writer"]),
    st.none() | st.integers(1, 30),
)
@settings(deadline=None)
def test_splits_are_disjoint_seeded_and_never_empty(clients, seed, spec, per_client):
    rng = np.random.default_rng(3)
    y, groups = rng.integers(0, 7, 300), rng.integers(0, 40, 300)
    parts = split(spec, y, groups, clients, seed, per_client=per_client)
    again = split(spec, y, groups, clients, seed, per_client=per_client)
    assert len(parts) == clients and all(len(p) for p in parts)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    every = np.concatenate(parts)
    assert len(set(every.tolist())) == len(every) and every.min() >= 0 and every.max() < 300
    if per_client:
        assert max(map(len, parts)) <= per_client
    if spec == "by-writer":
        owners = [set(groups[p].tolist()) for p in parts]
        assert not any(a & b for i, a in enumerate(owners) for b in owners[:i])


def test_small_alpha_is_uneven_and_large_alpha_even():
    y = np.repeat(np.arange(10), 200)

    def spread(alpha):
        parts = split(f"dirichlet:{alpha}", y, None, 10, 1)
        return np.mean([np.bincount(y[p], minlength=10).max() / len(p) for p in parts])

    assert spread(0.1) > 0.5 > 0.2 > spread(1000)


@pytest.mark.parametrize("spec", ["", "dirichlet", "dirichlet:0", "dirichlet:x", "by-colour", "iid:3"])
def test_unknown_splits_name_the_known_ones(spec):
    with pytest.raises(UsageError, match="dirichlet:"):
        split(spec, np.zeros(10, int), None, 2, 1)


def test_too_few_samples_or_groups():
    with pytest.raises(DataError, match="too few"):
        split("iid", np.zeros(3, int), None, 4, 1)
    with pytest.raises(DataError, match="too few"):
        split("by-writer", np.zeros(9, int), np.arange(9) % 2, 4, 1)
    with pytest.raises(DataError, match="groups"):
        split("by-writer", np.zeros(9, int), None, 2, 1)


def idx_bytes(shape, fill=7) -> bytes:
    return (
        b"\0\0\x08"
        + bytes([len(shape)])
        + b"".join(n.to_bytes(4, "big") for n in shape)
        + bytes([fill]) * int(np.prod(shape))
    )


def test_idx_plain_and_gzip(tmp_path):
    (tmp_path / "a").write_bytes(idx_bytes((2, 3, 4)))
    (tmp_path / "b").write_bytes(gzip.compress(idx_bytes((5,))))
    assert read_idx(tmp_path / "a").shape == (2, 3, 4) and read_idx(tmp_path / "b").tolist() == [7] * 5


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:3], lambda b: b""]
)
def test_damaged_idx_is_refused_in_one_line(tmp_path, damage):
    (tmp_path / "a").write_bytes(damage(idx_bytes((2, 3, 4))))
    with pytest.raises(DataError) as error:
        read_idx(tmp_path / "a")
    assert "\n" not in str(error.value)


def test_npz_of_ones_own(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)), y=[0, 1, 2, 1], x_test=np.zeros((1, 2)), y_test=[2])
    ds = load(f"npz:{tmp_path / 'd.npz'}")
    assert len(ds.classes) == 3 and len(ds.x_train) == 4
    np.savez(tmp_path / "e.npz", x=np.zeros((4, 2)), y=[0, 1, 2, 1])
    with pytest.raises(DataError, match="x_test"):
        load(f"npz:{tmp_path / 'e.npz'}")
    with pytest.raises(DataError, match="no such file"):
        load(f"npz:{tmp_path / 'f.npz'}")
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(DataError):
        load(f"npz:{tmp_path / 'g.npz'}")


def test_quantise_rounds_half_to_even_and_saturates():
    x = np.array([[0.0, 0.5, 1.5, 2.5, -300.0, 300.0]])
    assert to_int8(x, 1.0, -3, 6).tolist() == [[-3, -3, -1, -1, -128, 127]]
    with pytest.raises(DataError, match="6 values"):
        to_int8(x, 1.0, 0, 5)
    with pytest.raises(DataError, match="NaN"):
        to_int8(np.array([[np.nan]]), 1.0, 0, 1)


def test_digits_come_with_scikit_learn():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")
    ds = load("digits")
    assert ds.x_train.shape == (897, 8, 8, 1) and ds.x_test.shape == (300, 8, 8, 1)
    assert set(ds.y_train) == set(range(10))


def test_digits_have_no_place(tmp_path):
    with pytest.raises(UsageError, match=r"data\.path = '.*': the digits come with quantfl") as error:
        load("digits", tmp_path)
    assert "\n" not in str(error.value)


def test_mnist_from_original_files():
    ds = load_mnist(shared_data("mnist"))
    assert ds.x_train.shape == (60000, 28, 28, 1) and ds.y_test[:5].tolist() == [7, 2, 1, 0, 4]


def test_femnist_by_writer():
    shared_data("femnist_leaf")
    letters, digits = load("femnist-letters"), load("femnist-digits")
    assert len(letters.classes) == 52 and len(digits.classes) == 10
    assert digits.groups_train is not None and len(set(digits.groups_train)) > 20
    assert np.median(digits.x_train[:50]) < 40  # dark background, as in MNIST
