"""Gestures of a wrist, from an accelerometer: 64 readings of three axes at 50 Hz, in m/s².

`dataset()` is what FLEET.toml trains on. Until there are recordings in data/, the gestures are made up, so
that everything can be tried without a board. Record your own as data/GESTURE/PERSON.NUMBER.csv, one reading a
line:

    x,y,z
    0.12,-0.30,9.79
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantfl.data import Dataset, load_csv

CLASSES = ("circle", "lift", "shake", "still", "tap")
READINGS, RATE = 64, 50
RECORDINGS = Path(__file__).parent / "data"


def dataset() -> Dataset:
    """Recordings in data/, where there are some; else made-up gestures of twelve people."""
    if RECORDINGS.is_dir() and any(RECORDINGS.glob("*/*.csv")):
        return load_csv(RECORDINGS)
    x, y, who = made_up(people=range(100, 112), each=100, seed=1, turned=True)
    test = np.arange(len(y)) % 4 == 3
    return Dataset("gesture", x[~test], y[~test], x[test], y[test], CLASSES, who[~test], who[test])


def made_up(
    people: range, each: int, seed: int, *, turned: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gestures float32 [n, 64, 3], their classes int64 [n] and people int64 [n].

    turned: the board is worn on the inside of the wrist, so that its axes point elsewhere. That is what the
    fleet has to learn. Otherwise it is worn upright, more or less.
    """
    xs, ys, whos = [], [], []
    for person in people:
        rng = np.random.default_rng([seed, person])
        pace, force = rng.uniform(0.8, 1.25), rng.uniform(0.7, 1.4)
        loose = rng.normal(0, 0.2 if turned else 0.5, 3)
        worn = _rotation(loose + ([1.2, 0.6, 0.0] if turned else [0.0, 0.0, 0.0]))
        for _ in range(each):
            kind = int(rng.integers(len(CLASSES)))
            move = _move(CLASSES[kind], rng, pace * rng.uniform(0.9, 1.1), force * rng.uniform(0.85, 1.15))
            xs.append(np.inner(move + np.array([0, 0, 9.81]), worn) + rng.normal(0, 0.3, (READINGS, 3)))
            ys.append(kind)
            whos.append(person - people.start)
    return np.array(xs, np.float32), np.array(ys), np.array(whos)


def _move(name: str, rng: np.random.Generator, pace: float, force: float) -> np.ndarray:
    """Acceleration without gravity, [64, 3]."""
    t = np.arange(READINGS) / RATE
    phase = 2 * np.pi * rng.random()
    zero = np.zeros(READINGS)
    if name == "circle":
        a = 2 * np.pi * 1.2 * pace * t + phase
        return force * 4 * np.stack([np.cos(a), np.sin(a), zero], 1)
    if name == "shake":
        return force * 8 * np.stack([np.sin(2 * np.pi * 4 * pace * t + phase), zero, zero], 1)
    if name == "lift":
        bump = np.exp(-(((t - rng.uniform(0.4, 0.9)) * pace / 0.15) ** 2))
        return force * 6 * np.stack([zero, zero, np.gradient(bump) * 10], 1)
    if name == "tap":
        hits = sum(np.exp(-(((t - at) / 0.02) ** 2)) for at in rng.uniform(0.2, 1.1, 2))
        return force * 10 * np.stack([zero, 0.3 * hits, -hits], 1)
    return np.zeros((READINGS, 3))


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of angles about x, y and z, in radians."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turned = turned.dot(step)
    return turned
