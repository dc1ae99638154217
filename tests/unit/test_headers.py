"""Every public header stands alone, in C and in C++: sketches and vendors' kits include them from either."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from quantfl.core import lib

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
HEADERS = [
    *sorted(FIRMWARE.glob("lib/qfl_*/include/*.h")),
    *sorted(FIRMWARE.glob("boards/common/*.h")),
    *sorted(FIRMWARE.glob("boards/inproc/*.h")),
]
#: Compilers for C, compilers for C++, and the options of the machine.
TARGETS = {
    "host": (("cc", "gcc", "clang"), ("c++", "g++", "clang++"), []),
    "arm": (
        ("arm-none-eabi-gcc",),
        ("arm-none-eabi-g++",),
        ["-mcpu=cortex-m4", "-mthumb", "--specs=picolibc.specs"],
    ),
}


def compiler(names: tuple[str, ...], *machine: str) -> str:
    """The first that is installed and has a C library; the test skips where there is none."""
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    if machine:
        source = "#include <string.h>\n"
        probe = [found, *machine, "-fsyntax-only", "-xc", "-"]
        if subprocess.run(probe, input=source, capture_output=True, text=True).returncode != 0:
            pytest.skip("picolibc for Arm is not installed")
    return found


def compiled(target: str, language: str, source: str, *options: str) -> subprocess.CompletedProcess:
    in_c, in_cpp, machine = TARGETS[target]
    names, standard = (in_c, "c11") if language == "c" else (in_cpp, "c++11")
    flags = ["-Wall", "-Wextra", "-Werror", f"-std={standard}", *(f"-I{h.parent}" for h in HEADERS)]
    return subprocess.run(
        [compiler(names, *machine), *machine, *flags, "-x", language, *options, "-"],
        input=source,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("language", ["c", "c++"])
def test_every_public_header_compiles_alone(target, language):
    assert len(HEADERS) > 20
    for header in HEADERS:
        source = f'#include "{header.name}"\n#include "{header.name}"\n'
        done = compiled(target, language, source, "-fsyntax-only")
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_word_of_cpp_is_noticed():
    source = '#include "qfl_status.h"\nqfl_status class;\n'
    assert compiled("host", "c", source, "-fsyntax-only").returncode == 0
    assert compiled("host", "c++", source, "-fsyntax-only").returncode != 0


def test_functions_have_the_names_of_c_in_cpp(tmp_path):
    """Without `extern "C"` a declaration compiles in C++ too, but its name does not link."""
    functions = sorted(name for name in dir(lib) if name.startswith("qfl_") and callable(getattr(lib, name)))
    assert len(functions) > 100
    source = "".join(f'#include "{h.name}"\n' for h in HEADERS)
    source += "void (*const used[])() = {" + ", ".join(f"(void (*)()){f}" for f in functions) + "};\n"
    source += 'extern "C" const void *table() { return used; }\n'
    done = compiled("host", "c++", source, "-Wno-cast-function-type", "-c", "-o", str(tmp_path / "names.o"))
    assert done.returncode == 0, done.stderr
    names = subprocess.run(
        [compiler(("nm",)), "-u", str(tmp_path / "names.o")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(functions) <= set(names), sorted(set(functions) - set(names))


#: Everything a build may leave out, left out (qfl_options.h).
LEAN = [
    *(
        f"-DQFL_{part}=0"
        for part in ("KEYS", "INITIATOR", "STATS", "PERSONAL", "LOG", "BATTERY", "HEAD_PAIRS")
    ),
    *("-DQFL_NN_OPS=0x61e", "-DQFL_HEAD_KINDS=0x02", "-DQFL_CODECS=0x05"),
]


@pytest.mark.parametrize("options", [[], ["-DQFL_HOST=1"], LEAN], ids=["whole", "host", "lean"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_libraries_convert_no_number_silently(target, options):
    """As `make lint` compiles them. GCC's own __ssat changes a sign, so Arm goes without that one warning."""
    in_c, _, machine = TARGETS[target]
    command = [compiler(in_c, *machine), *machine, *(["-Wno-sign-conversion"] if target == "arm" else [])]
    sources = sorted(FIRMWARE.glob("lib/qfl_*/src/*.c"))
    assert len(sources) > 40
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only", *options]
    includes = [f"-I{folder}" for folder in FIRMWARE.glob("lib/*/include")]
    done = subprocess.run([*command, *flags, *includes, *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_function_is_longer_than_80_lines():
    """As formatted: a function's body is between braces in the first column."""
    long = []
    for path in FIRMWARE.rglob("*.c"):
        if "monocypher" in path.parts:
            continue
        lines = path.read_text().splitlines()
        for i, line in enumerate(lines):
            if line == "{":
                body = lines.index("}", i) - i + 1
                long += [f"{path.name}: {lines[i - 1]}: {body} lines"] if body > 80 else []
    assert not long
