"""Words for a microphone: one second at 16 kHz as MFCC, 49 frames of 10 coefficients.

`dataset()` is what FLEET.toml trains on. Until there are recordings in data/, the words are made-up sounds
with the formants of vowels, so that everything can be tried without a microphone. Record your own as
data/WORD/SPEAKER_nohash_NUMBER.wav, 16 bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantfl.data import Dataset, load
from quantfl.data.mfcc import CLIP, RATE, mfcc

#: Word -> its vowels, as the first two formants in Hz at the beginning and at the end.
WORDS = {
    "bye": ((730, 1090), (300, 2300)),
    "go": ((500, 900), (320, 800)),
    "noise": None,
    "yes": ((300, 2200), (530, 1840)),
}
RECORDINGS = Path(__file__).parent / "data"


def dataset() -> Dataset:
    """Recordings in data/, where there are some; else made-up words of eight speakers."""
    if RECORDINGS.is_dir() and any(RECORDINGS.glob("*/*.wav")):
        return load(f"wav:{RECORDINGS}")
    x, y, who = made_up(speakers=range(100, 108), each=32, seed=1, far=True)
    test = np.arange(len(y)) % 4 == 3
    return Dataset("wakeword", x[~test], y[~test], x[test], y[test], tuple(WORDS), who[~test], who[test])


def made_up(
    speakers: range, each: int, seed: int, *, far: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MFCC float32 [n, 49, 10, 1], words int64 [n] and speakers int64 [n].

    far: the microphone is across a noisy room. That is what the fleet has to learn.
    """
    xs, ys, whos = [], [], []
    for speaker in speakers:
        rng = np.random.default_rng([seed, speaker])
        pitch, throat = rng.uniform(90, 230), rng.uniform(0.9, 1.15)
        for _ in range(each):
            kind = int(rng.integers(len(WORDS)))
            sound = _say(list(WORDS.values())[kind], rng, pitch * rng.uniform(0.95, 1.05), throat)
            xs.append(mfcc(_across_the_room(sound, rng) if far else sound))
            ys.append(kind)
            whos.append(speaker - speakers.start)
    return np.stack(xs), np.array(ys), np.array(whos)


def _say(
    vowels: tuple[tuple[int, int], tuple[int, int]] | None,
    rng: np.random.Generator,
    pitch: float,
    throat: float,
) -> np.ndarray:
    """One second of sound float64 [16000]: harmonics of the pitch, shaped by two moving formants."""
    t = np.arange(CLIP) / RATE
    sound = rng.normal(0, 0.01, CLIP)
    if vowels is None:
        return sound + rng.normal(0, 0.2, CLIP) * np.exp(-(((t - rng.uniform(0.3, 0.7)) / 0.2) ** 2))
    begin, length = rng.uniform(0.1, 0.3), rng.uniform(0.35, 0.55)
    glide = np.clip((t - begin) / length, 0, 1)
    loud = np.where((t > begin) & (t < begin + length), np.sin(np.pi * glide), 0.0)
    for k in range(1, int(2800 / pitch)):
        gain = sum(
            np.exp(-(((k * pitch - throat * (a + (b - a) * glide)) / 120.0) ** 2))
            for a, b in zip(*vowels, strict=True)
        )
        sound += loud * gain * np.sin(2 * np.pi * k * pitch * t + k)
    return sound


def _across_the_room(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An echo, dull highs and a hum."""
    echo = np.concatenate([np.zeros(900), sound[:-900]])
    dull = np.convolve(sound + 0.5 * echo, np.full(6, 1 / 6), "same")
    hum = 0.12 * np.sin(2 * np.pi * 100 * np.arange(CLIP) / RATE + rng.uniform(0, 6))
    return dull + hum + rng.normal(0, 0.03, CLIP)
