"""A user's own data: tables and recordings as CSV, folders of images, Edge Impulse's exports, rows from
Python.

What every loader shares: labels are folders, file names or columns; where a sample is from (who recorded it)
is its group; a sample is held back for testing where its file says so, else every tenth of its class.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.data.dataset import Dataset, check_samples
from quantfl.errors import DataError, QuantflError, ToolError

TIME_COLUMNS = ("timestamp", "time", "t", "ms")  # of a recording: when, not what
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".gif")
_MAX_FILE = 256 << 20  # bytes of one file: recordings of boards are far shorter

#: One sample: its values, its class and its group by name, whether it is for testing (None: not said).
Row = tuple[np.ndarray, str, str, bool | None]


def collect(name: str, rows: Iterable[Row], classes: Sequence[str] | None = None) -> Dataset:
    """A data set from samples of one shape. classes: their names in the order of the labels, None: those
    found, sorted. DataError: no sample, another shape, one class only."""
    xs: list[np.ndarray] = []
    labels: list[str] = []
    groups: list[str] = []
    test: list[bool | None] = []
    for x, label, group, held in rows:
        if xs and x.shape != xs[0].shape:
            raise DataError(
                f"{name}: sample {len(xs) + 1} has shape {x.shape}, the first {xs[0].shape}; "
                "cut or resize them to one shape"
            )
        xs.append(x)
        labels.append(label)
        groups.append(group)
        test.append(held)
    classes = tuple(sorted(set(labels)) if classes is None else classes)
    if len(set(labels)) < 2:
        found = f"one class only ({labels[0]})" if labels else "no samples"
        raise DataError(f"{name}: holds {found}; at least two classes are needed")
    xs_, y = np.stack(xs), np.array([classes.index(label) for label in labels])
    check_samples(xs_, name, "the samples")
    who = np.unique(groups, return_inverse=True)[1] if any(groups) else None
    away = _held_back(y, test)
    for part, chosen in (("training", ~away), ("testing", away)):
        if not chosen.any():
            raise DataError(f"{name}: no sample is left for {part}; record more of each class")
    of = (None, None) if who is None else (who[~away], who[away])
    return Dataset(name, xs_[~away], y[~away], xs_[away], y[away], classes, *of)


def _held_back(y: np.ndarray, said: list[bool | None]) -> np.ndarray:
    """Which samples are for testing, bool [n]: those that say so; where none does, every tenth of its class,
    and one at least."""
    if any(s is not None for s in said):
        return np.array([bool(s) for s in said])
    held = np.zeros(len(y), bool)
    for k in np.unique(y):
        of = np.flatnonzero(y == k)
        held[of[9::10] if len(of) >= 10 else of[-1:] if len(of) > 1 else of[:0]] = True
    return held


def load_csv(path: Path) -> Dataset:
    """`csv:PATH`. A file: a header, one sample a line; column `label`, optionally `group` and `split` (train
    or test), all others numbers. A folder: a folder per class, a file per recording (`WHO.NUMBER.csv` names
    its group), one reading a line; columns of time are left out."""
    if path.is_file():
        return collect(path.stem, _table(path))
    return collect(path.name, _recordings(path))


def _table(path: Path) -> Iterator[Row]:
    header, lines = _read_csv(path)
    if "label" not in header:
        raise DataError(f"{path}: the header has no column `label`; it has {', '.join(header[:8])}")
    meta = {name: header.index(name) for name in ("label", "group", "split") if name in header}
    values = [i for i in range(len(header)) if i not in meta.values()]
    for number, line in lines:
        x = np.array([_number(path, number, header[i], line[i]) for i in values], np.float32)
        split = line[meta["split"]].strip().lower() if "split" in meta else ""
        if split not in ("", "train", "training", "test", "testing"):
            raise DataError(f"{path}: line {number}: split is {split!r}; train or test is due")
        held = split.startswith("test") if split else None
        yield x, line[meta["label"]].strip(), line[meta["group"]] if "group" in meta else "", held


def _recordings(path: Path) -> Iterator[Row]:
    for label, file in files_by_class(path, (".csv",)):
        yield read_recording(file), label, file.stem.partition(".")[0], None


def read_recording(path: Path) -> np.ndarray:
    """float32 [readings, channels] of one CSV recording; columns of time are left out."""
    header, lines = _read_csv(path)
    keep = [i for i, name in enumerate(header) if name.lower() not in TIME_COLUMNS]
    rows = [[_number(path, number, header[i], line[i]) for i in keep] for number, line in lines]
    if not rows or not keep:
        raise DataError(f"{path}: holds no readings")
    return np.array(rows, np.float32)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the other lines with their numbers, each as long as the header."""
    try:
        text = _small(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8 text; save it as UTF-8") from None
    comma = max(",;\t", key=text[:2000].count)
    try:
        lines = [(i, row) for i, row in enumerate(csv.reader(text.splitlines(), delimiter=comma), 1) if row]
    except csv.Error as error:
        raise DataError(f"{path}: not CSV: {error}") from None
    if len(lines) < 2:
        raise DataError(f"{path}: a header and at least one line are due")
    header = [name.strip() for name in lines[0][1]]
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}: line {number} has {len(row)} values, the header {len(header)}")
    return header, lines[1:]


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path}: line {line}, column {column}: {text[:40]!r} is no number") from None
    if not math.isfinite(value):
        raise DataError(f"{path}: line {line}, column {column}: {text} is not finite")
    return value


def _small(path: Path) -> bytes:
    """A file's bytes. DataError when it is absent, unreadable or longer than a recording can be."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are too many for one recording")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def files_by_class(path: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(class, file) of a folder with a folder per class, in a fixed order."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in endings:
                yield folder.name, file


def load_images(path: Path, *, size: tuple[int, int] | None = None, gray: bool | None = None) -> Dataset:
    """`images:FOLDER`: a folder per class (extra [images]). x: uint8 [n, height, width, 1 or 3], 0..255.

    size: (height, width) to scale them to, None: as they are. gray: one channel, or three; None: one where
    all pictures are gray.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ToolError("Pillow is missing: pip install 'quantfl[images]'") from None
    found: list[tuple[Any, str, str]] = []
    for label, file in files_by_class(path, IMAGES):
        try:
            with Image.open(file) as picture:
                picture.load()
                found.append((picture.copy(), label, file.stem.partition(".")[0] if "." in file.stem else ""))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: not a picture that can be read ({error})") from None
    if gray is None:
        gray = all(picture.mode in ("1", "L", "I;16", "LA") for picture, _, _ in found)

    def rows() -> Iterator[Row]:
        for picture, label, group in found:
            scaled = (
                picture if size is None else picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            )
            values = np.asarray(scaled.convert("L" if gray else "RGB"), np.uint8)
            yield values.reshape(*values.shape[:2], -1), label, group, None

    return collect(path.name, rows())


def load_edge_impulse(path: Path, *, window: int | None = None, stride: int | None = None) -> Dataset:
    """`edge-impulse:FOLDER`: an export of Edge Impulse. Labels and categories are those of `info.labels`, or
    of `training/` and `testing/` and of the files' names (`label.NUMBER.json`).

    Recordings are JSON or CBOR of their data acquisition format, CSV or wav. window, stride: readings per
    sample and from one to the next; None: every recording is one sample. groups: device names.
    """
    return collect(path.name, _windowed(_edge_impulse(path), window, stride))


def _edge_impulse(path: Path) -> Iterator[Row]:
    listed = path / "info.labels"
    if listed.is_file():
        files = list(_listed(listed))
    else:
        found = [(p, folder) for folder in ("training", "testing") for p in sorted((path / folder).glob("*"))]
        files = [(p, p.name.partition(".")[0], folder == "testing") for p, folder in found if p.is_file()]
    if not files:
        raise DataError(f"{path}: neither info.labels nor files in training/ and testing/")
    for file, label, held in files:
        values, device = _acquired(file)
        yield values, label, device, held


def _listed(path: Path) -> Iterator[tuple[Path, str, bool]]:
    try:
        for entry in json.loads(_small(path))["files"]:
            label = entry["label"]
            name = label["label"] if isinstance(label, dict) else label
            file = (path.parent / str(entry["path"])).resolve()
            if not file.is_relative_to(path.parent.resolve()):
                raise DataError(f"{path}: {entry['path']!r} leads out of the folder")
            yield file, str(name), str(entry.get("category", "training")).startswith("test")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an info.labels of version 1 ({error!r})") from None


def _acquired(path: Path) -> tuple[np.ndarray, str]:
    """float32 [readings, channels] of one recording, and the device's name; empty where none is given."""
    if path.suffix == ".csv":
        return read_recording(path), ""
    if path.suffix == ".wav":
        from quantfl.data.speech import read_wav

        return np.asarray(read_wav(path)[0], np.float32)[:, None], ""
    try:
        if path.suffix == ".cbor":
            import cbor2

            raw = cbor2.loads(_small(path))
        else:
            raw = json.loads(_small(path))
        payload = raw["payload"]
        values = np.array(payload["values"], np.float32)
        device = str(payload.get("device_name", ""))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: not a recording in the data acquisition format ({error!r})") from None
    return values.reshape(len(values), -1), device


def _windowed(rows: Iterable[Row], window: int | None, stride: int | None) -> Iterator[Row]:
    for x, label, group, held in rows:
        if window is None:
            yield x, label, group, held
            continue
        for at in range(0, len(x) - window + 1, stride or window):
            yield x[at : at + window], label, group, held


def from_iterable(
    train: Iterable[Mapping[str, Any]],
    test: Iterable[Mapping[str, Any]] | None = None,
    *,
    x: str = "image",
    y: str = "label",
    group: str | None = None,
    transform: Callable[[Any], Any] = np.asarray,
    name: str = "rows",
) -> Dataset:
    """Rows from Python, as Hugging Face's `datasets` gives them: mappings with a sample, a label, and
    optionally who it is from.

    x, y, group: names of the columns. transform: makes an array of a sample (a picture, a list, a dict with
    `array`). test None: every tenth of a class is held back. Labels are integers with names in
    `train.features`, or names of their own.
    """
    names = getattr(getattr(train, "features", {}).get(y), "names", None)

    def rows(part: Iterable[Mapping[str, Any]], held: bool | None) -> Iterator[Row]:
        for number, row in enumerate(part):
            try:
                label, value = row[y], transform(row[x])
                who = "" if group is None else str(row[group])
            except KeyError as error:
                raise DataError(
                    f"{name}: row {number} has no column {error}; it has {', '.join(row)}"
                ) from None
            if not isinstance(label, str):
                label = str(int(label)) if names is None else names[label]
            yield np.asarray(value), label, who, held

    parts = [rows(train, None if test is None else False)] + ([] if test is None else [rows(test, True)])
    found = [row for part in parts for row in part]
    numbers = all(label.isdecimal() for _, label, _, _ in found)
    if names is None and numbers:  # a label is its own number, also where a class in between is absent
        names = [str(i) for i in range(1 + max((int(row[1]) for row in found), default=-1))]
    return collect(name, found, names)


def load_python(path: Path) -> Dataset:
    """`python:FILE.py`: what its function `dataset()` returns, a Dataset. The file is run: it must be one's
    own."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"quantfl_data_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.dataset()
    except QuantflError:
        raise
    except Exception as error:
        raise DataError(f"{path}: dataset() failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Dataset):
        raise DataError(f"{path}: dataset() returned {type(found).__name__}; a quantfl.data.Dataset is due")
    for part, x in (("x_train", found.x_train), ("x_test", found.x_test)):
        check_samples(x, str(path), part)
    return found
