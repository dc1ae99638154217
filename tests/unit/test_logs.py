"""Logs for other tools: the rounds of the history, read back by the tools' own readers."""

from __future__ import annotations

import csv

import pytest

from quantfl.cli.main import main
from quantfl.report.logs import COLUMNS, KINDS, make, row_of
from quantfl.report.runs import read
from tests.support import demo_toml


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("logs")
    description = demo_toml(base / "f.toml", emulate="inproc", boards=3, rounds=3)
    assert main(["run", str(description), "--out", str(base / "run")]) == 0
    return base / "run"


def test_csv(run, tmp_path):
    assert main(["report", str(run), "--log", f"csv:{tmp_path / 'r.csv'}"]) == 0
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = read(run).state.history
    assert [int(r["round"]) for r in rows] == [0, 1, 2, 3] and tuple(rows[0]) == COLUMNS
    assert [float(r["accuracy"]) for r in rows] == [r["accuracy"] for r in history]
    assert [int(r["up_bytes"]) for r in rows] == [r["up_bytes"] for r in history]
    assert rows[0]["train_loss"] == "" and rows[1]["contributors"] == "3"


def test_tensorboard(run, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra tensorboard)")
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")

    assert main(["report", str(run), "--log", f"tensorboard:{tmp_path / 'tb'}"]) == 0
    [file] = (tmp_path / "tb").iterdir()
    raw, at, found = file.read_bytes(), 0, {}
    while at < len(raw):  # a length of 8 bytes and its checksum, the event, its checksum
        size = int.from_bytes(raw[at : at + 8], "little")
        event = proto.Event.FromString(raw[at + 12 : at + 12 + size])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        at += 16 + size
    history = read(run).state.history
    assert [step for step, _ in found["accuracy"]] == [r["round"] for r in history]
    assert [v for _, v in found["accuracy"]] == pytest.approx([r["accuracy"] for r in history])
    assert [step for step, _ in found["train_loss"]] == [1, 2, 3]


def test_what_cannot_be_logged_is_one_line(run, tmp_path, capsys):
    for spec, code in (("cvs:x", 2), ("csv", 2), ("csv:", 2), (f"csv:{tmp_path}", 8)):
        capsys.readouterr()
        assert main(["report", str(run), "--log", spec]) == code
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(Exception, match="is csv meant"):
        make("cvs:x")


def test_a_row_has_all_columns_whatever_a_round_tells():
    assert tuple(row_of({"round": 3})) == COLUMNS and set(KINDS) == {"csv", "tensorboard"}
