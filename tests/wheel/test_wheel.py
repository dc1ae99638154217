"""A wheel, installed into an empty environment outside the checkout, has all that people need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a wheel with"),
]


def ran(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("QUANTFL_", "PYTHON"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=800, check=False
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_in_an_empty_environment(tmp_path):
    source = tmp_path / "source"
    kept = ("firmware", "host", "models", "pyproject.toml", "setup.py", "README.md")
    for name in kept:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info", "quantfl_lab")
            shutil.copytree(ROOT / name, source / name, ignore=skip)
        else:
            source.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    ran(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheels", ".", cwd=source)
    [wheel] = (tmp_path / "wheels").glob("*.whl")
    assert "-cp311-abi3-" in wheel.name  # one for all later Pythons
    files = zipfile.ZipFile(wheel).namelist()
    assert not [f for f in files if f.startswith(("quantfl_lab", "models", "tests"))]
    shutil.rmtree(source)  # the checkout is nowhere near
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    ran(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    quantfl = tmp_path / "empty" / "bin" / "quantfl"
    for board in ("native", "inproc"):
        out = ran(quantfl, "demo", "--board", board, "--rounds", "3", "--json", "--out", board, cwd=tmp_path)
        assert json.loads(out)["accuracy"] > json.loads(out)["accuracy_before"]
    ran(quantfl, "new", "mine", cwd=tmp_path)
    assert "site-packages/quantfl/firmware/lib" in (tmp_path / "mine" / "platformio.ini").read_text()
    ran(quantfl, "run", "--board", "inproc", cwd=tmp_path / "mine")
    ran(quantfl, "report", "runs/mine", "--html", "report.html", cwd=tmp_path / "mine")
