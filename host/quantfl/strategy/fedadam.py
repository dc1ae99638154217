"""FedAdam: Adam at the server on the clients' mean delta (Reddi et al., ICLR 2021, algorithm 2).

This file is the whole strategy: an optimizer, its options in FLEET.toml, and a line that registers it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from quantfl.strategy.composed import ComposedStrategy
from quantfl.strategy.registry import Options, Parts, register
from quantfl.strategy.server_optimizers import ServerAdaptive


class ServerAdam(ServerAdaptive):
    """v = beta2 v + (1 - beta2) mean^2."""

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v, float64 [params]."""
        moved: np.ndarray = self.beta2 * v + (1 - self.beta2) * square
        return moved


class FedAdamOptions(Options):
    """[strategy] with name = "fedadam"."""

    server_lr: Annotated[float, Field(gt=0, le=100, description="The learning rate of the server.")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="The decay of the first moment.")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="The decay of the second moment.")] = 0.99
    tau: Annotated[float, Field(gt=0, description="Bounds how much small movements are scaled up.")] = 1e-3


@register("fedadam", FedAdamOptions)
def fedadam(parts: Parts, options: FedAdamOptions) -> ComposedStrategy:
    """FedAdam from the parts of a run."""
    optimizer = ServerAdam(options.server_lr, options.beta1, options.beta2, options.tau)
    return parts.compose(optimizer)
