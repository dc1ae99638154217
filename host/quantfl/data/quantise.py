"""From a data set's units to a package's int8 input."""

from __future__ import annotations

import numpy as np

from quantfl.errors import DataError


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
