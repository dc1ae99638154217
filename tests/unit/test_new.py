"""`quantfl new`: every template learns at once, its firmware compiles and takes part in a run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib

import pytest

import quantfl
from quantfl.cli.main import main
from quantfl.emulation import boot_fleet
from quantfl.package.boards import BOARDS as KNOWN
from quantfl.project.libraries import folder
from quantfl.project.new import BOARDS, NAMES, TEMPLATES
from tests.support import DEMO_MODEL, ROOT, need_board


def made(tmp_path, template: str, *more: str):
    place = tmp_path / f"my-{template}"
    assert main(["new", str(place), "--template", template, *more]) == 0
    return place


@pytest.mark.parametrize("template", NAMES)
def test_a_new_project_learns_at_once(tmp_path, monkeypatch, capsys, template):
    place = made(tmp_path, template)
    monkeypatch.chdir(place)
    assert main(["run", "--board", "inproc", "--json"]) == 0
    found = json.loads((place / "runs" / place.name / "summary.json").read_text())
    assert found["accuracy"] > found["accuracy_before"] + 0.05
    assert found["accuracy"] > 0.75
    assert main(["report"]) == 2 and main(["evaluate", f"runs/{place.name}"]) == 0


def test_the_test_of_a_project_passes(tmp_path):
    place = made(tmp_path, "gesture")
    env = os.environ | {"PYTHONPATH": str(ROOT / "host")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("template", NAMES)
def test_all_of_a_project_is_filled_in(tmp_path, template):
    for board in BOARDS:
        place = tmp_path / board
        assert main(["new", str(place), "-t", template, "--board", board]) == 0
        for file in place.rglob("*"):
            if file.is_file() and file.suffix != ".tflite":
                text = file.read_text(encoding="utf-8")
                assert "@" not in text, file
        tomllib.loads((place / "FLEET.toml").read_text())
        ini = (place / "platformio.ini").read_text()
        assert f"[env:{board}]" in ini and f"board = {board}" in ini
        assert (place / "recipe.py").exists() and (place / ".gitignore").exists()
        assert not (place / "native").exists()  # PlatformIO would take it for the platform of that name
    assert {b.name for b in KNOWN} >= set(BOARDS)


def test_every_library_is_named_before_those_that_need_it(tmp_path):
    named = [
        line.rsplit("/", 1)[1]
        for line in (TEMPLATES / "common" / "platformio.ini").read_text().splitlines()
        if "symlink://" in line
    ]
    assert sorted(named) == sorted(p.parent.name for p in folder().glob("*/library.json"))
    for i, name in enumerate(named):
        needed = json.loads((folder() / name / "library.json").read_text()).get("dependencies", [])
        assert {d["name"] for d in needed} <= set(named[:i]), name


def test_a_model_of_ones_own(tmp_path):
    place = made(tmp_path, "digits", "--model", str(DEMO_MODEL))
    assert (place / "model.tflite").read_bytes() == DEMO_MODEL.read_bytes()
    assert not (place / "recipe.py").exists()
    assert quantfl.describe(place / "FLEET.toml").model.path == "model.tflite"
    assert (TEMPLATES / "digits" / "model.tflite").read_bytes() == DEMO_MODEL.read_bytes()


@pytest.mark.parametrize(
    ("argv", "due"),
    [
        (["x", "-t", "gestures"], "is gesture meant?"),
        (["x", "--board", "esp32"], "is esp32dev meant?"),
        (["a b"], "letters, digits"),
        ([".x"], "letters, digits"),
        (["x", "--model", "absent.tflite"], "absent.tflite"),
        (["full"], "is there already"),
        (["file"], "is there already"),
    ],
)
def test_what_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys, argv, due):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert main(["new", *argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and due in err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "x"]


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++ on Linux")
def test_the_firmware_of_a_project_takes_part_in_a_run(tmp_path):
    """Compiled as PlatformIO's native environment does it; the samples of its sensor are learnt."""
    place, build = made(tmp_path, "digits", "--board", "nano33ble"), tmp_path / "build"
    build.mkdir()
    part = BOARDS["nano33ble"]
    headers = (*folder().glob("*/include"), *folder().glob("*/src"))
    includes = [f"-I{p}" for p in (place / "host", place / "src", *headers)]
    defines = [f"-DQFL_ARENA={part.arena}", f"-DQFL_RAM_STORE={part.store}", '-DQFL_BOARD_NAME="native"']
    flags = ["-O0", "-ffp-contract=off", "-DQFL_INITIATOR=0", "-DQFL_LINK_CALM_MS=4000", *defines, *includes]
    c = sorted(map(str, folder().glob("*/src/*.c")))
    cpp = sorted(map(str, [*(place / "src").glob("*.cpp"), *(place / "host").glob("*.cpp")]))
    strict = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", "-std=c11", "-c", *flags, *c], cwd=build, check=True)
    subprocess.run(["g++", "-std=gnu++17", *strict, "-c", *flags, *cpp], cwd=build, check=True)
    objects = sorted(map(str, build.glob("*.o")))
    subprocess.run(["g++", "-o", "program", *objects], cwd=build, check=True)
    process = subprocess.Popen([build / "program"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        config = quantfl.describe(place / "FLEET.toml").model_dump()
        config["run"]["rounds"] = 3
        config["fleet"] = {"board": [{"url": url, "name": "mine"}]}
        run = quantfl.run(config, base=place, out=tmp_path / "run")
        assert run.summary["contributors"] == {"mine": 3} and run.summary["counters_differ"] == {}
        losses = [r["train_loss"] for r in run.history[1:]]
        assert 0 < run.history[3]["train_samples"] <= 40 and losses[-1] < losses[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.emulated
def test_what_emulate_prints_is_a_description_that_runs(tmp_path):
    need_board("native")
    package = tmp_path / "p.tflite"
    assert main(["convert", str(DEMO_MODEL), "-o", str(package)]) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1] % 20000 + 20000  # below the ports that the system gives out
    command = [sys.executable, "-m", "quantfl.cli.main", "emulate", "--board", "native", "-n", "2"]
    command += ["--package", str(package), "--port-base", str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while text.count("\nsamples = ") < 2:
            line = process.stdout.readline()
            assert line, text
            text += line
        description = tmp_path / "fleet.toml"
        description.write_text(text)
        boards = quantfl.describe(description).fleet.board
        assert [b.url for b in boards] == [f"socket://127.0.0.1:{first + 2 * i}" for i in range(2)]
        config = quantfl.describe(description).model_dump()
        config["run"]["rounds"] = 2
        run = quantfl.run(config, base=tmp_path)
        assert run.summary["contributors"] == {"board-00": 2, "board-01": 2}
        with pytest.raises(quantfl.ToolError, match=f"port {first}|did not start"):
            boot_fleet("native", 1, port_base=first)
    finally:
        process.terminate()
        process.communicate(timeout=60)
