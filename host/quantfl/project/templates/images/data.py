"""Pictures of a small camera: 24 x 24 pixels, gray, 0..255.

`dataset()` is what FLEET.toml trains on. Until there are pictures in data/, they are drawn: shapes on a belt,
as a camera sees them. Put your own into data/CLASS/NAME.png; they are scaled to 24 x 24 (extra [images]).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantfl.data import Dataset, load_images

CLASSES = ("circle", "cross", "square", "triangle")
SIDE = 24
PICTURES = Path(__file__).parent / "data"


def dataset() -> Dataset:
    """Pictures in data/, where there are some; else drawn ones of ten cameras."""
    if PICTURES.is_dir() and any(p.is_dir() for p in PICTURES.iterdir()):
        return load_images(PICTURES, size=(SIDE, SIDE), gray=True)
    x, y, who = drawn(cameras=range(100, 110), each=120, seed=1, aslant=True)
    test = np.arange(len(y)) % 4 == 3
    return Dataset("images", x[~test], y[~test], x[test], y[test], CLASSES, who[~test], who[test])


def drawn(
    cameras: range, each: int, seed: int, *, aslant: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures float32 [n, 24, 24, 1], classes int64 [n] and cameras int64 [n].

    aslant: the camera looks from the side, so that shapes are narrow and turned. That is what the fleet has
    to learn.
    """
    xs, ys, whos = [], [], []
    for camera in cameras:
        rng = np.random.default_rng([seed, camera])
        light, tilt = rng.uniform(120, 200), rng.uniform(-0.3, 0.3)
        for _ in range(each):
            kind = int(rng.integers(len(CLASSES)))
            lying = tilt + rng.uniform(-0.4, 0.4) + (0.5 if aslant else 0.0)
            shape = _shape(CLASSES[kind], rng, lying, 0.7 if aslant else 1.0)
            xs.append(np.clip(20 + light * shape + rng.normal(0, 12, shape.shape), 0, 255)[..., None])
            ys.append(kind)
            whos.append(camera - cameras.start)
    return np.array(xs, np.float32), np.array(ys), np.array(whos)


def _shape(name: str, rng: np.random.Generator, angle: float, width: float) -> np.ndarray:
    """A filled shape, 0..1 [24, 24], with soft edges. angle: radians it is turned by; width: how much of its
    width is seen."""
    row, column = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    row, column = row - rng.uniform(-4, 4), column - rng.uniform(-4, 4)
    column = column / width
    u = column * np.cos(angle) + row * np.sin(angle)
    v = row * np.cos(angle) - column * np.sin(angle)
    size = rng.uniform(5.0, 8.0)
    inside = {
        "circle": lambda: size - np.hypot(u, v),
        "square": lambda: 0.9 * size - np.maximum(abs(u), abs(v)),
        "triangle": lambda: np.minimum(size * 0.7 - v, v + size * 0.9 - 1.9 * abs(u)),
        "cross": lambda: np.minimum(size - np.maximum(abs(u), abs(v)), size / 3 - np.minimum(abs(u), abs(v))),
    }[name]()
    return np.clip(inside + 0.5, 0, 1)
