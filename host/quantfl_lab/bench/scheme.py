"""What takes part in `quantfl bench bytes`: anything that turns a Setting into a run's history over real
links and frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from quantfl.fleet.config import DownlinkTable, StartTable, UplinkTable
from quantfl_lab.bench import setting
from quantfl_lab.bench.setting import Setting


class Scheme(Protocol):
    """How both directions of a run are coded. name: in tables, unique."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """All its settings as text: a run with the same key and setting is not repeated."""

    def history(self, s: Setting) -> list[dict]:
        """A run of s.config's rounds, as quantfl.fleet.api.history gives it: `accuracy`, `up_bytes` and
        `down_bytes` (of all links, everything counted, since the links began) per round, round 0 being the
        state after set-up."""


@dataclass(frozen=True)
class Own:
    """quantfl's codecs on its own boards."""

    name: str
    uplink: UplinkTable = UplinkTable()
    downlink: DownlinkTable = DownlinkTable()
    start: StartTable = StartTable(how="none")

    @property
    def key(self) -> str:
        return "/".join(t.model_dump_json() for t in (self.uplink, self.downlink, self.start))

    def applied(self, s: Setting) -> Setting:
        tables = {"uplink": self.uplink, "downlink": self.downlink, "start": self.start}
        return replace(s, config=s.config.model_copy(update=tables))

    def history(self, s: Setting) -> list[dict]:
        return setting.history(self.applied(s))


def both(name: str, **codec: object) -> Own:
    """The same codec up and down."""
    return Own(name, UplinkTable(**codec), DownlinkTable(**codec))


FP32 = both("fp32", codec="fp32")
PAPER = Own("BU(64) up, fp32 down", UplinkTable(codec="bu"), DownlinkTable(codec="fp32"))
DZ = Own("DZ")
STARTED = Own("DZ, start in closed form", start=StartTable(how="closed-form"))
DEFAULT = Own("default: DZ, start where it pays", start=StartTable())
OWN = (
    FP32,
    PAPER,
    both("BU(64)", codec="bu"),
    both("BU(64) coded", codec="bu", coded=True),
    both("BU(16) coded", codec="bu", levels=16, coded=True),
    both("BU(8) means", codec="bu", levels=8, means=True),
    both("BQ(8) means", codec="bq", levels=8, means=True),
    DZ,
    STARTED,
    DEFAULT,
)
KEY_SCHEMES = (FP32, PAPER, DZ, DEFAULT)


def all_schemes() -> tuple[Scheme, ...]:
    """Ours, then the rivals (quantfl_lab.rivals), as far as they are Schemes."""
    try:
        from quantfl_lab.rivals.schemes import RIVALS
    except ModuleNotFoundError:
        return OWN
    taken = {s.name for s in OWN}
    return (*OWN, *(r for r in RIVALS if hasattr(r, "history") and r.name not in taken))
