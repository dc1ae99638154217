"""The board's side of BLE in C, under sanitizers, without a radio."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support import ROOT


def build(folder, *flags: str):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    common, program = ROOT / "firmware" / "boards" / "common", folder / "ble_link_test"
    command = [
        compiler,
        "-std=c11",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        *flags,
        f"-I{common}",
        str(ROOT / "tests" / "ble" / "ble_link_test.c"),
        str(common / "qfl_ble_link.c"),
        "-lpthread",
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find -l" in done.stderr or "libclang_rt" in done.stderr:
        pytest.skip("the compiler has no sanitizer runtime")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ()),
        (("-fsanitize=thread",), ("threads",)),
        ((), ("threads",)),
    ],
)
def test_rings_pieces_and_epochs(flags, arguments, tmp_path):
    done = subprocess.run(
        [str(build(tmp_path, *flags)), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_header_is_cxx11(tmp_path):
    """Arduino cores compile ports as C++11."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    source = tmp_path / "port.cpp"
    source.write_text('#include "qfl_ble_link.h"\nint main() { qfl_ble_link l; return l.rx_size > 1; }\n')
    common = ROOT / "firmware" / "boards" / "common"
    command = [compiler, "-std=c++11", "-pedantic", "-Wall", "-fsyntax-only", f"-I{common}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
