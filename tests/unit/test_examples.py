"""What is in examples/ runs, is short, and is listed. The C of examples/minimal gives the delta that Python
gets."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import quantfl
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, head_hash
from quantfl.core.nn import Engine
from quantfl.messages import config_bytes
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.support import DEMO_MODEL, ROOT, need_digits

EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
FILES = sorted(p for p in EXAMPLES.rglob("*") if p.suffix in (".py", ".c", ".ini", ".ipynb"))
ENV = {k: v for k, v in os.environ.items() if not k.startswith("QUANTFL_")} | {
    "PYTHONPATH": str(ROOT / "host")
}
#: What the output of an example has to hold.
SAID = {
    "hello_board": r"board +inproc, id [0-9a-f]+\n(.*\n)*self-test +\d+ cases, 0 failed",
    "push_and_evaluate": r"pushed\n19\d of 200 right",
    "one_round_by_hand": r"board-01: \d+ of 100 right with the new head",
    "own_strategy": r"fedavg +0\.\d+\nmy-median +0\.\d+",
    "own_data": r"round  5  accuracy 0\.9\d+",
}


def test_every_example_is_short_and_listed():
    assert len(FILES) >= 10
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "".join("".join(cell["source"]) + "\n" for cell in json.loads(text)["cells"])
        assert len(text.splitlines()) <= 80, path
        first = path.relative_to(EXAMPLES).parts[0]
        assert f"]({first})" in README, f"examples/README.md does not list {first}"
    assert {p.stem for p in FILES if p.suffix == ".py"} == set(SAID)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name, tmp_path):
    need_digits()
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(SAID[name], done.stdout), done.stdout
    if name == "own_strategy":
        mean, median = map(float, re.findall(r"(0\.\d+)", done.stdout))
        assert median > mean  # the board with wrong labels is left out
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_runs_in_a_running_loop(monkeypatch, capsys):
    need_digits()
    pytest.importorskip("pandas", reason="pandas is not installed")
    monkeypatch.chdir(EXAMPLES)
    cells = json.loads((EXAMPLES / "federation.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before you commit"
    names: dict = {}

    async def run_all() -> None:
        for cell in cells:
            if cell["cell_type"] == "code":
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                code = compile("".join(cell["source"]), "cell", "exec", flags)
                done = eval(code, names)
                if done is not None:
                    await done

    asyncio.run(run_all())
    assert names["run"].accuracy > 0.5 and len(names["rounds"]) == 6
    assert names["info"].board == "inproc"
    assert "round 5 of 5: accuracy" in capsys.readouterr().out


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    """The firmware of examples/own_port, built by the very command of examples/README.md."""
    command = re.search(r"```sh\n(cc .*?-o my_board)\n", README, re.DOTALL)
    assert command
    program = tmp_path_factory.mktemp("port") / "my_board"
    text = command[1].replace("-o my_board", f"-O1 -Wall -Werror -o {program}")
    done = subprocess.run(["sh", "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
def test_the_port_trains_a_round(ported):
    """It is built from the port, firmware/src/main.c and the libraries, and talks over a pseudo-terminal."""
    package = quantfl.convert(DEMO_MODEL)
    process = subprocess.Popen([str(ported)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        delta = asyncio.run(one_round(url, package))
    finally:
        process.kill()
        process.wait()
    assert delta.samples == 50 and len(delta.data) > 20


async def one_round(url: str, package: quantfl.Package):
    async with quantfl.Device(url) as device:
        with pytest.warns(match="is plain"):
            info = await device.read_info(60)
        assert info.board == "my_board"
        await device.push(package.data)
        await device.configure(config_bytes(FitConfig(lr=0.003), Codec("dz"), run_id=1, seed=1), timeout=60)
        await device.wait_samples(50, timeout=120)
        return await device.train(1, head_hash(package.params), timeout=120)


@pytest.mark.slow
def test_the_platformio_project_builds_and_classifies(tmp_path):
    core = ROOT / ".pio-core"
    if not (core / "platforms" / "native").exists():
        pytest.skip("PlatformIO's platform `native` is not set up: run `make firmware`")
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES / "platformio_project", project)
    settings = (
        (project / "platformio.ini").read_text().replace("../../firmware/lib", str(ROOT / "firmware/lib"))
    )
    (project / "platformio.ini").write_text(settings)
    (project / "package.tflite").write_bytes(convert(DEMO_MODEL).package)
    env = ENV | {"PLATFORMIO_CORE_DIR": str(core), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    command = [sys.executable, "-m", "platformio", "run", "-s", "-d", str(project)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([str(project / ".pio/build/native/program")], capture_output=True, text=True)
    assert done.stdout == "class 1 of 10\n"


MINIMAL, LIBS = EXAMPLES / "minimal", ("qfl_base", "qfl_nn", "qfl_head", "qfl_codec")
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]


def sources() -> tuple[list[str], list[str]]:
    folders = [ROOT / "firmware" / "lib" / name for name in LIBS]
    return [str(c) for f in folders for c in sorted(f.glob("src/*.c"))], [
        f"-I{f / 'include'}" for f in folders
    ]


def test_it_runs_here_and_equals_python(tmp_path):
    files, includes = sources()
    exe = tmp_path / "example"
    subprocess.run(
        ["cc", *FLAGS, *includes, str(MINIMAL / "main.c"), str(MINIMAL / "host.c"), *files, "-o", str(exe)],
        check=True,
    )
    package = convert(DEMO_MODEL).package
    rng = np.random.default_rng(1)
    x, y = rng.integers(-128, 128, (60, 64), np.int8), rng.integers(0, 10, 60).astype(np.uint16)
    (tmp_path / "package").write_bytes(package)
    (tmp_path / "samples").write_bytes(b"".join(a.tobytes() + bytes([b]) for a, b in zip(x, y, strict=True)))
    done = subprocess.run(
        [str(exe), str(tmp_path / "package"), str(tmp_path / "samples")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    p, features = open_package(package), Engine(package).run_batch(x)
    trained, _ = p.head.fit(
        p.params, features, y, FitConfig(lr=0.003, momentum=0.9, epochs=5, batch=10, seed=1)
    )
    delta = Codec("dz", step=4.0).encode(trained - p.params, p.head.tensors)
    score = p.head.evaluate(p.params, features, y)
    assert done.stdout == f"{len(delta)} {score.correct} of {score.count}\n"


def test_it_compiles_for_cortex_m4(tmp_path):
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    files, includes = sources()
    specs = ["--specs=picolibc.specs", "-ffunction-sections", "-c"]
    core = [*specs, "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    subprocess.run([gcc, *FLAGS, *core, *includes, str(MINIMAL / "main.c"), *files], check=True, cwd=tmp_path)
    assert (tmp_path / "main.o").exists()


def test_the_guide_shows_the_example_as_it_is():
    guide = (ROOT / "docs" / "PORTING.md").read_text()
    assert (MINIMAL / "main.c").read_text().split("*/\n", 1)[1].strip() in guide
