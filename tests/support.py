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
