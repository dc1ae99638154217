"""Closed-form initialisation: round 1 may compute a first head from sufficient statistics that some clients
send once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantfl.errors import RunError
from quantfl.fleet.client import Client, select
from quantfl.fleet.config import RunConfig
from quantfl.fleet.observers import Progress
from quantfl.strategy.base import Strategy
from quantfl.strategy.closed_form import Sums, estimate, rounding_step, solve
from quantfl.strategy.statistics_admission import BoardStatistics, admit

PAYS = 0.6  # it is used when it costs at most this part of all rounds


@dataclass(frozen=True)
class Initialised:
    """What came of it. contributors: clients whose statistics were used. refused: name -> reason. record: for
    the history."""

    contributors: list[Client]
    refused: dict[str, str]
    record: dict[str, Any]


class ClosedFormInitialiser:
    """Sufficient statistics to a first head (docs/CODEC.md). Another initialiser needs the same three
    methods."""

    def __init__(self, config: RunConfig, strategy: Strategy, clients: Sequence[Client], progress: Progress):
        self.config, self.strategy, self.clients, self.progress = config, strategy, clients, progress
        self.spec = config.start.spec(config.run.seed)

    @property
    def request(self) -> bytes:
        """What is asked of every chosen client."""
        return self.spec.request()

    def wanted(self) -> bool:
        """Whether the first round computes a head in closed form: as the description says, or as the byte
        estimate does."""
        start, run, head = self.config.start, self.config.run, self.strategy.head
        able = self.config.uplink.codec == "dz" and all(c.has("stats") for c in self.clients)
        if start.how == "none" or (start.how == "auto" and not able):
            return False
        if not head.one_dense or start.dims > head.dims[0]:
            if start.how == "closed-form":
                raise RunError(
                    'start.how = "closed-form" needs a head of one dense layer, and start.dims at most its '
                    f"{head.dims[0]} features; this head has {len(head.dims) - 1} layers"
                )
            return False
        boards = min(start.boards, len(self.clients))
        per_round = max(1, round(run.participation * len(self.clients)))
        cost, plan = estimate(head, self.spec, boards, run.rounds, per_round, len(self.clients))
        used = start.how == "closed-form" or (cost <= PAYS * plan and run.rounds > 1)
        verdict = "used" if used else "not used"
        text = f"closed-form initialisation: about {cost:,} bytes; all rounds: about {plan:,}; {verdict}"
        self.progress.phase(text)
        return used

    def choose(self, attempt: int) -> list[Client]:
        """The clients that are asked."""
        count = len(self.clients)
        share = min(self.config.start.boards, count) / count
        return [self.clients[i] for i in select(self.config.run.seed, 0, count, share, attempt)]

    def apply(self, chosen: Sequence[Client], answers: dict[str, bytes]) -> Initialised:
        """Judge the statistics, solve for the head, and reset the strategy to it where it can be trusted."""
        head, spec = self.strategy.head, self.spec
        features, classes = head.dims
        boards = [
            BoardStatistics(c.name, c.known_samples, answers[c.name]) for c in chosen if c.name in answers
        ]
        verdict = admit(boards, spec, features, classes, self.config.admission.max_samples)
        folds = [Sums(spec.dims or features, classes), Sums(spec.dims or features, classes)]
        contributors: list[Client] = []
        for client in chosen:
            sums = verdict.statistics.get(client.name)
            if sums is None:
                continue
            half = len(contributors) % 2
            folds[half] = folds[half] + sums
            data = answers[client.name]
            client.stats = {
                "samples": int(np.rint(sums.counts.sum())),
                "sums_bytes": len(data),
                "delta_sha256": hashlib.sha256(data).hexdigest(),
            }
            contributors.append(client)
        record: dict[str, Any] = {"closed_form": True, "used": False}
        if contributors:
            found = solve(head, spec, (folds[0], folds[1]))
            record |= {"ridge": found.ridge, "calibration": found.calibration}
            if found.trusted or self.config.start.how == "closed-form":
                self.strategy.reset(found.params, rounding_step(head, *folds))
                record["used"] = True
            else:
                text = (
                    f"closed-form head dropped: boards differ too much (calibration {found.calibration:.2f})"
                )
                self.progress.phase(text)
        return Initialised(contributors, verdict.refused, record)
