#!/usr/bin/env python3
"""Fill a PlatformIO core folder from tools installed on this machine, for builds without PlatformIO's
registry.

Each stand-in has the name, owner and a compatible version of the registry's package it stands for, so
platformio.ini is the same with and without the registry: where it can be reached, PlatformIO installs the
real packages itself.

    python tools/pio_offline/provision.py --core-dir .pio-core
    PLATFORMIO_CORE_DIR=$PWD/.pio-core pio run
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent


def write_package(root: Path, kind: str, name: str, version: str, *, manifest: bool = True) -> Path:
    """The two files by which PlatformIO takes a folder for an installed package."""
    root.mkdir(parents=True, exist_ok=True)
    if manifest:
        text = {
            "name": name,
            "version": version,
            "system": "*",
            "description": "stand-in made from installed tools",
        }
        (root / "package.json").write_text(json.dumps(text, indent=1))
    spec = {"owner": "platformio", "id": None, "name": name, "requirements": None, "uri": None}
    (root / ".piopm").write_text(json.dumps({"type": kind, "name": name, "version": version, "spec": spec}))
    (root / ".piokeep").write_text("")
    return root


def lowest(requirement: str) -> str:
    """A version that satisfies a requirement like ~4.41101.0."""
    return re.sub(r"^[^\d]*", "", requirement)


def scons(packages: Path) -> str:
    """tool-scons: a front end to the SCons of this Python."""
    import SCons
    from platformio.dependencies import get_core_dependencies

    version = lowest(get_core_dependencies()["tool-scons"])
    root = write_package(packages / "tool-scons", "tool", "tool-scons", version)
    (root / "scons.py").write_text(
        textwrap.dedent(f"""\
            import sys
            sys.path.insert(0, {str(Path(SCons.__file__).parent.parent)!r})
            from SCons.Script.Main import main
            main()
            """)
    )
    return f"tool-scons: SCons {SCons.__version__}"


def toolchain(packages: Path, name: str, prefix: str) -> str | None:
    """A toolchain package whose bin/ links to the compilers found on PATH; None when there are none."""
    gcc = shutil.which(prefix + "gcc")
    if gcc is None:
        return None
    found = subprocess.run(
        [gcc, "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout.strip()
    major, minor, patch = (int(v) for v in ([*found.split("."), "0", "0"])[:3])
    root = packages / name
    if root.exists():
        shutil.rmtree(root)
    # The registry numbers GCC 12.2.1 as 1.120201.0.
    write_package(root, "tool", name, f"1.{major:02d}{minor:02d}{patch:02d}.0")
    (root / "bin").mkdir()
    for file in sorted(Path(gcc).parent.glob(prefix + "*")):
        (root / "bin" / file.name).symlink_to(file)
    return f"{name}: GCC {found}"


def platform(platforms: Path, name: str) -> str:
    """One of the platforms that lie beside this file."""
    target = platforms / name
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(HERE / name, target)
    version = json.loads((target / "platform.json").read_text())["version"]
    write_package(target, "platform", name, version, manifest=False)
    return f"platform {name} {version}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core-dir", type=Path, required=True)
    core = parser.parse_args().core_dir.resolve()
    packages, platforms = core / "packages", core / "platforms"
    for folder in (packages, platforms):
        folder.mkdir(parents=True, exist_ok=True)
    done: list[str | None] = [scons(packages), platform(platforms, "native"), platform(platforms, "ststm32")]
    for name, prefix in (
        ("toolchain-gccarmnoneeabi", "arm-none-eabi-"),
        ("toolchain-riscv", "riscv64-unknown-elf-"),
        ("toolchain-xtensa", "xtensa-lx106-elf-"),
    ):
        done.append(toolchain(packages, name, prefix))
    state = core / "appstate.json"
    if not state.exists():
        from platformio import __version__

        settings = {"enable_telemetry": False, "check_platformio_interval": 36500}
        state.write_text(json.dumps({"last_version": __version__, "settings": settings}))
    print("\n".join(line for line in done if line))


if __name__ == "__main__":
    main()
