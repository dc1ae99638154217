"""Data of a user's own: what each loader takes, and one line for what it does not."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.data import from_iterable, load, load_edge_impulse, load_images
from quantfl.data.dataset import digits_arrays, located
from quantfl.errors import DataError


def table(path: Path, extra: str = "") -> Path:
    lines = [f"{i},{2 * i}.5,{'ab'[i % 2]},p{i % 3},{'test' if i > 15 else 'train'}" for i in range(20)]
    path.write_text("f1,f2,label,group,split\n" + "\n".join(lines) + "\n" + extra)
    return path


def test_a_table(tmp_path):
    ds = load(f"csv:{table(tmp_path / 't.csv')}")
    assert ds.x_train.shape == (16, 2) and ds.x_test.shape == (4, 2) and ds.x_train[3, 1] == 6.5
    assert ds.classes == ("a", "b") and list(ds.y_test) == [0, 1, 0, 1]
    assert set(ds.groups_train) == {0, 1, 2}


def test_a_table_with_semicolons_and_a_byte_order_mark(tmp_path):
    text = "﻿f1;label\n" + "".join(f"{i};{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    ds = load(f"csv:{tmp_path / 't.csv'}")
    assert len(ds.x_train) == 18 and len(ds.x_test) == 2  # every tenth of a class


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("f1,label\n1,a\nx,b\n", "line 3, column f1: 'x' is no number"),
        ("f1,label\n1,a\n2\n", "line 3 has 1 values"),
        ("f1,label\n1,a\nnan,b\n", "not finite"),
        ("f1,label\n1,a\n2,a\n", "one class only"),
        ("f1,name\n1,a\n", "no column `label`"),
        ("f1,label,split\n1,a,later\n", "train or test"),
        ("f1\n", "at least one line"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, text, due):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=r"^(.*/t\.csv|t): ") as error:
        load(f"csv:{tmp_path / 't.csv'}")
    assert due in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_table_give_data_or_one_line(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(raw)
    with pytest.raises(DataError):
        load(f"csv:{path}")


def test_recordings(tmp_path):
    for label in ("wave", "still"):
        (tmp_path / label).mkdir()
        for i in range(11):
            rows = "".join(f"{20 * t},{t},{i},-1\n" for t in range(8))
            (tmp_path / label / f"ann.{i}.csv").write_text("timestamp,x,y,z\n" + rows)
    ds = load(f"csv:{tmp_path}")
    assert ds.x_train.shape == (20, 8, 3) and ds.classes == ("still", "wave")
    (tmp_path / "wave" / "bob.1.csv").write_text("timestamp,x,y,z\n0,1,2,3\n")
    with pytest.raises(DataError, match=r"shape \(1, 3\), the first \(8, 3\)"):
        load(f"csv:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        load(f"csv:{tmp_path / 'absent'}")


def test_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra images)")
    for k, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for i in range(4):
            image.fromarray(np.full((6, 5), 100 * k + i, np.uint8)).save(tmp_path / label / f"cam.{i}.png")
    ds = load(f"images:{tmp_path}")
    assert ds.x_train.shape == (6, 6, 5, 1) and ds.x_train.dtype == np.uint8
    assert sorted(set(ds.x_train[:, 0, 0, 0])) == [0, 1, 2, 100, 101, 102]
    assert load_images(tmp_path, size=(3, 3), gray=False).x_train.shape == (6, 3, 3, 3)
    (tmp_path / "dog" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture"):
        load(f"images:{tmp_path}")


def acquired(values: list, device: str) -> dict:
    payload = {
        "device_name": device,
        "device_type": "MADE_UP",
        "interval_ms": 16,
        "sensors": [{"name": "accX", "units": "m/s2"}, {"name": "accY", "units": "m/s2"}],
        "values": values,
    }
    return {"protected": {"ver": "v1", "alg": "none"}, "signature": "0", "payload": payload}


def test_an_export_of_edge_impulse(tmp_path):
    files = []
    for part in ("training", "testing"):
        (tmp_path / part).mkdir()
        for i, label in enumerate(("idle", "snake") * 2):
            raw = acquired([[t, i] for t in range(16)], f"device{i % 2}")
            name = f"{label}.{i}.{'cbor' if i == 3 else 'json'}"
            (tmp_path / part / name).write_bytes(cbor2.dumps(raw) if i == 3 else json.dumps(raw).encode())
            files.append(
                {"path": f"{part}/{name}", "category": part, "label": {"type": "label", "label": label}}
            )
    by_name = load(f"edge-impulse:{tmp_path}")
    (tmp_path / "info.labels").write_text(json.dumps({"version": 1, "files": files}))
    listed = load(f"edge-impulse:{tmp_path}")
    for ds in (by_name, listed):
        assert ds.classes == ("idle", "snake") and ds.x_train.shape == (4, 16, 2) and len(ds.x_test) == 4
        assert sorted(set(ds.groups_train)) == [0, 1]
    assert load_edge_impulse(tmp_path, window=8, stride=4).x_train.shape == (12, 8, 2)
    for wrong in ("{}", '{"files": [{"path": "../x.json", "label": "a"}]}', "[", '{"files": [{}]}'):
        (tmp_path / "info.labels").write_text(wrong)
        with pytest.raises(DataError, match=r"info\.labels"):
            load(f"edge-impulse:{tmp_path}")
    (tmp_path / "info.labels").unlink()
    (tmp_path / "training" / "idle.9.json").write_text('{"payload": {"values": "no"}}')
    with pytest.raises(DataError, match=r"idle\.9\.json: not a recording"):
        load(f"edge-impulse:{tmp_path}")
    (tmp_path / "training" / "idle.9.json").unlink()
    with wave.open(str(tmp_path / "training" / "idle.8.wav"), "wb") as w:
        w.setparams((1, 2, 16000, 0, "NONE", ""))
        w.writeframes(np.arange(16, dtype="<i2").tobytes())
    with pytest.raises(DataError, match=r"shape \(16, 1\)"):
        load(f"edge-impulse:{tmp_path}")


def test_words_of_which_there_are_few(tmp_path):
    """Every tenth file of a word is for testing, and one where there are fewer than ten."""
    files = {
        "no": [f"{who}_nohash_{i}" for who in "ab" for i in range(6)],
        "yes": ["a_nohash_0", "c_nohash_0"],
    }
    for word, names in files.items():
        (tmp_path / word).mkdir()
        for name in names:
            with wave.open(str(tmp_path / word / f"{name}.wav"), "wb") as w:
                w.setparams((1, 2, 8000, 0, "NONE", ""))
                w.writeframes(np.arange(8000, dtype="<i2").tobytes())
    (tmp_path / "_background_noise_").mkdir()
    ds = load(f"wav:{tmp_path}")
    assert ds.classes == ("no", "yes") and ds.x_train.shape == (12, 49, 10, 1)
    assert list(ds.y_test) == [0, 1] and list(ds.groups_test) == [1, 2] and list(ds.groups_train[-1:]) == [0]
    for file in (tmp_path / "yes").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"one class only \(no\)"):
        load(f"wav:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        load(f"wav:{tmp_path / 'absent'}")


class Rows(list):
    """As Hugging Face's `datasets` gives rows: mappings, with the names of labels in `features`."""

    def __init__(self, rows: list, names: list[str] | None = None):
        super().__init__(rows)
        self.features = {} if names is None else {"label": type("ClassLabel", (), {"names": names})()}


def test_rows_of_python():
    rows = [{"image": np.full((4, 4), i), "label": i % 2, "who": f"w{i % 4}"} for i in range(40)]
    ds = from_iterable(Rows(rows, ["zebra", "ant"]), group="who")
    assert ds.classes == ("zebra", "ant")  # labels keep their numbers, whatever the names' order
    assert list(ds.y_train[:2]) == [0, 1] and len(ds.x_test) == 4 and len(set(ds.groups_train)) == 4
    gaps = from_iterable([{"image": [0.0], "label": k} for k in (0, 3, 0, 3)], [{"image": [1], "label": 3}])
    assert gaps.classes == ("0", "1", "2", "3") and list(gaps.y_test) == [3]
    named = from_iterable([{"image": [0.0], "label": k} for k in "baba"])
    assert named.classes == ("a", "b") and list(named.y_train) == [1, 0]
    with pytest.raises(DataError, match="has no column 'image'"):
        from_iterable([{"img": 1, "label": 0}])


def test_a_python_file(tmp_path):
    own = tmp_path / "data.py"
    own.write_text(
        "import numpy as np\nfrom quantfl.data import Dataset\n"
        "def dataset():\n    x, y = np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])\n"
        "    return Dataset('mine', x, y, x, y, ('a', 'b'))\n"
    )
    assert load(*located("python:data.py", None, tmp_path)).classes == ("a", "b")
    for text, due in (
        ("def dataset(): return 3", "returned int"),
        ("def dataset(): 1 / 0", "ZeroDivisionError"),
        ("syntax error", "SyntaxError"),
        ("x = 1", "AttributeError"),
    ):
        own.write_text(text)
        with pytest.raises(DataError, match=due):
            load(f"python:{own}")


def test_the_digits_that_come_along_are_those_of_scikit_learn():
    bundled = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    x, y = digits_arrays()
    order = np.random.default_rng(20261124).permutation(len(bundled.target))
    assert (x[..., 0] == (bundled.images[order] * (255.0 / 16.0)).astype(np.float32)).all()
    assert (y == bundled.target[order]).all()
