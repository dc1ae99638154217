"""MFCC as MLPerf Tiny's keyword spotting computes them (mlcommons/tiny, benchmark/training/keyword_spotting):
30 ms Hann windows every 20 ms, 40 mel bands from 20 to 4,000 Hz, log(x + 1e-6), the first 10 coefficients of
an orthonormal-scaled DCT-II.
"""

from __future__ import annotations

from functools import cache

import numpy as np

RATE, CLIP = 16000, 16000
FRAME, STEP, FFT, BANDS, COEFFICIENTS = 480, 320, 512, 40, 10
FRAMES = 1 + (CLIP - FRAME) // STEP


@cache
def _mel() -> np.ndarray:
    """[257, 40] triangular bands on the mel scale of HTK: 1127 * ln(1 + f / 700); the bin at 0 Hz is left
    out."""

    def mel(f: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(f) / 700.0)

    edges = np.linspace(mel(20.0), mel(4000.0), BANDS + 2)
    bins = mel(np.linspace(0.0, RATE / 2, FFT // 2 + 1))[1:, None]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
    return np.pad(weights, ((1, 0), (0, 0)))


@cache
def _dct() -> np.ndarray:
    """[40, 10]"""
    n, k = np.arange(BANDS)[:, None], np.arange(COEFFICIENTS)[None]
    matrix: np.ndarray = 2.0 * np.cos(np.pi * k * (2 * n + 1) / (2 * BANDS)) / np.sqrt(2.0 * BANDS)
    return matrix


def resample(audio: np.ndarray, rate: int) -> np.ndarray:
    """int16 or float samples at `rate` Hz as float64 at 16 kHz, by linear interpolation."""
    x = np.asarray(audio, np.float64)
    if rate == RATE or len(x) == 0:
        return x
    return np.interp(np.arange(int(len(x) * RATE / rate)) * rate / RATE, np.arange(len(x)), x)


def mfcc(audio: np.ndarray, rate: int = RATE) -> np.ndarray:
    """float32 [49, 10, 1] of one clip (any length: its loudest second is cut out, or it is padded with
    silence behind)."""
    x = resample(audio, rate)
    if len(x) > CLIP:
        energy = np.concatenate([[0.0], np.cumsum(x * x)])
        start = int(np.argmax(energy[CLIP:] - energy[:-CLIP]))
        x = x[start : start + CLIP]
    x = np.pad(x, (0, CLIP - len(x)))
    x = x / max(1e-9, float(x.max(initial=0.0)))
    frames = np.stack([x[i * STEP : i * STEP + FRAME] for i in range(FRAMES)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    spectrum = np.abs(np.fft.rfft(frames * window, FFT))
    coefficients: np.ndarray = np.log(spectrum @ _mel() + 1e-6) @ _dct()
    return coefficients.astype(np.float32)[..., None]
