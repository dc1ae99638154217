"""Tasks of the benches of quantisers: digits, which needs no data, and mnist where MNIST is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from quantfl.bench.rivals.fleet import Setting, setting
from quantfl.emulate.base import ROOT
from quantfl.errors import DataError
from quantfl.fleet import config


@dataclass(frozen=True)
class RivalTask:
    """A task by name; make: its setting for a seed and a number of rounds (None: the description's)."""

    name: str
    make: Callable[..., Setting]

    def setting(self, seed: int, rounds: int | None = None) -> Setting:
        return self.make(seed, rounds)


@lru_cache(maxsize=4)
def _setting(path: Path, seed: int, rounds: int | None) -> Setting:
    loaded = config.load(path)
    run = loaded.run.model_copy(update={"seed": seed, **({"rounds": rounds} if rounds else {})})
    fleet = config.FleetTable(emulate="inproc", boards=loaded.fleet.size)
    return setting(loaded.model_copy(update={"run": run, "fleet": fleet}), path.parent)


def tasks(quick: bool) -> list[RivalTask]:
    """digits alone when quick."""
    found = [RivalTask("digits", partial(_setting, ROOT / "models" / "digits" / "demo.toml"))]
    if quick:
        return found
    try:
        from quantfl.data.idx import find

        find("mnist", None)
    except DataError:
        return found
    return [*found, RivalTask("mnist", partial(_setting, ROOT / "models" / "femnist_mnist" / "mnist.toml"))]
