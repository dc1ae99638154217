"""Activity recordings by subject (Matey-Sanz et al., smartphone and smartwatch, CC BY 4.0), packed as
spsw_har.npz."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np

from quantfl.data.dataset import Dataset, find
from quantfl.errors import DataError

CLASSES = ("seated", "sitting down", "standing up", "turning", "walking")
WINDOW, STRIDE, CHANNELS = 64, 32, 6
PHONE, WATCH = 0, 1
UNITS = np.array([9.81, 9.81, 9.81, 2.0, 2.0, 2.0], np.float32)  # g, and 2 rad/s: all channels of like spread
PUBLIC_SUBJECTS = 8  # the first subjects, whose recordings models are pre-trained on


def windows(path: Path) -> tuple[np.ndarray, ...]:
    """x float32 [n, 64, 6] at about 50 Hz (1.28 s, half overlapping), label of most of its samples, subject,
    device, recording; all [n]."""
    try:
        with np.load(path, allow_pickle=False) as z:
            x, label, start = z["x"] / UNITS, z["label"].astype(np.int64), z["rec_start"].astype(np.int64)
            subject, device = z["rec_subject"].astype(np.int64), z["rec_device"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of activity recordings ({error})") from None
    if start[0] != 0 or (np.diff(start) < 0).any() or start[-1] > len(x) or len(start) != len(subject) + 1:
        raise DataError(f"{path}: its recordings' ranges are damaged")
    rows = []
    for r, (a, b) in enumerate(itertools.pairwise(start)):
        n = (b - a) // 2
        half = x[a : a + 2 * n].reshape(n, 2, CHANNELS).mean(1)
        marks = label[a : a + 2 * n : 2]
        for at in range(0, n - WINDOW + 1, STRIDE):
            votes = np.bincount(marks[at : at + WINDOW], minlength=len(CLASSES))
            rows.append((half[at : at + WINDOW], int(votes.argmax()), subject[r], device[r], r))
    xs, *columns = zip(*rows, strict=True)
    return np.stack(xs).astype(np.float32), *(np.asarray(c, np.int64) for c in columns)


def load_activity(path: Path | None, part: str = "watch") -> Dataset:
    """part "watch": the watches of all but the first eight subjects, for the boards (groups = subjects; the
    last two recordings of each are the test set); part "phone": the phones of the first eight, for
    pre-training."""
    x, y, subject, device, recording = windows(find("har_spsw", path) / "spsw_har.npz")
    public = subject <= PUBLIC_SUBJECTS
    mine = (device == PHONE) & public if part == "phone" else (device == WATCH) & ~public
    held = np.zeros(len(y), bool)
    for s in np.unique(subject[mine]):
        last = np.unique(recording[mine & (subject == s)])[-2:]
        held |= mine & np.isin(recording, last)
    train, test = mine & ~held, held
    return Dataset(
        f"activity-{part}", x[train], y[train], x[test], y[test], CLASSES, subject[train], subject[test]
    )
