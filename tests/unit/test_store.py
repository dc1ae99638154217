"""qfl_store on emulated flash of real parts, with power failing in every single write and erase
(tests/store/power_cuts.c)."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.support import ROOT

PARTS = (
    "nrf52840",
    "esp32",
    "stm32l4",
    "stm32wb55",
    "stm32f4_16k",
    "stm32f4_128k",
    "stm32h7",
    "rp2040",
    "mram",
)


@pytest.fixture(scope="module")
def power_cuts(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    lib, program = ROOT / "firmware" / "lib", tmp_path_factory.mktemp("store") / "power_cuts"
    sources = [ROOT / "tests" / "store" / "power_cuts.c", *sorted((lib / "qfl_store" / "src").glob("*.c"))]
    includes = [f"-I{d}" for d in sorted(lib.glob("*/include"))]
    subprocess.run(
        [compiler, "-std=c11", "-O2", "-g", *includes, *map(str, sources), "-o", str(program)], check=True
    )
    return program


@pytest.mark.parametrize("part", PARTS)
def test_a_cut_in_any_write_or_erase_leaves_the_old_or_the_new(power_cuts, part):
    done = subprocess.run([str(power_cuts), part], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["package_cuts"] > 300 and (row["log_cuts"] > 300 or part == "stm32f4_128k")
    least, most = row["erases_per_3000_records"]
    assert most - least <= 1  # wear is spread over the log
    # Where a slot has several erase units, a push that a reset broke off went on from where it was.
    assert (row["resumed"] > 50) == (part not in ("stm32f4_16k", "stm32f4_128k", "stm32h7"))
