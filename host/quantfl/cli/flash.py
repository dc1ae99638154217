"""`quantfl flash`: build the firmware of a real board and write it, by PlatformIO."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from quantfl.errors import QuantflError

_NO_UPLOAD = ("native", "symlink:")


def command(
    board: str = typer.Option(
        None, "--board", help="An environment of platformio.ini: nucleo_l476rg, esp32dev … (docs/BOARDS.md)."
    ),
    port: str = typer.Option(None, "--port", help="The serial port; without it PlatformIO looks for one."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the command and run nothing."),
) -> int:
    """Build the firmware of a board and write it to the board that is plugged in, by PlatformIO. The command
    that does it is printed first; what PlatformIO says follows."""
    from quantfl.emulation.base import ROOT
    from quantfl.errors import ToolError, UsageError

    ini = ROOT / "platformio.ini"
    if not ini.exists():
        raise ToolError("flashing needs the repository's platformio.ini: run quantfl from a clone")
    known = uploadable(ini)
    if board not in known:
        what = "name a board with --board" if board is None else f"--board {board}: it is not known"
        raise UsageError(f"{what}; boards that can be flashed are {', '.join(known)}")
    arguments = ["run", "-d", str(ROOT), "-e", board, "-t", "upload"]
    arguments += ["--upload-port", port] if port else []
    line = [*platformio(), *arguments]
    print(shlex.join(line), flush=True)
    if dry_run:
        return 0
    if (name := stand_in(known[board])) is not None:
        raise ToolError(
            f"PLATFORMIO_CORE_DIR names a folder of stand-ins for tests, and its {name} writes no board: "
            f"run `env -u PLATFORMIO_CORE_DIR quantfl flash --board {board}`"
        )
    code = subprocess.run(line, check=False).returncode
    if code != 0:
        raise _failed(board, code)
    print(f"{board} is flashed; `quantfl devices` shows it")
    return 0


def _failed(board: str, code: int) -> QuantflError:
    from quantfl.errors import ToolError

    return ToolError(
        f"PlatformIO ended with code {code}, and {board} may not be flashed: its last lines say why. "
        "`quantfl doctor` checks cable, permission and tools"
    )


def uploadable(ini: Path) -> dict[str, str]:
    """Environments of platformio.ini for real boards, each with its platform."""
    file = configparser.ConfigParser(interpolation=None)
    file.read(ini, encoding="utf-8")

    def option(section: str | None, key: str) -> str | None:
        while section is not None and section in file:
            if (value := file[section].get(key)) is not None:
                return value
            section = file[section].get("extends")
        return None

    found = {}
    for section in file.sections():
        platform = option(section, "platform") or "native"
        name = section.removeprefix("env:")
        if section != name and not platform.startswith(_NO_UPLOAD) and not name.endswith("_qemu"):
            found[name] = platform
    return found


def platformio() -> list[str]:
    """How PlatformIO is called. ToolError: it is not installed."""
    from quantfl.errors import ToolError

    if (path := shutil.which("pio")) is not None:
        return [path]
    if importlib.util.find_spec("platformio") is not None:
        return [sys.executable, "-m", "platformio"]
    raise ToolError("PlatformIO is not installed: pip install platformio")


def stand_in(platform: str) -> str | None:
    """Name of a platform, where PlatformIO's folder holds one of tools/pio_offline in its place."""
    name = re.sub(r"@.*", "", platform).rpartition("/")[2]
    folder = os.environ.get("PLATFORMIO_CORE_DIR")
    try:
        text = (Path(folder or "") / "platforms" / name / "platform.json").read_text(encoding="utf-8")
        return name if "stand-in" in json.loads(text).get("title", "") else None
    except (OSError, ValueError):
        return None
