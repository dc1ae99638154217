"""The command line: bad input gives one line on stderr and its exit code; results as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from quantfl.cli.main import main
from tests.support import DEMO_MODEL, demo_toml, need_board, need_digits


def call(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def package(tmp_path, capsys):
    path = tmp_path / "p.tflite"
    assert call(capsys, "convert", DEMO_MODEL, "-o", path)[0] == 0
    return path


def test_convert_prints_what_boards_need(capsys, tmp_path):
    code, out, _ = call(
        capsys,
        "convert",
        DEMO_MODEL,
        "-o",
        tmp_path / "p.tflite",
        "--json",
        "--labels",
        "a,b,c,d,e,f,g,h,i,j",
    )
    made = json.loads(out)
    assert code == 0 and made["cut"]["params"] == 1290
    assert {b["board"] for b in made["boards"]} >= {"qemu_m4", "pico"}


def test_bad_inputs_have_one_line_and_their_exit_code(capsys, tmp_path, package):
    truncated = tmp_path / "t.tflite"
    truncated.write_bytes(package.read_bytes()[:5000])
    text = tmp_path / "text.tflite"
    text.write_text("hello")
    bad_toml = tmp_path / "bad.toml"
    bad_toml.write_text("[run\n")
    wrong_model = tmp_path / "wrong.toml"
    wrong_model.write_text('[model]\npath = "absent.tflite"\n[fleet]\nemulate = "inproc"\n')
    wrong_data = demo_toml(tmp_path / "d.toml", emulate="inproc", extra='[data]\nname = "moon"\n')
    port = "socket://127.0.0.1:1"
    cases = [
        (2, ["convert", DEMO_MODEL, "-o", tmp_path / "x", "--cut", "7", "--nonsense"]),
        (3, ["convert", tmp_path / "absent.tflite", "-o", tmp_path / "x"]),
        (3, ["convert", text, "-o", tmp_path / "x"]),
        (3, ["convert", truncated, "-o", tmp_path / "x"]),
        (4, ["convert", DEMO_MODEL, "-o", tmp_path / "x", "--cut", "first"]),
        (2, ["convert", DEMO_MODEL, "-o", tmp_path / "x", "--labels", "a,b"]),
        (2, ["convert", DEMO_MODEL, "-o", tmp_path / "no" / "folder"]),
        (3, ["push", truncated, port]),
        (3, ["push", DEMO_MODEL, port]),
        (2, ["run", tmp_path / "absent.toml"]),
        (2, ["run", bad_toml]),
        (3, ["run", wrong_model, "--out", tmp_path / "r1"]),
        (2, ["run", wrong_data, "--out", tmp_path / "r2"]),
        (8, ["run", demo_toml(tmp_path / "g.toml"), "--out", tmp_path / "r3", "--resume"]),
        (8, ["report", tmp_path / "nothing"]),
        (8, ["export", tmp_path / "nothing", "-o", tmp_path / "x"]),
        (2, ["evaluate", package]),
        (2, ["evaluate", package, "--data", "moon"]),
        (7, ["evaluate", package, "--data", "npz:absent.npz"]),
        (2, ["emulate", "--board", "avr"]),
        (2, ["bench", "nothing"]),
        (2, ["frobnicate"]),
    ]
    for expected, argv in cases:
        code, _, err = call(capsys, *argv)
        assert code == expected, (argv, code, err)
        assert err.count("\n") == 1 and err.startswith("quantfl: "), (argv, err)


def test_absent_ports_are_named(capsys, package):
    code, out, _err = call(
        capsys, "devices", "socket://127.0.0.1:1", "/dev/ttyNOTHING", "--timeout", "1", "--json"
    )
    assert code == 5
    errors = [row["error"] for row in json.loads(out)]
    assert "127.0.0.1:1" in errors[0] and "ttyNOTHING" in errors[1]
    code, out, _ = call(capsys, "push", package, "socket://127.0.0.1:1", "--json")
    assert code == 5 and "cannot open" in json.loads(out)[0]["error"]


def test_every_verb_has_help(capsys):
    for verb in (
        "convert",
        "emulate",
        "devices",
        "push",
        "run",
        "evaluate",
        "export",
        "report",
        "bench",
        "demo",
    ):
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0 and len(out) > 200


def test_the_road_by_hand(capsys, tmp_path, package):
    """convert, emulate, devices, push, run, evaluate, export, report, as the README walks it."""
    need_board("native")
    need_digits()
    command = [
        sys.executable,
        "-m",
        "quantfl.cli.main",
        "emulate",
        "--board",
        "native",
        "-n",
        "2",
        "--json",
        "--data",
        "digits",
        "--package",
        str(package),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        boards = json.loads(process.stdout.readline())
        urls = [b["url"] for b in boards]
        code, out, _ = call(capsys, "push", package, *urls, "--json")
        assert code == 0 and all(row["moved"] for row in json.loads(out))
        deadline = time.monotonic() + 20
        while True:
            code, out, _ = call(capsys, "devices", *urls, "--json")
            rows = json.loads(out)
            if all(r["samples"] == 448 for r in rows) or time.monotonic() > deadline:
                break
        assert code == 0 and [r["samples"] for r in rows] == [448, 448] and rows[0]["board"] == "native"
        toml = tmp_path / "f.toml"
        toml.write_text(
            f'[run]\nrounds = 6\n[model]\npath = "{package}"\n[train]\nlr = 0.003\nmomentum = 0.9\n'
            + "".join(f'[[fleet.board]]\nurl = "{u}"\n' for u in urls)
        )
        code, out, err = call(capsys, "run", toml, "--out", tmp_path / "r", "--json")
        summary = json.loads(out)
        assert code == 0 and summary["accuracy"] > summary["accuracy_before"] + 0.2, err
        assert call(capsys, "run", toml, "--out", tmp_path / "r")[0] == 8  # never overwritten
        code, out, _ = call(capsys, "evaluate", tmp_path / "r", "--json")
        assert json.loads(out)["accuracy"] == summary["accuracy"]
        code, out, _ = call(capsys, "export", tmp_path / "r", "-o", tmp_path / "m.tflite", "--json")
        assert (
            code == 0
            and (tmp_path / "m.tflite").read_bytes() == (tmp_path / "r" / "model.tflite").read_bytes()
        )
        code, out, _ = call(capsys, "report", tmp_path / "r", "--json")
        assert len(json.loads(out)["history"]) == 7
        assert call(capsys, "report", tmp_path / "r", "--rounds")[0] == 0
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()
