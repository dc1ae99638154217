"""FEMNIST by writer (LEAF, Caldas et al. 2018), packed as femnist_train.npz and femnist_test.npz."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from quantfl.data.dataset import Dataset, find
from quantfl.errors import DataError

CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def _part(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as z:
            x, y, start = z["x"], z["label"].astype(np.int64), z["writer_start"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a FEMNIST file ({error})") from None
    n = len(y)
    if start[0] != 0 or (np.diff(start) < 0).any() or start[-1] > n:
        raise DataError(f"{path}: its writers' ranges are damaged")
    writer = np.searchsorted(start, np.arange(n), side="right") - 1
    # LEAF's paper is white (255): inverted, so that the background is 0 as in MNIST.
    return 255 - x.reshape(n, 28, 28, 1), y, writer


PUBLIC_WRITERS = 40  # the first writers, on whose hand models may be pre-trained


def load_femnist(path: Path | None, part: str = "all") -> Dataset:
    """uint8 [n, 28, 28, 1], groups = writers. part: "all" 62 classes, "digits" 10, "letters" 52; "public" and
    "writers": all classes of the first 40 writers, for pre-training, and of the others, for the boards."""
    folder = find("femnist_leaf", path)
    x, y, g = _part(folder / "femnist_train.npz")
    xt, yt, gt = _part(folder / "femnist_test.npz")
    classes, low, high = CLASSES, 0, 62
    if part in ("public", "writers"):
        keep, keep_t = ((g < PUBLIC_WRITERS) == (part == "public") for g in (g, gt))
        return Dataset(
            f"femnist-{part}", x[keep], y[keep], xt[keep_t], yt[keep_t], CLASSES, g[keep], gt[keep_t]
        )
    if part != "all":
        low, high = (0, 10) if part == "digits" else (10, 62)
        classes = CLASSES[low:high]
    keep, keep_t = (y >= low) & (y < high), (yt >= low) & (yt < high)
    name = "femnist" if part == "all" else f"femnist-{part}"
    return Dataset(name, x[keep], y[keep] - low, xt[keep_t], yt[keep_t] - low, classes, g[keep], gt[keep_t])
