"""Data sets by name. Files are looked for at the path given, in QUANTFL_DATA, beside the repository
(../shared/data) and in ~/.cache/quantfl; MNIST can be downloaded. `digits` comes with quantfl.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from quantfl.errors import DataError, UsageError
from quantfl.suggest import meant

LABEL_MAX = 65535  # boards keep a label as uint16


@dataclass(frozen=True)
class Dataset:
    """x: float32 or uint8 [n, ...] in the units the model's input takes (images 0..255); y: int64 [n].

    groups: who or what each sample is from (writer, subject, speaker), int64 [n], None when unknown.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    groups_train: np.ndarray | None = None
    groups_test: np.ndarray | None = None

    def __post_init__(self) -> None:
        for x, y, part in ((self.x_train, self.y_train, "training"), (self.x_test, self.y_test, "test")):
            if len(x) != len(y):
                raise DataError(f"{self.name}: {len(x)} {part} samples but {len(y)} labels")
            if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(self.classes):
                raise DataError(
                    f"{self.name}: {part} labels run from {y.min()} to {y.max()}, but there are "
                    f"{len(self.classes)} classes"
                )


def find(part: str, path: Path | None) -> Path:
    """Where a data set's files lie. DataError lists the places looked at."""
    if path is not None:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; correct data.path")
        return path
    places = []
    if os.environ.get("QUANTFL_DATA"):
        places.append(Path(os.environ["QUANTFL_DATA"]) / part)
    places.append(Path(__file__).resolve().parents[4] / "shared" / "data" / part)
    places.append(Path.home() / ".cache" / "quantfl" / part)
    for place in places:
        if place.exists():
            return place
    raise DataError(
        f"{part}: no data found; give data.path, or set QUANTFL_DATA to a folder that holds {part}/"
    )


def load_digits(path: Path | None) -> Dataset:
    """1,797 handwritten digits, 8x8, turned by a quarter: the federated domain of
    models/digits.

    600 samples are the recipe's for pre-training (upright); of the rest 897 are for the boards and 300 for
    testing. They come with quantfl: UsageError when a path is given.
    """
    if path is not None:
        raise UsageError(
            f"data.path = {str(path)!r}: the digits come with quantfl; leave data.path out, or name data of "
            "your own (csv:PATH, npz:PATH, ...)"
        )
    x, y = digits_arrays()
    x = np.ascontiguousarray(np.rot90(x, axes=(1, 2)))
    return Dataset("digits", x[600:1497], y[600:1497], x[1497:], y[1497:], tuple("0123456789"))


def digits_arrays() -> tuple[np.ndarray, np.ndarray]:
    """The upright images float32 [1797, 8, 8, 1] in 0..255 and labels int64 [1797], in a fixed random order.

    digits.npz has them as scikit-learn packs them: the test part of "Optical Recognition of Handwritten
    Digits" (E. Alpaydin and C. Kaynak, UCI, 1998; CC BY 4.0), each pixel 0..16.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as raw:
        images, target = raw["images"], raw["target"]
    order = np.random.default_rng(20261124).permutation(len(target))
    x = (images[order] * (255.0 / 16.0)).astype(np.float32)[..., None]
    return x, target[order].astype(np.int64)


def _lazy(module: str, function: str, **options: object) -> Callable[[Path | None], Dataset]:
    """A loader whose module is imported when it is used."""

    def load_it(path: Path | None) -> Dataset:
        found: Dataset = getattr(import_module(f"quantfl.data.{module}"), function)(path, **options)
        return found

    return load_it


LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": load_digits,
    "mnist": _lazy("idx", "load_mnist"),
    "cifar10": _lazy("cifar", "load_cifar", classes=10),
    "cifar100": _lazy("cifar", "load_cifar", classes=100),
    "femnist": _lazy("femnist", "load_femnist"),
    "femnist-letters": _lazy("femnist", "load_femnist", part="letters"),
    "femnist-digits": _lazy("femnist", "load_femnist", part="digits"),
    "femnist-public": _lazy("femnist", "load_femnist", part="public"),
    "femnist-writers": _lazy("femnist", "load_femnist", part="writers"),
    "activity-phone": _lazy("activity", "load_activity", part="phone"),
    "activity-watch": _lazy("activity", "load_activity", part="watch"),
    "fsdd": _lazy("speech", "load_fsdd"),
}


def located(name: str, path: str | Path | None, base: Path) -> tuple[str, Path | None]:
    """`data.name` and `data.path` of a description whose relative paths start from `base`, as `load` takes
    them.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in SOURCES:
        name = f"{kind}:{base / place}"
    return name, None if path is None else base / path


def located_in_run(name: str, path: str | Path | None, base: Path, run: Path) -> tuple[str, Path | None]:
    """As `located`, of the run in folder `run`.

    UsageError: its data are a Python file inside that folder. Whoever sent the folder would have code run by
    whoever looks at it.
    """
    found, where = located(name, path, base)
    kind, _, place = found.partition(":")
    if kind == "python" and Path(place).resolve().is_relative_to(run.resolve()):
        raise UsageError(
            f"{run}: its data are {place}, a Python file that came with the run; loading it would run its "
            "code. If you trust it, copy it elsewhere and give --data python:FILE to `quantfl evaluate` or "
            "`quantfl export`"
        )
    return found, where


def load(name: str, path: Path | None = None) -> Dataset:
    """A data set by name, or of one's own: KIND:PATH with a kind of SOURCES (docs/DATA.md).

    path: where a named set lies, None: where `find` looks. UsageError: no such set; DataError: its files.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in SOURCES:
        return SOURCES[kind](Path(place))
    if name not in LOADERS:
        kinds = [f"{kind}:PATH" for kind in SOURCES]
        raise UsageError(
            f"data.name: unknown data set {name!r}{meant(name, [*LOADERS, *kinds])}; known are "
            f"{', '.join([*LOADERS, *kinds])}"
        )
    return LOADERS[name](path)


def load_npz(path: Path) -> Dataset:
    """A data set of one's own. DataError names the array, its shape or dtype, and what is due."""
    try:
        with np.load(path, allow_pickle=False) as z:
            names = ("x", "y", "x_test", "y_test", "groups", "groups_test")
            arrays = {k: z[k] for k in names if k in z.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except MemoryError:
        raise DataError(f"{path}: its arrays do not fit into memory; keep fewer samples") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a .npz file of plain arrays ({error})") from None
    missing = [k for k in ("x", "y", "x_test", "y_test") if k not in arrays]
    if missing:
        raise DataError(f"{path}: lacks the array {missing[0]}; x, y, x_test and y_test are needed")
    for name in ("x", "x_test"):
        check_samples(arrays[name], str(path), name)
    if arrays["x"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"{path}: a sample of x has shape {arrays['x'].shape[1:]}, "
            f"one of x_test {arrays['x_test'].shape[1:]}; they must be alike"
        )
    for name, of in (("y", "x"), ("y_test", "x_test"), ("groups", "x"), ("groups_test", "x_test")):
        if name in arrays:
            _check_integers(arrays[name], arrays[of], str(path), name, of)
    top = int(max(arrays["y"].max(), arrays["y_test"].max()))
    return Dataset(
        path.stem,
        arrays["x"],
        arrays["y"].astype(np.int64),
        arrays["x_test"],
        arrays["y_test"].astype(np.int64),
        tuple(map(str, range(top + 1))),
        arrays.get("groups"),
        arrays.get("groups_test"),
    )


def check_samples(x: np.ndarray, source: str, name: str) -> None:
    """DataError unless x is [n, ...] of real, finite numbers with n and the sample's size above 0.

    source: the file, name: the array in it, as the message names them.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: {name} has dtype {x.dtype}; real numbers are due (uint8 or float32)")
    if x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{source}: {name} has shape {x.shape}; (samples, ...) is due, "
            "with at least one sample of one value"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{source}: {name} {x.dtype} {x.shape} holds NaN or infinity; finite numbers are due")


def _check_integers(values: np.ndarray, x: np.ndarray, source: str, name: str, of: str) -> None:
    """DataError unless `values`, the labels or groups of x, are integers [len(x)]; labels are 0 to 65535."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"{source}: {name} must be a vector of integers, not {values.dtype} {values.shape}; "
            f"one per sample of {of}"
        )
    if len(values) != len(x):
        raise DataError(
            f"{source}: {name} has {len(values)} values, but {of} has {len(x)} samples; one each is due"
        )
    if name.startswith("y") and not 0 <= int(values.min()) <= int(values.max()) <= LABEL_MAX:
        raise DataError(
            f"{source}: {name} runs from {values.min()} to {values.max()}; labels are 0 to {LABEL_MAX}"
        )


#: Kinds of own data: KIND:PATH.
SOURCES: dict[str, Callable[[Path], Dataset]] = {
    "npz": load_npz,
    "wav": lambda path: _lazy("speech", "load_words")(path),
    "csv": lambda path: _lazy("own", "load_csv")(path),
    "images": lambda path: _lazy("own", "load_images")(path),
    "edge-impulse": lambda path: _lazy("own", "load_edge_impulse")(path),
    "python": lambda path: _lazy("own", "load_python")(path),
}
