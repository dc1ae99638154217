"""Writes a project: description of a run, data, model and its recipe, firmware, a test, a README.

A template is a folder of templates/; templates/common is part of all. In its text files `@KEY@` stands for
what is known of the project.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from quantfl.errors import UsageError
from quantfl.suggest import meant

TEMPLATES = Path(__file__).parent / "templates"
TEXT = (".md", ".toml", ".py", ".ini", ".h", ".c", ".cpp", ".txt", "")

#: Template -> what it learns.
NAMES = {
    "digits": "handwritten digits of a camera that is mounted sideways",
    "gesture": "gestures of a wrist, from an accelerometer",
    "wakeword": "words, from a microphone",
    "images": "shapes, from a small camera",
}


@dataclass(frozen=True)
class Part:
    """A board that PlatformIO builds for with the Arduino framework.

    platform: PlatformIO's. arena, store: bytes of RAM for quantfl, and for the package, which src/port.cpp
    keeps in RAM.
    """

    platform: str
    arena: int
    store: int


_K = 1 << 10
BOARDS = {
    "esp32dev": Part("espressif32", 64 * _K, 64 * _K),
    "esp32-s3-devkitc-1": Part("espressif32", 96 * _K, 96 * _K),
    "esp32-c3-devkitm-1": Part("espressif32", 80 * _K, 80 * _K),
    "adafruit_feather_nrf52840": Part("nordicnrf52", 72 * _K, 72 * _K),
    "nano33ble": Part("nordicnrf52", 72 * _K, 72 * _K),
    "pico": Part("raspberrypi", 72 * _K, 72 * _K),
    "teensy41": Part("teensy", 128 * _K, 128 * _K),
    "nucleo_h743zi": Part("ststm32", 128 * _K, 128 * _K),
}


def make(place: Path, template: str, board: str, model: Path | None, libraries: Path) -> list[Path]:
    """Write the project into the new folder `place`; returns its files. model: a model of the user's own
    instead of the template's. libraries: the folder of the C libraries.

    UsageError: no such template or board, a name that is none, a folder that is there.
    """
    if template not in NAMES:
        raise UsageError(f"--template {template}: there are {', '.join(NAMES)}{meant(template, NAMES)}")
    if board not in BOARDS:
        raise UsageError(f"--board {board}: there are {', '.join(BOARDS)}{meant(board, BOARDS)}")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", place.name) or place.name.startswith("."):
        raise UsageError(f"{place.name!r}: a project's name has letters, digits, '.', '_' and '-'")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} is there already; choose another name, or remove it")
    if model is not None and (not model.is_file() or model.suffix not in (".tflite", ".keras", ".h5")):
        raise UsageError(f"--model {model}: a .tflite or .keras file is due")
    name = "model.tflite" if model is None else f"model{model.suffix}"
    part = BOARDS[board]
    words = {
        "NAME": place.name,
        "WHAT": NAMES[template],
        "MODEL": name,
        "BOARD": board,
        "PLATFORM": part.platform,
        "ARENA": str(part.arena),
        "STORE": str(part.store),
        "LIBRARIES": libraries.as_posix(),
    }
    try:
        for source in (TEMPLATES / "common", TEMPLATES / template):
            _copy(source, place, words, without={"recipe.py", "model.tflite"} if model is not None else set())
        if model is not None:
            shutil.copyfile(model, place / name)
        (place / "data").mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {error.strerror or error}") from None
    return sorted(p for p in place.rglob("*") if p.is_file())


def _copy(source: Path, place: Path, words: dict[str, str], without: set[str]) -> None:
    for file in sorted(source.rglob("*")):
        if not file.is_file() or file.name in without or "__pycache__" in file.parts:
            continue
        relative = file.relative_to(source)
        to = place / relative.with_name(".gitignore" if file.name == "gitignore" else file.name)
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in TEXT:
            text = file.read_text(encoding="utf-8")
            to.write_text(re.sub(r"@([A-Z]+)@", lambda m: words[m[1]], text), encoding="utf-8")
        else:
            shutil.copyfile(file, to)
