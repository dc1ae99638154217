"""The strategies that come with quantfl, but for FedAdam, whose file is the example of docs/EXTENDING.md."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quantfl.strategy.composed import ComposedStrategy
from quantfl.strategy.fedadam import FedAdamOptions
from quantfl.strategy.registry import Options, Parts, register
from quantfl.strategy.server_optimizers import ServerAdagrad, ServerMomentum, ServerSgd, ServerYogi


class FedAvgOptions(Options):
    """[strategy] with name = "fedavg" (McMahan et al. 2017)."""

    server_lr: Annotated[float, Field(gt=0, le=100, description="Scales the mean delta.")] = 1.0


class FedAvgMOptions(FedAvgOptions):
    """[strategy] with name = "fedavgm" (Hsu et al. 2019)."""

    momentum: Annotated[float, Field(ge=0, lt=1, description="The momentum of the server.")] = 0.9


class FedAdagradOptions(Options):
    """[strategy] with name = "fedadagrad" (Reddi et al. 2021)."""

    server_lr: Annotated[float, Field(gt=0, le=100, description="The learning rate of the server.")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="The decay of the first moment.")] = 0.0
    tau: Annotated[float, Field(gt=0, description="Bounds how much small movements are scaled up.")] = 1e-3


class FedYogiOptions(FedAdamOptions):
    """[strategy] with name = "fedyogi" (Reddi et al. 2021)."""


@register("fedavg", FedAvgOptions)
def fedavg(parts: Parts, options: FedAvgOptions) -> ComposedStrategy:
    """FedAvg from the parts of a run."""
    return parts.compose(ServerSgd(options.server_lr))


@register("fedavgm", FedAvgMOptions)
def fedavgm(parts: Parts, options: FedAvgMOptions) -> ComposedStrategy:
    """FedAvgM from the parts of a run."""
    return parts.compose(ServerMomentum(options.server_lr, options.momentum))


@register("fedadagrad", FedAdagradOptions)
def fedadagrad(parts: Parts, options: FedAdagradOptions) -> ComposedStrategy:
    """FedAdagrad from the parts of a run."""
    return parts.compose(ServerAdagrad(options.server_lr, options.beta1, 0.0, options.tau))


@register("fedyogi", FedYogiOptions)
def fedyogi(parts: Parts, options: FedYogiOptions) -> ComposedStrategy:
    """FedYogi from the parts of a run."""
    return parts.compose(ServerYogi(options.server_lr, options.beta1, options.beta2, options.tau))
