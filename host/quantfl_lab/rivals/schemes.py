"""Which rivals take part in `quantfl bench bytes`, each with the settings its paper reports as best for this
use, and its downlink.

Downlinks. "fp32": the whole head or float32 deltas, where the paper leaves the downlink alone. A quantiser:
one coded delta per round that all boards apply, what it loses is kept at the server and sent later
(`down_feedback`; DoubleSqueeze, Tang et al. 2019), or, for codes whose error may exceed what they code, is
not kept; a board that sat k rounds out gets the k deltas or the head, whichever is shorter. "ours": quantfl's
own (docs/CODEC.md, lattice of heads): more than any paper offers, to compare uplinks alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quantfl.core.codec import Codec
from quantfl_lab.rivals.base import Quantiser
from quantfl_lab.rivals.buckets import Compressed, Ours
from quantfl_lab.rivals.rotated import Eden
from quantfl_lab.rivals.simple import Float, Int8
from quantfl_lab.rivals.sparse import PowerSgd, Sign, Stc
from quantfl_lab.rivals.stochastic import FedPaq, Qsgd, TernGrad


@dataclass(frozen=True)
class Rival:
    """up: codes deltas, with error feedback at the boards when `feedback`. down: "fp32", "ours" or a
    quantiser."""

    name: str
    up: Quantiser
    down: Quantiser | str = "fp32"
    feedback: bool = False
    down_feedback: bool = True
    server_lr: float = 1.0

    @property
    def source(self) -> str:
        return self.up.source

    @property
    def key(self) -> str:
        """All that decides what it sends: its settings and the rivals' code."""
        return f"{self!r}/{_code()}"

    def history(self, s: Any) -> list[dict]:
        """A run in a setting (quantfl_lab.rivals.fleet.Setting, or one with its fields), as a scheme of
        `quantfl bench bytes`."""
        from quantfl_lab.rivals import fleet  # which knows what a Rival is

        return fleet.history(s, self)


@cache
def _code() -> str:
    h = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        h.update(file.read_bytes())
    return h.hexdigest()[:16]


def _both(name: str, quantiser: Quantiser, **options: bool) -> Rival:
    return Rival(name, quantiser, quantiser, **options)


def _ours_down(name: str, quantiser: Quantiser, feedback: bool = False) -> Rival:
    return Rival(f"{name}, our downlink", quantiser, "ours", feedback)


RIVALS = (
    _both("fp16", Float(16)),
    _both("int8", Int8()),
    Rival("QSGD(4 bits, bucket 512)", Qsgd(7, 512, "max")),
    Rival("QSGD(l2, s=36)", Qsgd(36, None, "l2")),
    Rival("FedPAQ(s=10)", FedPaq(10)),
    Rival("TernGrad", TernGrad()),
    _both("EDEN(4)", Eden(4)),
    _both("EDEN(2)", Eden(2)),
    _both("EDEN(1)", Eden(1)),
    _both("STC(1 %)", Stc(0.01), feedback=True),
    _both("STC(5 %)", Stc(0.05), feedback=True),
    _both("signSGD, error feedback", Sign(), feedback=True),
    _both("PowerSGD(1)", PowerSgd(1), feedback=True),
    _both("PowerSGD(2)", PowerSgd(2), feedback=True),
    _both("BU(64)", Ours(Codec("bu", 64))),
    _both("BQ(16)", Ours(Codec("bq", 16))),
    _both("BU(64) + zlib/lzma", Compressed(64)),
    _ours_down("QSGD(4 bits, bucket 512)", Qsgd(7, 512, "max")),
    _ours_down("EDEN(1)", Eden(1)),
    _ours_down("STC(1 %)", Stc(0.01), True),
    _ours_down("STC(5 %)", Stc(0.05), True),
    _ours_down("signSGD, error feedback", Sign(), True),
)
