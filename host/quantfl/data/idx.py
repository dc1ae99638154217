"""IDX files as LeCun's MNIST has them (gzip or plain), from a folder or downloaded once."""

from __future__ import annotations

import gzip
import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from quantfl.data.dataset import Dataset, find
from quantfl.errors import DataError

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes as an array. DataError when it is not one or is cut short."""
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3]))
    head, size = 4 + 4 * len(shape), int(np.prod(shape, dtype=object))
    if len(raw) != head + size:
        raise DataError(f"{path}: {len(raw)} bytes, but its head announces {head + size}; get the file again")
    return np.frombuffer(raw, np.uint8, size, head).reshape(shape)


def _file(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder}: lacks {name}.gz")


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in _MD5.items():
        try:
            with urllib.request.urlopen(f"{_URL}{name}.gz", timeout=30) as response:
                raw = response.read()
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"mnist: no files found, and the download failed ({error}); put the four .gz files into "
                f"{folder}"
            ) from None
        if hashlib.md5(raw).hexdigest() != md5:
            raise DataError(f"mnist: the download of {name}.gz is damaged; try again")
        (folder / f"{name}.gz").write_bytes(raw)


def load_mnist(path: Path | None) -> Dataset:
    """60,000 training and 10,000 test images, uint8 [n, 28, 28, 1], digits white on black."""
    try:
        folder = find("mnist", path)
    except DataError:
        if path is not None:
            raise
        folder = Path.home() / ".cache" / "quantfl" / "mnist"
        _download(folder)
    parts = [read_idx(_file(folder, name)) for name in _MD5]
    for images, labels in ((parts[0], parts[1]), (parts[2], parts[3])):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{folder}: images {images.shape} and labels {labels.shape} do not belong together"
            )
    return Dataset(
        "mnist",
        parts[0][..., None],
        parts[1].astype(np.int64),
        parts[2][..., None],
        parts[3].astype(np.int64),
        tuple("0123456789"),
    )
