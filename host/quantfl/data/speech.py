"""Spoken words as MFCC (quantfl.data.mfcc): the Free Spoken Digit Dataset packed as fsdd_8k.npz, or folders
of wav files."""

from __future__ import annotations

import itertools
import wave
import zipfile
from pathlib import Path

import numpy as np

from quantfl.data.dataset import Dataset, find
from quantfl.data.mfcc import mfcc
from quantfl.data.own import collect, files_by_class
from quantfl.errors import DataError

DIGITS = tuple("0123456789")
HELD_TAKES = 5  # FSDD's own convention: takes 0 to 4 of every speaker and digit are the test set


def load_fsdd(path: Path | None) -> Dataset:
    """Spoken digits, MFCC float32 [n, 49, 10, 1], groups = speakers. path: the npz's folder, or FSDD's
    recordings/ of DIGIT_SPEAKER_TAKE.wav."""
    folder = find("fsdd", path)
    if (folder / "fsdd_8k.npz").exists():
        clips, digit, speaker, take = _packed(folder / "fsdd_8k.npz")
    else:
        clips, digit, speaker, take = _recordings(folder)
    x, test = np.stack(clips), take < HELD_TAKES
    return Dataset(
        "fsdd", x[~test], digit[~test], x[test], digit[test], DIGITS, speaker[~test], speaker[test]
    )


#: MFCCs, and int64 [n] each: digit, speaker, take.
_Clips = tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]


def _packed(path: Path) -> _Clips:
    try:
        with np.load(path, allow_pickle=False) as z:
            start, audio, rate = z["start"].astype(np.int64), z["audio"], int(z["sample_rate"])
            clips = [mfcc(audio[a:b], rate) for a, b in itertools.pairwise(start)]
            return (
                clips,
                z["digit"].astype(np.int64),
                z["speaker"].astype(np.int64),
                z["index"].astype(np.int64),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of packed recordings ({error})") from None


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """int16 samples of the first channel, and the rate in Hz. DataError unless it is 16-bit PCM."""
    try:
        with wave.open(str(path), "rb") as w:
            if w.getsampwidth() != 2:
                raise DataError(f"{path}: {8 * w.getsampwidth()}-bit samples; 16-bit PCM is needed")
            raw = np.frombuffer(w.readframes(w.getnframes()), "<i2")
            return raw[:: w.getnchannels()], w.getframerate()
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{path}: not a wav file ({error})") from None


def _recordings(folder: Path) -> _Clips:
    inner = folder / "recordings"
    files = sorted((inner if inner.is_dir() else folder).glob("[0-9]_*_*.wav"))
    if not files:
        raise DataError(f"{folder}: holds neither fsdd_8k.npz nor DIGIT_SPEAKER_TAKE.wav files")
    names = sorted({f.stem.split("_")[1] for f in files})
    parts = [f.stem.split("_") for f in files]
    return (
        [mfcc(*read_wav(f)) for f in files],
        np.array([int(p[0]) for p in parts]),
        np.array([names.index(p[1]) for p in parts]),
        np.array([int(p[2]) for p in parts]),
    )


def load_words(path: Path) -> Dataset:
    """`wav:FOLDER`: a folder of wav files per word (as Speech Commands, Warden 2018), MFCC float32
    [n, 49, 10, 1]; every tenth file of a word is for testing, and one at least of two or more.

    groups: speakers, from the hash before `_nohash_` in the file's name. DataError: no such folder, fewer
    than two words, no file left for testing, a file that is no 16-bit wav.
    """
    return collect(
        path.name,
        (
            (mfcc(*read_wav(file)), word, file.stem.split("_nohash_")[0], None)
            for word, file in files_by_class(path, (".wav",))
        ),
    )
