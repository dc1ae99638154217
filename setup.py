"""Builds the cffi extension from firmware/lib: the host runs the same C as the boards.

A wheel gets besides what a checkout has and an installed quantfl needs: the C libraries for projects, the
demo, and the native board.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FIRMWARE = ROOT / "firmware"
# As env:native of platformio.ini.
FLAGS = [
    "-std=c11",
    "-O2",
    "-ffp-contract=off",
    "-fno-fast-math",
    "-DQFL_INITIATOR=0",
    "-DQFL_LINK_CALM_MS=4000",
]


class BuildWithFirmware(build_py):
    """The Python files, and the firmware beside them."""

    def run(self) -> None:
        """Build into build_lib; an editable install reads the checkout and gets nothing."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "quantfl"
        shutil.copytree(FIRMWARE / "lib", package / "firmware" / "lib", dirs_exist_ok=True)
        (package / "demo").mkdir(exist_ok=True)
        for name in ("demo.toml", "digits_int8.tflite"):
            shutil.copyfile(ROOT / "models" / "digits" / name, package / "demo" / name)
        if os.name == "posix":
            self.native_board(package / "boards" / "native" / "program")

    def native_board(self, program: Path) -> None:
        """The firmware as a process of this machine."""
        program.parent.mkdir(parents=True, exist_ok=True)
        folders = ["src", "boards/common", "boards/posix"]
        sources = [f for name in folders for f in sorted((FIRMWARE / name).glob("*.c"))]
        sources += sorted((FIRMWARE / "lib").glob("*/src/**/*.c"))
        headers = {f.parent for f in (FIRMWARE / "lib").glob("*/*/**/*.h")} | {FIRMWARE / "boards" / "common"}
        include = [f"-I{folder}" for folder in sorted(headers)]
        compiler = os.environ.get("CC", "cc").split()
        command = [*compiler, *FLAGS, *include, "-o", str(program), *map(str, sources), "-lm"]
        subprocess.run(command, check=True)
        program.chmod(0o755)


setup(
    cffi_modules=["host/quantfl/core/_build.py:ffibuilder"],
    cmdclass={"build_py": BuildWithFirmware},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
