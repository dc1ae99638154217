"""FLEET.toml: every mistake gives one line with file and key or line."""

from __future__ import annotations

import pytest

from quantfl.errors import UsageError
from quantfl.fleet.config import load, parse

GOOD = '[model]\npath = "m.tflite"\n[fleet]\nemulate = "native"\nboards = 4\n'


def test_defaults_fill_in():
    c = parse(GOOD)
    assert c.run.rounds == 20 and c.uplink.levels == 64 and c.fleet.size == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model\n", ["F.toml", "line 1"]),
        ("", ["model", "is missing"]),
        (GOOD + "[train]\nlr = -1\n", ["train.lr", "greater than 0", "-1"]),
        (GOOD + "[train]\nlr = nan\n", ["train.lr"]),
        (GOOD + "[train]\nlearning = 1\n", ["train.learning", "no such key"]),
        (GOOD + "[train]\nmomentun = 1\n", ["train.momentun", "no such key", "is train.momentum meant?"]),
        (
            GOOD + "[strategy]\nparticipation = 0.5\n",
            ["strategy.participation", "is run.participation meant?"],
        ),
        (GOOD + "[train]\nholdout = 1\n", ["train.holdout", "at least 2"]),
        (GOOD + "[uplink]\nlevels = 7\n", ["uplink.levels", "64"]),
        (GOOD + "[run]\nrounds = 0\n", ["run.rounds"]),
        (GOOD + "[run]\nparticipation = 1.5\n", ["run.participation"]),
        (GOOD + "[run]\nmin_boards = 5\n", ["min_boards", "4 boards"]),
        (GOOD + '[run]\nname = "a/b"\n', ["run.name"]),
        ('[model]\npath = "m"\n[fleet]\nboards = 3\n', ["fleet", "emulate"]),
        (
            '[model]\npath = "m"\n[fleet]\nemulate = "native"\n[[fleet.board]]\nurl = "x"\n',
            ["fleet", "either"],
        ),
        (
            '[model]\npath = "m"\n[[fleet.board]]\nsamples = "x"\n',
            ["fleet.board[0]", "needs url, or the board's id"],
        ),
        (
            '[model]\npath = "m"\n[[fleet.board]]\nurl = "COM3"\n[[fleet.board]]\nurl = "com3"\n',
            ["fleet", "are at com3"],
        ),
        (
            (
                '[model]\npath = "m"\n[[fleet.board]]\nurl = "a"\nname = "x"\n'
                '[[fleet.board]]\nurl = "b"\nname = "x"\n'
            ),
            ["called x"],
        ),
        ('[model]\npath = "m"\n[fleet]\nemulate = "avr"\n', ["fleet.emulate"]),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(UsageError) as error:
        parse(text, "F.toml")
    message = str(error.value)
    assert "\n" not in message and message.startswith("F.toml")
    for word in words:
        assert word in message


def test_absent_and_unreadable_files(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "x.toml")
    (tmp_path / "y.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="save the file as UTF-8"):
        load(tmp_path / "y.toml")
