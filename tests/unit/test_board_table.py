"""The table of boards says what platformio.ini and the emulated machines say, and holds together where
nothing can be run."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from quantfl.core import ffi, lib
from quantfl.core.nn import device_need
from quantfl.emulation.base import BOARD_KINDS, CHIP_KINDS, INSIDE
from quantfl.emulation.qemu import MACHINES
from quantfl.package import fit
from quantfl.package.boards import BOARDS, Board
from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, ROOT

TABLE = {b.name: b for b in BOARDS}


class Environments:
    """platformio.ini, with `extends` and ${section.option} followed."""

    def __init__(self) -> None:
        self.ini = configparser.ConfigParser(interpolation=None)
        self.ini.read(ROOT / "platformio.ini")

    def __contains__(self, name: str) -> bool:
        return f"env:{name}" in self.ini

    def option(self, section: str, key: str) -> str | None:
        while section is not None:
            if (value := self.ini[section].get(key)) is not None:
                return re.sub(r"\$\{([^}]+)\.([^.}]+)\}", lambda m: self.option(m[1], m[2]) or "", value)
            section = self.ini[section].get("extends", "env" if section.startswith("env:") else None)
        return None

    def flag(self, name: str, macro: str) -> int | None:
        """The last value that the build flags of an environment give a macro."""
        found = re.findall(rf"-D{macro}=(\d\w*?)u?(?=\s|$)", self.option(f"env:{name}", "build_flags") or "")
        return int(found[-1], 0) if found else None


ENVIRONMENTS = Environments()


def test_every_emulated_board_is_in_it():
    assert {b.name for b in BOARDS if b.emulated} == set(BOARD_KINDS) - {*INSIDE, *CHIP_KINDS}
    assert set(CHIP_KINDS) <= set(TABLE)


@pytest.mark.parametrize("board", [b for b in BOARDS if b.name in ENVIRONMENTS], ids=lambda b: b.name)
def test_it_says_what_the_build_says(board):
    """Of every board that has an environment in platformio.ini, emulated or real."""
    if board.name == "native":
        return  # its RAM is an option of the process; test_fit.py asks it
    flag = ENVIRONMENTS.flag
    assert (flag(board.name, "QFL_BOARD_RAM"), flag(board.name, "QFL_BOARD_FLASH")) == (
        board.ram,
        board.flash,
    )
    assert (
        flag(board.name, "QFL_NN_OPS") in (board.operators, None)
        and (flag(board.name, "QFL_HEAD_KINDS") or 0x7E) == board.kinds
    )
    assert (flag(board.name, "QFL_NN_OPS") is None) == (board.operators == 0xFFFFFFFF)
    assert (
        flag(board.name, "QFL_HEAD_PAIRS") != 0
    )  # the scratch of a fit is counted with two samples at a time
    if board.emulated:
        machine = ENVIRONMENTS.option(f"env:{board.name}", "board")
        about = json.loads(
            (ROOT / "firmware" / "platforms" / "qemu" / "boards" / f"{machine}.json").read_text()
        )
        stack = re.search(r"QFL_STACK_BYTES=(\d+)", about["build"]["defines"])
        assert about["upload"]["maximum_ram_size"] == board.ram and MACHINES[board.name].core == board.core
        assert board.stack == (int(stack[1]) if stack else 4096)


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_it_holds_together(board):
    assert board.arena % 16 == 0 and board.arena + (board.stack or 0) <= board.ram
    if not board.emulated:  # MPS boards keep it in a memory of its own
        assert board.store <= board.flash
    assert board.store % board.erase == board.log % (2 * board.erase) == 0
    assert board.slot > 0 and 2 * board.slot + board.log < board.store


def test_a_store_that_cannot_be_divided_has_no_slot():
    """As the board itself refuses it: one unit for two slots, a log that is all of it, units that do not
    divide."""
    for size, erase, log in ((4096, 4096, 0), (65536, 4096, 65536), (65536, 4096, 4096), (65000, 4096, 0)):
        info = ffi.new(
            "qfl_flash_info *", {"size": size, "erase_unit": erase, "program_unit": 4, "log_size": log}
        )
        assert lib.qfl_store_room(info) == 0
        assert Board("x", "", 0, 0, 0, size, log, erase).slot == 0


def test_one_byte_less_of_arena_is_one_sample_less():
    """The printed need is the least arena, for pointers of either size; arenas here are all of those with the
    largest messages."""
    package = convert(DEMO_MODEL).package
    for pointer in (4, 8):
        board = Board("x", "", 1 << 18, 1 << 20, 200_000, 1 << 20, 1 << 17, pointer=pointer)
        for samples in (900, 1000, 1234):
            least = fit.needed(package, board, samples)
            assert 96 * 1024 < least < board.arena
            found = [device_need(package, arena, pointer=pointer)["capacity"] for arena in (least, least - 1)]
            assert found == [samples, samples - 1]


def test_a_firmware_that_lacks_a_layer_does_not_fit():
    rows = {r.board: r for r in fit.check(convert(DEMO_MODEL, cut="1", train="scales").opened)}
    assert rows["qemu_m4"].fits and rows["qemu_m4"].lacks is None
    assert not rows["standard_m4"].fits and "QFL_HEAD_KINDS" in rows["standard_m4"].lacks


def partitions(name: str) -> list[tuple[str, int, int]]:
    """Name, offset and size of every partition of an ESP32 environment."""
    path = ENVIRONMENTS.option(f"env:{name}", "board_build.partitions")
    lines = [line.split(",") for line in (ROOT / path).read_text().splitlines() if line[0] != "#"]
    return [(cells[0].strip(), int(cells[3], 0), int(cells[4], 0)) for cells in lines]


@pytest.mark.parametrize("board", [b for b in BOARDS if b.name.startswith("esp32")], ids=lambda b: b.name)
def test_the_partitions_of_an_esp32_hold_the_store_and_do_not_overlap(board):
    table = partitions(board.name)
    for (_, at, size), (_, following, _) in pairwise([*table, ("end", board.flash, 0)]):
        assert at + size <= following
    ((at, size),) = [(at, size) for name, at, size in table if name == "qfl"]
    assert size == board.store and at % 65536 == 0  # a page of the chip's memory map
    (app,) = [at for name, at, _ in table if name == "app0"]
    assert app % 65536 == 0
    assert (ENVIRONMENTS.flag(board.name, "QFL_STORE_LOG") or 128 * 1024) == board.log


def test_the_store_of_a_feather_lies_between_firmware_and_file_system():
    name, board = "adafruit_feather_nrf52840", TABLE["adafruit_feather_nrf52840"]
    begins = 0x26000 + int(ENVIRONMENTS.option(f"env:{name}", "board_upload.maximum_size"))
    assert begins == 0x8D000 and begins + board.store == 0xED000


def test_platformio_takes_the_description_of_every_environment():
    command = [sys.executable, "-m", "platformio", "project", "config", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "free from linting errors" in done.stdout, done.stdout + done.stderr
