"""Server optimizers: a mean delta to a new global head.

`ServerSgd` is FedAvg's step, `ServerMomentum` FedAvgM's (Hsu et al. 2019). The adaptive ones are FedAdagrad,
FedAdam and FedYogi of Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2; theirs differ
in the second moment alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from quantfl.strategy.base import Snapshot


class ServerSgd:
    """params + lr * mean."""

    def __init__(self, lr: float = 1.0):
        self.lr = lr

    def step(self, params: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The next head, float32 [params]."""
        moved: np.ndarray = (params + self.lr * mean).astype(np.float32)
        return moved

    def state(self) -> Snapshot:
        """Nothing."""
        return Snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing to take up."""


class ServerMomentum:
    """v = momentum * v + mean; params + lr * v. State: v, float64 [params]."""

    def __init__(self, lr: float = 1.0, momentum: float = 0.9):
        self.lr, self.momentum = lr, momentum
        self.velocity: np.ndarray | None = None

    def step(self, params: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The next head, float32 [params]."""
        self.velocity = mean.copy() if self.velocity is None else self.momentum * self.velocity + mean
        moved: np.ndarray = (params + self.lr * self.velocity).astype(np.float32)
        return moved

    def state(self) -> Snapshot:
        """The velocity."""
        return Snapshot({} if self.velocity is None else {"velocity": self.velocity})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the velocity."""
        held = snapshot.arrays.get("velocity")
        self.velocity = None if held is None else held.copy()


class ServerAdaptive(ABC):
    """m = beta1 m + (1 - beta1) mean; params + lr m / (sqrt(v) + tau). State: m and v, float64 [params].

    A subclass says what v becomes. tau bounds how much small movements are scaled up (the paper's degree of
    adaptivity).
    """

    def __init__(self, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3):
        self.lr, self.beta1, self.beta2, self.tau = lr, beta1, beta2, tau
        self.m: np.ndarray | None = None
        self.v: np.ndarray | None = None

    @abstractmethod
    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v, float64 [params], from the present one and the square of the mean delta."""

    def step(self, params: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The next head, float32 [params]."""
        m = np.zeros_like(mean) if self.m is None else self.m
        v = np.full_like(mean, self.tau**2) if self.v is None else self.v  # the paper's v_{-1} >= tau^2
        self.m = self.beta1 * m + (1 - self.beta1) * mean
        self.v = self.second_moment(v, mean * mean)
        moved: np.ndarray = (params + self.lr * self.m / (np.sqrt(self.v) + self.tau)).astype(np.float32)
        return moved

    def state(self) -> Snapshot:
        """Both moments."""
        return Snapshot({} if self.m is None or self.v is None else {"m": self.m, "v": self.v})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up both moments."""
        m, v = snapshot.arrays.get("m"), snapshot.arrays.get("v")
        self.m, self.v = None if m is None else m.copy(), None if v is None else v.copy()


class ServerAdagrad(ServerAdaptive):
    """v + mean^2 (FedAdagrad)."""

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v."""
        moved: np.ndarray = v + square
        return moved


class ServerYogi(ServerAdaptive):
    """v - (1 - beta2) mean^2 sign(v - mean^2) (FedYogi)."""

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v."""
        moved: np.ndarray = v - (1 - self.beta2) * square * np.sign(v - square)
        return moved
