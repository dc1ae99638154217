"""From a data set's units to a package's int8 input."""

from __future__ import annotations

import numpy as np

from quantfl.errors import DataError

FEW_LEVELS = 4  # int8 values in use, at most: samples in other units than the model's look like this
MANY_SATURATED = 0.25  # share of values that lie outside the model's input range


def to_int8(x: np.ndarray, scale: float, zero_point: int, size: int, source: str = "the data") -> np.ndarray:
    """int8 [n, size]: clip(round(x / scale) + zero_point) in float64, halves to even, as TFLite quantises
    inputs.

    x [n, ...] in the units the model was calibrated with. DataError when a sample has not `size` values.
    """
    flat = np.asarray(x).reshape(len(x), -1)
    if flat.shape[1] != size:
        raise DataError(
            f"{source}: a sample of shape {np.shape(x)[1:]} has {flat.shape[1]} values, but the model "
            f"takes {size}"
        )
    if not np.isfinite(flat).all():
        raise DataError(f"{source}: NaN or infinity among the samples")
    steps: np.ndarray = np.rint(flat.astype(np.float64) / scale) + zero_point
    clipped: np.ndarray = np.clip(steps, -128, 127).astype(np.int8)
    return clipped


def misfit(x: np.ndarray, scale: float, zero_point: int, source: str = "the data") -> str | None:
    """A warning, in one line, where samples [n, ...] hardly fit a model's int8 input; None: they look right.

    Few int8 values in use, or many values beyond the range, mostly mean that samples and model have other
    units: 0..1 where the model was calibrated with 0..255, or the other way round.
    """
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
    given = f"values from {flat.min():.4g} to {flat.max():.4g}, where the model takes {low:.4g} to {high:.4g}"
    beyond = float(((flat < low - scale) | (flat > high + scale)).mean())
    if beyond > MANY_SATURATED:
        return f"{source}: {beyond:.0%} of the values are cut off ({given}); are they in the model's units?"
    levels = len(np.unique(to_int8(flat, scale, zero_point, flat.shape[1])))
    if levels <= FEW_LEVELS < len(np.unique(flat)):
        return f"{source}: values fall on {levels} of 256 int8 values ({given}); are they in its units?"
    return None
