"""Mistakes that people make with their own files: one line that names what is wrong, and what is due."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from quantfl.cli.main import main
from quantfl.data.dataset import load_npz
from quantfl.data.quantise import misfit
from quantfl.errors import DataError, RunError, UnsupportedError, UsageError
from quantfl.fleet import config, ledger_store
from quantfl.fleet.checkpoint import RunFolder, write_atomic
from quantfl.link.ledger import Ledger
from quantfl.package.calibrate import CalibrationWarning, samples
from quantfl.package.convert import convert
from quantfl.package.operators import BaseOperators
from tests.support import DEMO_MODEL, ROOT

GOOD = {
    "x": np.ones((4, 3), np.float32),
    "y": np.arange(4),
    "x_test": np.ones((2, 3), np.float32),
    "y_test": np.arange(2),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": GOOD["x"][:0], "y": GOOD["y"][:0]}, ["x has shape (0, 3)"]),
        ({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}, ["x_test has shape (0, 3)"]),
        ({"x": GOOD["x"].astype("U8")}, ["x has dtype <U8"]),
        ({"x": GOOD["x"].astype("M8[s]")}, ["x has dtype datetime64"]),
        ({"x": np.array(5.0)}, ["x has shape ()"]),
        ({"x": GOOD["x"].astype(complex)}, ["x has dtype complex128"]),
        ({"x": GOOD["x"] * np.inf}, ["x float32 (4, 3) holds NaN or infinity"]),
        ({"x_test": GOOD["x_test"] * np.nan}, ["x_test float32 (2, 3) holds NaN"]),
        ({"x_test": np.ones((2, 4))}, ["x has shape (3,)", "x_test (4,)"]),
        ({"y": np.arange(5)}, ["y has 5 values, but x has 4"]),
        ({"y": np.arange(4) - 1}, ["y runs from -1 to 2"]),
        ({"y": np.arange(4) * 30000}, ["y runs from 0 to 90000"]),
        ({"y": np.arange(4.0)}, ["y must be a vector of integers, not float64 (4,)"]),
        ({"y": np.ones((4, 10), int)}, ["y must be a vector of integers", "(4, 10)"]),
        ({"groups": np.array([0, 1])}, ["groups has 2 values, but x has 4"]),
        ({"groups": np.arange(5000)}, ["groups has 5000 values, but x has 4"]),
        ({"x": np.array([[None]], object)}, ["not a .npz file of plain arrays"]),
    ],
)
def test_arrays_of_ones_own_are_looked_at(tmp_path, change, words):
    path = tmp_path / "own.npz"
    np.savez(path, **(GOOD | change))
    with pytest.raises(DataError) as error:
        load_npz(path)
    assert all(w in str(error.value) for w in (*words, "own.npz"))


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_a_truncated_npz_is_told_in_one_line(tmp_path, cut):
    path = tmp_path / "own.npz"
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"own\.npz"):
        load_npz(path)


def test_what_cannot_be_written_leaves_no_temporary_file(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()  # a folder where a file is due: the rename fails
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(target, b"content")
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / "absent" / "file", b"content")


TEXT = '[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n'


def test_descriptions_as_editors_save_them(tmp_path):
    path = tmp_path / "F.toml"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    assert config.load(path).model.path == "m.tflite"
    for raw in (TEXT.encode("utf-16"), (TEXT + "# é").encode("latin-1")):
        path.write_bytes(raw)
        with pytest.raises(UsageError, match="save the file as UTF-8"):
            config.load(path)


def test_a_misspelt_table_is_told_with_the_right_one():
    with pytest.raises(UsageError, match=r"trian: no such key \(is train meant\?\)"):
        config.parse(TEXT + "[trian]\nlr = 0.1\n")


def test_an_empty_ledger_is_not_made_anew(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"")
    with pytest.raises(RunError, match="cut short"):
        ledger_store.load(path)
    assert path.read_bytes() == b""


def test_damaged_ledgers_and_checkpoints_are_told_in_one_line(tmp_path):
    folder, rng = RunFolder(tmp_path), np.random.default_rng(1)
    meta = np.frombuffer(b'{"format": 4, "round": 1}', np.uint8)
    np.savez(folder.checkpoint, meta=meta, **{"strategy/params": np.zeros(50, np.float32)})
    ledger_store.save(folder.ledger, Ledger())
    for path, load in (
        (folder.checkpoint, folder.load),
        (folder.ledger, lambda: ledger_store.load(folder.ledger)),
    ):
        good = path.read_bytes()
        for _ in range(150):
            raw = bytearray(good[: int(rng.integers(1, len(good) + 1))])
            for at in rng.integers(0, len(raw), 3):
                raw[at] ^= int(rng.integers(1, 256))
            path.write_bytes(bytes(raw))
            try:
                load()
            except RunError as error:
                assert path.name in str(error)


def test_a_bias_at_the_limit_does_not_matter_where_the_multiplier_is_0():
    class Input:
        zero_point = -128

    compiler = BaseOperators(None)
    weights, bias = np.ones((2, 4), np.int8), np.array([2**31 - 1, 5])
    compiler.conv_table(None, weights, Input, bias, [(0, 0), (1 << 30, 0)])
    rows = np.frombuffer(bytes(compiler.tables), "<i4").reshape(-1, 3)
    assert rows[:, :2].tolist() == [[0, 0], [5 + 128 * 4, 1 << 30]]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((9, 3)), "every value is 0"),
        (np.ones((9, 3)) * np.inf, "NaN or infinity"),
        (np.ones((9, 3)) * 1e300, "NaN or infinity"),
        (np.ones((0, 3)), "calibrates nothing"),
        (np.arange(9), "takes inputs (samples, 3)"),
        (np.ones((9, 4)), "float64 (9, 4)"),
        (np.array([["a", "b", "c"]]), "calibrates nothing"),
    ],
)
def test_calibration_data_is_looked_at(tmp_path, x, words):
    np.save(tmp_path / "c.npy", x)
    with pytest.raises(UsageError) as error:
        samples(tmp_path / "c.npy", (3,))
    assert words in str(error.value) and "c.npy" in str(error.value)


def test_calibration_takes_the_array_that_fits():
    """Labels may come first in the file, and a channel of one may be left out."""
    x, y = np.random.default_rng(1).normal(size=(30, 5, 5)), np.arange(30)
    for names in (("labels", "data"), ("a", "x"), ("y_train", "x_train")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.npz"
            np.savez(path, **{names[0]: y, names[1]: x})
            assert samples(path, (5, 5, 1)).shape == (30, 5, 5, 1)
            np.savez(path, a=x, b=x)
            with pytest.raises(UsageError, match="several arrays fit: a, b; name the inputs x"):
                samples(path, (5, 5))
            np.savez(path, x=x[:4])
            with pytest.warns(CalibrationWarning, match="4 samples: ranges taken from fewer than 20"):
                assert samples(path, (5, 5)).shape == (4, 5, 5)


def test_a_model_with_several_outputs_is_refused():
    """It trained the last operator's output and scored output 0, without a word."""
    path = ROOT.parent / "shared" / "cases" / "two_swapped.tflite"
    if not path.exists():
        pytest.skip("the shared cases are absent")
    with pytest.raises(UnsupportedError, match="2 outputs") as error:
        convert(path)
    assert "StatefulPartitionedCall_1:1" in str(error.value) and error.value.exit_code == 4
    assert "--output" in str(error.value)
    with pytest.raises(UsageError, match="--output StatefulPartitionedCall fits several"):
        convert(path, output="StatefulPartitionedCall")


def test_a_run_is_evaluated_and_repeated_from_another_folder(tmp_path, monkeypatch, capsys):
    """Relative paths of the description start from where it lay, not from where it is looked at."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")
    from quantfl.data.dataset import load_digits

    digits = load_digits(None)
    home = tmp_path / "project" / "sub"
    home.mkdir(parents=True)
    (home / "m.tflite").write_bytes(DEMO_MODEL.read_bytes())
    np.savez(
        home / "my.npz",
        x=digits.x_train[:200],
        y=digits.y_train[:200],
        x_test=digits.x_test[:50],
        y_test=digits.y_test[:50],
    )
    (home / "my.toml").write_text(
        '[run]\nname = "mine"\nrounds = 1\n[model]\npath = "m.tflite"\n[fleet]\nemulate = "inproc"\n'
        'boards = 2\n[data]\nname = "npz:my.npz"\nsplit = "iid"\n'
    )
    monkeypatch.chdir(tmp_path / "project")
    assert main(["run", "sub/my.toml", "--out", "run"]) == 0
    monkeypatch.chdir(tmp_path)
    for verb in (
        ["evaluate", "project/run"],
        ["export", "project/run", "-o", "e.tflite"],
        ["report", "project/run"],
    ):
        assert main(verb) == 0, capsys.readouterr().err
    assert main(["run", "project/run/FLEET.toml", "--out", "again"]) == 0, capsys.readouterr().err
    a, b = RunFolder(tmp_path / "project" / "run").load(), RunFolder(tmp_path / "again").load()
    assert a.params.tobytes() == b.params.tobytes()


@pytest.mark.parametrize(
    ("factor", "offset", "words"),
    [
        (1.0, 0.0, None),
        (1 / 255, 0.0, "of 256 int8 values"),
        (255.0, 0.0, "cut off"),
        (1.0, -300.0, "cut off"),
    ],
)
def test_samples_in_other_units_than_the_models_are_said(factor, offset, words):
    """x / 255 left one or two int8 values per pixel, and nothing was said."""
    x = np.random.default_rng(1).uniform(0, 255, (50, 8, 8, 1)) * factor + offset
    warning = misfit(x, 1.0, -128, "npz:my.npz")
    assert (warning is None) if words is None else (words in warning and "npz:my.npz" in warning)
    assert misfit(np.zeros((5, 4)), 1.0, -128) is None  # one value only is not a matter of units
    assert misfit(np.eye(4) * 255, 1.0, -128) is None  # black and white is what it is
