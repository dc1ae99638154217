"""Strategies by name: those of quantfl, and those that other installed packages add.

A package names its strategies in its pyproject.toml:

    [project.entry-points."quantfl.strategies"]
    mine = "my_package.mine"

The module is imported when a description names the strategy, and registers it with `register`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from quantfl.core.head import Head
from quantfl.errors import UsageError
from quantfl.strategy.aggregators import AggregatorOptions, find_aggregator
from quantfl.strategy.base import Aggregator, Downlink, RateControl, ServerOptimizer, Strategy
from quantfl.strategy.composed import ComposedStrategy
from quantfl.suggest import meant

GROUP = "quantfl.strategies"


class Options(BaseModel):
    """Keys of [strategy] beside those of the aggregator. A strategy's own class adds fields, each with a
    range and a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Parts:
    """What a run gives a strategy to start from. params: the first head, float32 [params]. aggregator: its
    name; options: the aggregator's."""

    head: Head
    params: np.ndarray
    downlink: Downlink
    rate: RateControl
    aggregator: str = "mean"
    options: AggregatorOptions = field(default_factory=AggregatorOptions)

    def compose(self, optimizer: ServerOptimizer, aggregator: Aggregator | None = None) -> ComposedStrategy:
        """A strategy of these parts. aggregator: None for the one that the description names."""
        return ComposedStrategy(
            self.head,
            self.params,
            self.downlink,
            self.rate,
            aggregator=aggregator or find_aggregator(self.aggregator)(self.head, self.options),
            optimizer=optimizer,
        )


@dataclass(frozen=True)
class Entry:
    """A registered strategy: its options, and the function that makes it."""

    name: str
    options: type[Options]
    make: Callable[[Parts, Any], Strategy]


_entries: dict[str, Entry] = {}
_Made = TypeVar("_Made", bound=Callable[..., Strategy])


def register(name: str, options: type[Options]) -> Callable[[_Made], _Made]:
    """Decorator of a function (parts, options) -> Strategy: descriptions may name it. Registering a name
    again replaces it."""

    def add(make: _Made) -> _Made:
        _entries[name] = Entry(name, options, make)
        return make

    return add


def names() -> list[str]:
    """All strategies that a description may name."""
    import_module("quantfl.strategy.builtin")
    return sorted({*_entries, *(e.name for e in entry_points(group=GROUP))})


def find(name: str) -> Entry:
    """The strategy of this name. UsageError when there is none, or when the package that offers it does not
    work."""
    import_module("quantfl.strategy.builtin")
    if name not in _entries:
        for offered in entry_points(group=GROUP, name=name):
            try:
                offered.load()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise UsageError(
                    f"strategy {name!r} cannot be loaded from {offered.value}: {reason}"
                ) from None
    if name not in _entries:
        raise UsageError(f"no strategy {name!r}{meant(name, names())}; there are {', '.join(names())}")
    return _entries[name]
