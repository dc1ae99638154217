"""Tasks of the benches of quantisers: digits, which needs no data, and mnist where MNIST is
(quantfl_lab.bench.tasks)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from quantfl_lab.bench.setting import Setting, setting
from quantfl_lab.bench.tasks import DIGITS, SOURCES, Source, present, task

_SOURCES = {s.name: s for s in (DIGITS, *SOURCES)}


@dataclass(frozen=True)
class RivalTask:
    """name: of a source of `quantfl bench bytes`; digits with all boards in every round, others with a tenth;
    Dirichlet(0.3)."""

    name: str

    @property
    def source(self) -> Source:
        return _SOURCES[self.name]

    def setting(self, seed: int, rounds: int | None = None) -> Setting:
        """rounds: None for the description's."""
        return _setting(self, seed, rounds)


@lru_cache(maxsize=4)
def _setting(t: RivalTask, seed: int, rounds: int | None) -> Setting:
    made = task(t.source, "dirichlet:0.3", 1.0 if t.source is DIGITS else 0.1, central=True, rounds=rounds)
    config = made.config.model_copy(update={"run": made.config.run.model_copy(update={"seed": seed})})
    return setting(config, t.source.file.parent, t.source.train)


def tasks(quick: bool) -> list[RivalTask]:
    """digits alone when quick."""
    return [RivalTask("digits")] + ([RivalTask("mnist")] if not quick and present(_SOURCES["mnist"]) else [])
