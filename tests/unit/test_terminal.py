"""The terminal: no table cuts a digit at any width or in a pipe; help, completion, and what Ctrl-C says."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quantfl import emulate
from quantfl.cli.main import app, main
from quantfl.cli.verbs import TASKS
from quantfl.errors import RunError
from quantfl.fleet.checkpoint import RunFolder
from quantfl.link.keys import KeyRing
from quantfl.link.port_errors import opened_by
from quantfl.report.live import LiveTable
from quantfl.report.progress import Bars
from quantfl.report.tables import Column, FittedTable, number, tell_apart
from quantfl.suggest import meant
from tests.support import DEMO_MODEL, ROOT, demo_toml, need_board, need_digits

NUMBER = re.compile(r"(?<![^\s│┃])\d[\d,.]*(?![^\s│┃])")
LONG = "adafruit_feather_nrf52840"


def drawn(table: object, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(table)
    return out.getvalue()


def a_table() -> FittedTable:
    table = FittedTable(
        [
            Column("board", name=True),
            Column("core", drop=1),
            number("RAM"),
            number("flash", drop=3),
            number("samples", drop=2),
        ],
        title="boards, in bytes",
    )
    for i, name in enumerate(("nucleo_l476rg", "nucleo_l476rg_qemu", LONG, f"{LONG}_sense")):
        table.add(name, "Cortex-M4F", f"{262_144 + i:,}", f"{1_048_576 + i:,}", f"{1_803 + i:,}")
    return table


@pytest.mark.parametrize("width", [*range(24, 110), 200])
def test_a_table_shows_whole_numbers_or_says_what_it_leaves_out(width):
    text = drawn(a_table(), width)
    assert max(map(len, text.splitlines())) <= width
    left_out = (re.search(r"not shown at \d+ columns:\s+([^.]*)", text) or ["", ""])[1]
    for i in range(4):
        for title, value in (("RAM", 262_144), ("flash", 1_048_576), ("samples", 1_803)):
            assert title in left_out or f"{value + i:,}" in text, (width, title)


def test_a_table_names_every_row_apart():
    for width in range(24, 110):
        lines = drawn(a_table(), width).splitlines()
        rows = [line.replace("│", "").split()[0] for line in lines if re.match(r"│? ?(nuc|ada)", line)]
        assert len(set(rows)) == len(rows) == 4


@given(st.lists(st.text("abc-_.0123", min_size=1, max_size=30), max_size=8), st.integers(2, 31))
def test_shortened_names_stay_different(names, width):
    short = tell_apart(names, width)
    if short is None:
        assert len(set(names)) > 1
        return
    assert all(len(s) <= width for s in short)
    assert len(set(short)) == len(set(names))
    assert all(s == n for s, n in zip(short, names, strict=True) if len(n) <= width)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of five in-process boards with names as long as people choose them."""
    need_digits()
    folder = tmp_path_factory.mktemp("terminal")
    description = demo_toml(folder / "f.toml", emulate="inproc", boards=5, rounds=3)
    assert main(["run", str(description), "--out", str(folder / "run")]) == 0
    return folder / "run"


def verbs(finished: Path, folder: Path) -> dict[str, list[str]]:
    keys = folder / "keys.toml"
    if not keys.exists():
        assert main(["keys", "make", "-f", str(keys)]) == 0
        ring = KeyRing.load(keys)
        for i in range(3):
            ring.prepare(f"020304050607080{i}", f"{LONG}-kitchen-{i}")
    package = str(folder / "p.tflite")
    return {
        "convert": ["convert", str(DEMO_MODEL), "-o", package],
        "cuts": ["convert", str(DEMO_MODEL), "--cuts"],
        "report": ["report", str(finished)],
        "rounds": ["report", str(finished), "--rounds"],
        "ledger": ["ledger", str(finished)],
        "every row": ["ledger", str(finished), "--by", "all"],
        "evaluate": ["evaluate", str(finished)],
        "keys": ["keys", "list", "-f", str(keys)],
    }


def shown(capsys, monkeypatch, argv: list[str], columns: int | None) -> str:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", ["convert", "cuts", "report", "rounds", "ledger", "every row", "evaluate", "keys"]
)
def test_no_verb_cuts_a_digit(capsys, monkeypatch, tmp_path, finished, verb):
    argv = verbs(finished, tmp_path)[verb]
    whole = set(NUMBER.findall(shown(capsys, monkeypatch, argv, None)))
    for columns in (60, 80, 200):
        text = shown(capsys, monkeypatch, argv, columns)
        assert not re.search(r"[\d,.]…(?=[\s│┃])", text), text
        told = re.sub(r"(?s)not shown at \d+ columns:.*?\n(?=\S)", "", text)
        assert set(NUMBER.findall(told)) <= whole, (columns, text)
        framed = [line for line in text.splitlines() if line.startswith(("┃", "│", "┏", "└", "─"))]
        assert all(len(line) <= columns for line in framed)


def test_a_run_prints_whole_numbers_at_60_columns(capsys, monkeypatch, tmp_path):
    need_digits()
    description = demo_toml(tmp_path / "f.toml", emulate="inproc", boards=3, rounds=2)
    text = shown(capsys, monkeypatch, ["run", str(description), "--out", str(tmp_path / "r")], 60)
    totals = json.loads((tmp_path / "r" / "summary.json").read_text())["ledger"]
    for way in ("up", "down"):
        assert f"{totals[way + '_total']:,}" in text


def test_the_live_table_fits_60_columns():
    live = LiveTable(Console(file=io.StringIO(), width=60, force_terminal=True), title="t", rounds=9)
    live.phase("setting boards up")
    for i in range(30):
        live.board(
            f"a-board-with-a-long-name-{i:02d}", state="pushing 40 %", samples=123_456, up=9_999, down=1
        )
    record = {
        "accuracy": 0.91234,
        "loss": 0.5,
        "contributors": ["a"],
        "failed": {"b": "gone"},
        "seconds": 3.0,
    }
    live.round_done(record | {"round": 4, "up_bytes": 123_456_789, "down_bytes": 987_654_321})
    text = drawn(live.render(), 60)
    assert "120,563.3 KiB" in text and "964,506.2 KiB" in text and "so far" in text
    assert "0.9123" in text and "9,999 B" in text
    assert max(map(len, text.splitlines())) <= 60


def test_the_live_table_says_how_long_a_run_still_takes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    live = LiveTable(Console(file=io.StringIO(), width=100), title="t", rounds=20)
    live.phase("setting boards up")
    live.board("a", state="pushing 50 %")
    live.board("b", state="ready")
    now[0] += 10
    text = drawn(live.render(), 100)
    assert "1 of 2 boards ready" in text and "about 0:00:04 left" in text
    live.phase("round 11 of 20: 2 boards")
    record = {"contributors": ["a"], "failed": {}, "seconds": 3.0, "up_bytes": 1, "down_bytes": 1}
    for r in (11, 12):
        now[0] += 30
        live.round_done(record | {"round": r})
    text = drawn(live.render(), 100)
    assert "12 of 20 rounds" in text and "about 0:04:00 left" in text


def test_bars_are_for_terminals_and_for_work_that_takes_long():
    terminal, pipe = io.StringIO(), io.StringIO()
    with Bars(Console(file=terminal, width=80, force_terminal=True), delay_s=0) as bars:
        bars.update("socket://127.0.0.1:1", 512, 1024)
        bars._timer.join()
    with Bars(Console(file=pipe, width=80), delay_s=0) as bars:
        bars.update("socket://127.0.0.1:1", 512, 1024)
    quick = io.StringIO()
    with Bars(Console(file=quick, width=80, force_terminal=True), delay_s=3600) as bars:
        bars.update("socket://127.0.0.1:1", 512, 1024)
    assert "50 %" in terminal.getvalue() and pipe.getvalue() == "" and quick.getvalue() == ""


def test_every_verb_stands_under_a_task(capsys):
    assert main(["-h"]) == 0
    text = capsys.readouterr().out
    named = [verb for task in TASKS.values() for verb in task]
    assert sorted(named) == sorted(
        {c.name or c.callback.__name__ for c in app.registered_commands} | {"keys"}
    )
    for task, found in TASKS.items():
        assert f"\n{task}:\n" in text
        for verb, what in found.items():
            assert re.search(rf"(?m)^  {verb} +{re.escape(what)}$", text), verb
    assert "More verbs" not in text
    for verb in named:
        assert main([verb, "-h"]) == 0


@pytest.mark.parametrize(
    ("typed", "due"), [("repot", "report"), ("evalute", "evaluate"), ("expotr", "export")]
)
def test_a_mistyped_verb_is_guessed(capsys, typed, due):
    assert main([typed]) == 2
    assert f"'{due}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "due"),
    [
        (["evaluate", str(DEMO_MODEL), "--data", "digts"], "is digits meant?"),
        (["emulate", "--board", "natve"], "is native meant?"),
        (["demo", "--board", "qemu-m4"], "is qemu_m4 meant?"),
        (["bench", "byts"], "is bytes meant?"),
    ],
)
def test_a_mistyped_name_is_guessed(capsys, argv, due):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert due in err and err.count("\n") == 1


def test_a_mistyped_table_strategy_or_radio_is_guessed(capsys, tmp_path):
    cases = [
        ("[trian]\nlr = 0.1\n", "is train meant?"),
        ('[strategy]\nname = "fedadm"\n', "is fedadam meant?"),
        ('[budget]\nradio = "lora-sf8"\n', "is lora-sf7 meant?"),
        ("[uplink]\nlevles = 3\n", "is uplink.levels meant?"),
    ]
    for extra, due in cases:
        assert main(["run", str(demo_toml(tmp_path / "f.toml", emulate="inproc", extra=extra))]) == 2
        assert due in capsys.readouterr().err
    assert meant("zzz", ["native"]) == "" and meant("NATIVE", ["native"]) == " (is native meant?)"


def complete(words: str) -> list[str]:
    env = os.environ | {
        "_QUANTFL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "PYTHONPATH": str(ROOT / "host"),
    }
    env["COMP_CWORD"] = str(len(shlex.split(words)) - (not words.endswith(" ")))
    code = "import sys; sys.argv = ['quantfl']; from quantfl.cli.main import entry; entry()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_verbs_options_and_values():
    assert complete("quantfl re") == ["report"]
    assert "--resume" in complete("quantfl run --re")
    assert complete("quantfl emulate --board qemu_m3") == ["qemu_m3", "qemu_m33"]
    assert complete("quantfl evaluate x --data femnist-w") == ["femnist-writers"]
    assert complete("quantfl ledger x --radio lora") == ["lora-sf7", "lora-sf12"]


def test_a_folder_without_a_run_is_one_right_sentence(capsys, tmp_path, finished):
    for argv in (["report"], ["ledger"], ["export", "-o", str(tmp_path / "x")], ["evaluate"]):
        assert main([argv[0], str(tmp_path), *argv[1:]]) == 8
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "no run is in" in err and "--resume" not in err
        assert main([argv[0], str(finished.parent), *argv[1:]]) == 8
        assert f"runs are in {finished}" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing")]) == 8
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(RunError, match="without --resume"):
        RunFolder(tmp_path).load()


def test_ctrl_c_says_how_to_go_on_and_that_works(tmp_path):
    need_digits()
    folder = tmp_path / "a run"
    description = demo_toml(
        tmp_path / "f.toml", emulate="inproc", boards=3, rounds=2000, extra='[start]\nhow = "none"\n'
    )
    command = [sys.executable, "-m", "quantfl.cli.main", "run", str(description), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.lstrip().startswith("round "):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Ctrl-C again ends at once" in out
    found = re.search(r"stopped after round (\d+) of 2000; go on with: quantfl (.*)\n", err)
    assert found, err
    state = RunFolder(folder).load()
    assert state.round == int(found[1])
    argv = shlex.split(found[2])
    assert argv == ["run", str(description), "--out", str(folder), "--resume"]
    process = subprocess.Popen(
        [*command[:3], *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = next(line for line in process.stdout if line.lstrip().startswith("round "))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert int(first.split()[1]) == state.round + 1 and process.returncode == 130


@pytest.mark.skipif(sys.platform != "linux", reason="programs that hold a device are found in /proc")
def test_a_busy_port_names_the_program_that_has_it(tmp_path):
    place = tmp_path / "port"
    place.write_text("")
    code = f"import time; f = open({str(place)!r}); print('open', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        found = opened_by(str(place))
        assert found is not None and f"(process {process.pid})" in found
        assert opened_by(str(tmp_path / "other")) is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.emulated
def test_a_push_shows_how_far_it_is(capsys, tmp_path, monkeypatch):
    need_board("native")
    package = tmp_path / "p.tflite"
    assert main(["convert", str(DEMO_MODEL), "-o", str(package)]) == 0
    said: list[tuple[str, float, float | None]] = []
    monkeypatch.setattr(Bars, "update", lambda self, *what: said.append(what))
    with emulate(1, "native") as [board]:
        assert main(["push", str(package), board.url]) == 0
    size = package.stat().st_size
    assert said[-1] == (board.url, size, size) and said[0][1] < size
