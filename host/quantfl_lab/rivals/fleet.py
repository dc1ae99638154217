"""A rival's whole run over real links, by quantfl's own round loop: the same selection, fits and frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from quantfl.core.codec import decode
from quantfl.core.head import head_hash
from quantfl.errors import RunError
from quantfl.fleet.config import AdmissionTable, StartTable
from quantfl.fleet.rounds import Federation, Rounds, Silent
from quantfl.fleet.setup import client_seed
from quantfl.link.clock import run_virtual
from quantfl_lab.bench.setting import Setting
from quantfl_lab.rivals.base import Remembered, Sender, sizes
from quantfl_lab.rivals.board import Line, RivalBoard
from quantfl_lab.rivals.client import RivalClient
from quantfl_lab.rivals.schemes import Rival
from quantfl_lab.rivals.simple import Float
from quantfl_lab.rivals.strategy import RivalStrategy

Watch = Callable[[int, int, np.ndarray], None]


class _Strict(Silent):
    """Ends a run at the first failure: nothing is lost on these lines, so a failure means that a fit or a
    code diverged."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self.stop: Callable[[], None] = lambda: None

    def board(self, name: str, **fields: Any) -> None:
        if fields.get("state") in ("failed", "refused") and self.failure is None:
            self.failure = f"{name}: {fields.get('reason')}"
            self.stop()


def federation(s: Setting, rival: Rival, watch: Watch | None = None) -> Federation:
    """All of a rival's run but its rounds. watch: called with (round, board, delta float32 [params])."""
    config = s.config.model_copy(
        update={
            "start": StartTable(how="none"),
            "admission": AdmissionTable(times_median=0.0, replays=False, refusals=0),
            "run": s.config.run.model_copy(update={"evaluate_every": 1}),
        }
    )
    s = replace(s, config=config)
    up = Remembered(rival.up)
    down = Remembered(Float(32) if isinstance(rival.down, str) else rival.down)
    ours = rival.down == "ours"

    def apply(data: bytes, base: int) -> np.ndarray:
        return decode(data, sizes(s.shapes)) if ours else down.decode(data, s.shapes, base)

    params = np.ascontiguousarray(s.params, np.float32)
    clients = []
    for i, (x, y) in enumerate(s.clients):
        fit = replace(config.train.fit(), seed=client_seed(config.run.seed, i))
        sender = Sender(up, rival.feedback)
        board = RivalBoard(
            i, s.head, params.copy(), s.shapes, x, y, fit, sender, apply, config.run.seed, watch
        )
        clients.append(RivalClient(i, f"board-{i:02d}", Line(board), head_hash(params)))
    strategy = RivalStrategy(s, rival, up, None if ours else down)

    def evaluate(head: np.ndarray) -> Any:
        return s.head.evaluate(head, *s.test)

    return Federation(config, b"", "", strategy, clients, evaluate, None, _Strict(), any_codec=True)


async def _rounds(f: Federation) -> list[dict[str, Any]]:
    rounds = Rounds(f)
    strict = f.progress
    assert isinstance(strict, _Strict)
    strict.stop = rounds.stop
    await rounds.set_up()
    rounds.score_start()
    await rounds.run()
    if strict.failure is not None:
        raise RunError(f"round {rounds.round + 1}: {strict.failure}")
    return rounds.history


def history(s: Setting, rival: Rival, watch: Watch | None = None) -> list[dict[str, Any]]:
    """One run's history, as quantfl.fleet.api.history gives it. RunError, CodecError: the run diverged."""
    return run_virtual(_rounds(federation(s, rival, watch)))
