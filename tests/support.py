"""Shared by tests: where data lies, and skips that say why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "models" / "digits" / "digits_int8.tflite"


def shared_data(part: str) -> Path:
    """A folder or file of the shared data; the test skips where it is absent."""
    base = Path(os.environ.get("QUANTFL_DATA") or ROOT.parent / "shared" / "data")
    path = base / part
    if not path.exists():
        pytest.skip(f"{part} of the shared data is absent (set QUANTFL_DATA to its folder)")
    return path


def need_board(kind: str) -> None:
    """Skip with the reason when boards of this kind cannot be booted."""
    from quantfl.emulation import available

    reason = available(kind)
    if reason is not None:
        pytest.skip(f"no {kind} boards: {reason}")


def need_digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")


def demo_config(**tables: dict):
    """The demo's description with some fields replaced: demo_config(run={"rounds": 3})."""
    from quantfl.fleet.config import load

    config = load(DEMO_MODEL.parent / "demo.toml")
    update = {}
    for name, fields in tables.items():
        update[name] = type(getattr(config, name)).model_validate(getattr(config, name).model_dump() | fields)
    return config.model_copy(update=update)


def demo_toml(
    path: Path, *, emulate: str = "native", boards: int = 4, rounds: int = 4, extra: str = ""
) -> Path:
    """A description beside nothing: the model is named by its absolute path."""
    path.write_text(
        f'[run]\nname = "t"\nrounds = {rounds}\nseed = 3\n[model]\npath = "{DEMO_MODEL}"\n'
        f'[fleet]\nemulate = "{emulate}"\nboards = {boards}\n'
        f"[train]\nlr = 0.003\nmomentum = 0.9\nepochs = 2\n{extra}"
    )
    return path
