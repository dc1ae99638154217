"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the public python pickles, or from JPEGs packed in npz
files."""

from __future__ import annotations

import io
import itertools
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.data.dataset import Dataset, find
from quantfl.errors import DataError, ToolError

_PICKLES = {
    10: ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], b"labels"),
    100: (["train"], ["test"], b"fine_labels"),
}
_SAFE = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class _Unpickler(pickle.Unpickler):
    """Arrays and plain containers only: a pickle from the net must not run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def _pickled(folder: Path, names: list[str], key: bytes) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = [], []
    for name in names:
        try:
            with open(folder / name, "rb") as f:
                raw = _Unpickler(f, encoding="bytes").load()
            x = np.asarray(raw[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            y = np.asarray(raw[key], np.int64)
        except (
            OSError,
            pickle.UnpicklingError,
            KeyError,
            ValueError,
            TypeError,
            EOFError,
            AttributeError,
        ) as error:
            raise DataError(f"{folder / name}: not a CIFAR batch ({error})") from None
        xs.append(x)
        ys.append(y)
    return np.concatenate(xs), np.concatenate(ys)


def jpegs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, h, w, 3] and labels int64 [n] of an npz with jpeg (bytes, one after the other), offset [n +
    1], label [n]."""
    try:
        from PIL import Image
    except ImportError:
        raise ToolError("Pillow is missing: pip install 'quantfl[data]'") from None
    try:
        with np.load(path, allow_pickle=False) as z:
            blob, offset, y = z["jpeg"].tobytes(), z["offset"].astype(np.int64), z["label"].astype(np.int64)
        images = [
            np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB"))
            for a, b in itertools.pairwise(offset)
        ]
        x = np.stack(images)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of packed JPEGs ({error})") from None
    if len(x) != len(y):
        raise DataError(f"{path}: {len(x)} images but {len(y)} labels")
    return x, y


def load_cifar(path: Path | None, classes: int) -> Dataset:
    """classes: 10 or 100 (the fine labels). path: a folder of the pickles or of the npz files."""
    folder = find(f"cifar{classes}", path)
    for inner in ("cifar-10-batches-py", "cifar-100-python"):
        if (folder / inner).is_dir():
            folder = folder / inner
    train, test, key = _PICKLES[classes]
    if (folder / train[0]).exists():
        parts = _pickled(folder, train, key), _pickled(folder, test, key)
    else:
        packed = [
            archive
            for part in ("train", "test")
            for archive in sorted(folder.glob(f"cifar{classes}_{part}*_jpeg.npz"))[:1]
        ]
        if len(packed) != 2:
            raise DataError(
                f"{folder}: holds neither CIFAR-{classes}'s python batches ({train[0]}, ...) nor packed JPEGs"
            )
        parts = jpegs(packed[0]), jpegs(packed[1])
    (x, y), (xt, yt) = parts
    return Dataset(f"cifar{classes}", x, y, xt, yt, tuple(map(str, range(classes))))
