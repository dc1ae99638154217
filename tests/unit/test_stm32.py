"""The STM32 ports' own code against models of what they drive, and the image that PlatformIO builds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from quantfl.emulation.elf import symbols
from quantfl.package.boards import BOARDS

ROOT = Path(__file__).resolve().parents[2]
STM32 = ROOT / "firmware" / "boards" / "stm32"
LINE = 100_000  # bytes; at 921,600 baud a byte takes 10.85 us, and the task looks every ms, which is 92 bytes
EVERY = 92


def named(name: str):
    return next(b for b in BOARDS if b.name == name)


@pytest.fixture(scope="module")
def usart(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    program = tmp_path_factory.mktemp("stm32") / "usart_pace"
    sources = [ROOT / "tests" / "boards" / "usart_pace.c", STM32 / "qfl_stm32_usart.c"]
    flags = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-DQFL_FAKE_REGISTERS", f"-I{STM32}"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)

    def run(*arguments: int) -> dict[str, int]:
        done = subprocess.run(
            [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_usart_keeps_its_line_busy_both_ways(usart):
    """At most 1.3 times what the line itself needs, although the task looks only once a millisecond."""
    seen = usart(LINE, EVERY, 0)
    assert seen["brr"] == 87 and seen["sent_right"] == 1 and seen["out_steps"] <= 1.3 * LINE
    assert seen["missing"] == seen["lost"] == seen["dropped"] == 0 and seen["rest_right"] == 1
    assert seen["idle_interrupts"] == 0


def test_what_arrives_during_a_stall_is_lost_and_counted(usart):
    seen = usart(LINE, EVERY, 2000)
    assert seen["dropped"] == seen["missing"] == 2000 and seen["lost"] >= 1 and seen["rest_right"] == 1


def test_a_task_that_looks_too_seldom_loses_bytes_and_knows_it(usart):
    seen = usart(LINE, 5000, 0)
    assert seen["missing"] == seen["lost"] > 0 and seen["dropped"] == 0


def test_the_image_keeps_its_budgets():
    """Figures of the linker: flash at most 96 KB, RAM beside arena and stack at most 10 KB."""
    image = ROOT / ".pio" / "build" / "nucleo_l476rg" / "firmware.elf"
    if not image.exists():
        pytest.skip("no image: make boards")
    at = symbols(image)
    flash = at["__data_load"] + at["__data_end"] - at["__data_start"] - 0x08000000
    assert 32 * 1024 < flash <= 96 * 1024
    assert 0 < at["__arena_start"] - 0x20000000 <= 10 * 1024
    assert at["__arena_end"] - at["__arena_start"] == named("nucleo_l476rg").arena >= 80 * 1024
    assert at["__stack_top"] - at["__arena_end"] == 4096


def test_the_flash_driver_keeps_the_rules_of_the_controller(tmp_path):
    """20,000 random erases and writes; writes over used units are refused and change nothing else."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    program = tmp_path / "flash_l4"
    sources = [ROOT / "tests" / "boards" / "flash_l4.c", STM32 / "qfl_stm32_flash_l4.c"]
    flags = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-DQFL_FAKE_REGISTERS", f"-I{STM32}"]
    flags += [f"-I{ROOT / 'firmware' / 'lib' / lib / 'include'}" for lib in ("qfl_base", "qfl_port")]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["erases"] == 2000 and seen["units"] > 10_000 and seen["refused"] > 1000
