"""firmware/examples/minimal: builds for this machine and for Cortex-M4, and its delta is the one Python
gets."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig
from quantfl.core.nn import Engine
from quantfl.package.convert import convert
from quantfl.package.program import open_package
from tests.support import DEMO_MODEL, ROOT

EXAMPLE, LIBS = ROOT / "firmware" / "examples" / "minimal", ("qfl_base", "qfl_nn", "qfl_head", "qfl_codec")
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
        ["cc", *FLAGS, *includes, str(EXAMPLE / "main.c"), str(EXAMPLE / "host.c"), *files, "-o", str(exe)],
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
    subprocess.run([gcc, *FLAGS, *core, *includes, str(EXAMPLE / "main.c"), *files], check=True, cwd=tmp_path)
    assert (tmp_path / "main.o").exists()


def test_the_guide_shows_the_example_as_it_is():
    guide = (ROOT / "docs" / "PORTING.md").read_text()
    assert (EXAMPLE / "main.c").read_text().split("*/\n", 1)[1].strip() in guide
