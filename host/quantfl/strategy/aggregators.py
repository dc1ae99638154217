"""Aggregators: contributions to one mean delta.

Deltas whose step is known are summed as integers. The sum does not depend on the order of the clients, and
takes one vector of integers per step in use, however many clients there are. Others (fp32, bu, bq) are
decoded one at a time, in the clients' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from quantfl.core.codec import decode, dz_read, dz_value, is_dz
from quantfl.core.head import Head
from quantfl.strategy.base import Contribution, Snapshot


class WeightedMean:
    """The mean of FedAvg (McMahan et al. 2017, algorithm 1). weighting: by `samples`, or `equal` for every
    client."""

    needs: Literal["sums", "each"] = "sums"

    def __init__(self, head: Head, weighting: Literal["samples", "equal"] = "samples"):
        self.head, self.weighting = head, weighting

    def mean(self, contributions: Sequence[Contribution]) -> np.ndarray | None:
        """The mean delta, float64 [params]; None when there are no contributions."""
        sums: dict[int, np.ndarray] = {}
        size = self.head.params
        plain, total = np.zeros(size, np.float64), 0
        for c in contributions:
            weight = c.samples if self.weighting == "samples" else 1
            total += weight
            if is_dz(c.data):
                symbols, form = dz_read(c.data, self.head.tensors, c.agreed)
                if symbols.any():
                    summed = sums.setdefault(form.code, np.zeros(size, np.int64))
                    summed += weight * symbols.astype(np.int64)
            else:
                plain += float(weight) * decode(c.data, self.head.tensors)
        if total == 0:
            return None
        for code in sorted(sums):
            plain += sums[code] * dz_value(code)
        mean: np.ndarray = plain / total
        return mean

    def state(self) -> Snapshot:
        """Nothing: a mean forgets."""
        return Snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing to take up."""
