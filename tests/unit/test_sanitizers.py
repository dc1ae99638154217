"""Every parser of the firmware on damaged input, under address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, ROOT


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    lib = ROOT / "firmware" / "lib"
    boards = ROOT / "firmware" / "boards"
    sources = [*lib.glob("*/src/*.c"), *(boards / "inproc").glob("*.c"), boards / "common" / "qfl_ram_flash.c"]
    command = [compiler, "-std=c11", "-g", "-O1", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
               *(f"-I{d}" for d in lib.glob("*/include")), f"-I{boards / 'inproc'}",
               str(ROOT / "tests" / "sanitize" / "fuzz.c"), *map(str, sources), "-o", str(program)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find -lasan" in done.stderr or "libclang_rt" in done.stderr:
        pytest.skip("the compiler has no sanitizer runtime")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_input_is_harmless(fuzz, seed, tmp_path):
    package = convert(DEMO_MODEL).package
    path = tmp_path / "p"
    path.write_bytes(package)
    ours = len(package) - DEMO_MODEL.stat().st_size
    done = subprocess.run([str(fuzz), str(path), str(ours), "6000", str(seed)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < int(done.stdout) < 6000  # some damage is harmless, most is refused
