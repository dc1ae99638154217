"""Deltas that were decoded where they came in, so that reading and summing them need not do it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from quantfl.core.codec import Form, dz_read


class Decoded(NamedTuple):
    """A DZ delta. symbols: int32 [params]; length: their l2 norm, in steps."""

    symbols: np.ndarray
    form: Form
    length: float

    @classmethod
    def of(cls, data: bytes, tensors: Sequence[int], agreed: int = 0) -> Decoded:
        """Decode a delta. CodecError: it is malformed or of another shape."""
        symbols, form = dz_read(data, tensors, agreed)
        return cls(symbols, form, float(np.linalg.norm(symbols.astype(np.float64))))
