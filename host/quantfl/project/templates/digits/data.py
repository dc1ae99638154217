"""Handwritten digits of 8 x 8 pixels, gray, 0..255, as a camera sees them that is mounted sideways.

`dataset()` is what FLEET.toml trains on. The digits come with quantfl (UCI, E. Alpaydin and C. Kaynak; as
scikit-learn packs them). For digits of your own write data/mine.npz with arrays x, y, x_test and y_test.
"""

from __future__ import annotations

from pathlib import Path

from quantfl.data import Dataset, load

OWN = Path(__file__).parent / "data" / "mine.npz"


def dataset() -> Dataset:
    """data/mine.npz, where it is; else quantfl's digits, turned by a quarter."""
    return load(f"npz:{OWN}") if OWN.exists() else load("digits")
