"""Twin boards: in-process boards whose rounds are run many at a time, in C and in threads.

They are set up, compared and asked for everything else as in-process boards are, one by one. A round of those
that are ready goes through `quantfl.core.twin`; what it cannot settle (a whole head to be sent, a refusal, a
board that was reset) is asked for in the usual way. Deltas, heads and ledger are those of in-process boards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import Form
from quantfl.core.twin import CODED, NO_UPDATE, ROW, SYMBOLS, TwinBoards, TwinStep
from quantfl.emulation.inproc import InprocBoardHandle, InprocTransport
from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.client import Client
from quantfl.link.session import Answer, now_ms
from quantfl.messages import Delta, loss_of
from quantfl.strategy.base import Strategy
from quantfl.strategy.decoded import Decoded
from quantfl.strategy.downlink import ALONE, FRAME, BatchPlan

CHUNK = 64  # boards in one call: while C has it, the next is planned
_LOSS = [loss_of(packed) for packed in range(256)]
_HEAD = lib.QFL_UPDATE_HEAD_BYTES


@dataclass(frozen=True)
class Asked:
    """What came of asking boards at once. deltas: of those that sent one, in the order in which they were
    asked; decoded: the same by their bytes. rest: who is to be asked in the usual way."""

    deltas: dict[str, Delta]
    decoded: dict[tuple[bytes, int], Decoded]
    rest: list[Client]


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Twin:
    """The in-process boards of a run, asked many at a time. threads: None: one per processor that this
    process may use."""

    def __init__(self, clients: Sequence[Client], threads: int | None = None):
        self.boards = TwinBoards(len(clients))
        self.threads = threads or processors()
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="twin")

    def close(self) -> None:
        """End its thread."""
        self._calls.shutdown()

    def _able(self, client: Client) -> bool:
        """Whether a client is a board of this process behind a plain line, ready and at rest."""
        if not isinstance(client, BoardClient) or not client.ready:
            return False
        handle, session = client.emulated, client.device.session
        if (
            not isinstance(handle, InprocBoardHandle)
            or not handle.alive
            or type(session.transport) is not InprocTransport
            or session.tamper is not None
            or not session.up
            or session.tapped
            or not client.device.counters_agree
        ):
            return False
        self.boards.put(client.index, handle.board, session.link)
        return True

    def ask(self, chosen: Sequence[Client], round_: int, strategy: Strategy) -> Asked:
        """Let all of `chosen` that can be asked at once train round `round_`."""
        asked = Asked({}, {}, [])
        fast: list[BoardClient] = []
        for client in chosen:
            if self._able(client):
                assert isinstance(client, BoardClient)
                fast.append(client)
            else:
                asked.rest.append(client)
        waiting: tuple[Future[None], _Chunk] | None = None
        for at in range(0, len(fast), CHUNK):
            chunk = _Chunk(fast[at : at + CHUNK], round_, strategy)
            if waiting is not None:
                waiting[0].result()
            call = self._calls.submit(self.boards.round, chunk.step, chunk.rows, chunk.symbols, self.threads)
            if waiting is not None:
                waiting[1].take(asked)
            waiting = call, chunk
        if waiting is not None:
            waiting[0].result()
            waiting[1].take(asked)
        return asked


def lengths(symbols: np.ndarray) -> list[float]:
    """The l2 norms of rows of symbols, as numpy's norm of each in float64."""
    if symbols.size and np.abs(symbols).max() < 2**20:  # the sums of squares are exact, in any order
        squares = np.einsum("ij,ij->i", symbols, symbols, dtype=np.int64)
        return list(np.sqrt(squares.astype(np.float64)).tolist())
    return [float(np.linalg.norm(row.astype(np.float64))) for row in symbols]


class _Chunk:
    """Some boards of a round: what they are asked, and what they answered."""

    def __init__(self, clients: list[BoardClient], round_: int, strategy: Strategy):
        self.clients, self.round = clients, round_
        code = strategy.rate.uplink_code(round_) if clients[0].agreed_steps else 0
        plan, updates = _plan(strategy, clients)
        params, n = strategy.head.params, len(clients)
        whole = 4 * params + 64 * (1 + 4 * params // 4096)
        self.plan, self.symbols, self.rows = plan, plan.symbols, np.zeros(n, ROW)
        rows = self.rows
        rows["board"] = [c.index for c in clients]
        rows["head"], rows["update_how"], rows["update_code"] = plan.result, plan.how, plan.code
        rows["update_n"] = [len(u) for u in updates] if updates else 0
        rows["update_at"] = np.cumsum(rows["update_n"]) - rows["update_n"]
        self.asked = np.flatnonzero(plan.how != ALONE)
        if len(self.asked) < n:
            self.rows, self.symbols = rows[self.asked], plan.symbols[self.asked]
        answers = np.empty((len(self.rows), 8 * params + 80), np.uint8)
        data = b"".join(updates) if updates else b"\0"
        tensors = strategy.head.tensors
        self.step = TwinStep(round_, code, now_ms(), tensors, max(1, whole - FRAME), data, answers)

    def take(self, asked: Asked) -> None:
        """Sort out what came of it."""
        for k in set(range(len(self.clients))).difference(self.asked.tolist()):
            asked.rest.append(self.clients[k])
        columns = ("status", "answer_n", "read", "code", "agreed", "offset", "balanced")
        table = zip(*(self.rows[name].tolist() for name in columns), strict=True)
        norms = lengths(self.symbols)
        answers, step = self.step.answers, self.step.step
        for k, (at, row) in enumerate(zip(self.asked.tolist(), table, strict=True)):
            status, size, read, code, agreed, offset, balanced = row
            client, target = self.clients[at], self.plan.result[at]
            if status != 0:
                asked.rest.append(client)
                continue
            data = answers[k, : min(size, answers.shape[1])].tobytes()
            if size > len(data) or len(data) < 8 or data[0] & lib.QFL_MSG_FAILED:
                client.early = _answer(client, data) if size <= len(data) else None
                asked.rest.append(client)
                continue
            body = data[7:]
            samples = data[2] | data[3] << 8
            delta = Delta(self.round, samples, _LOSS[data[4]], body, bool(balanced), step, target)
            asked.deltas[client.name] = delta
            client.head = target
            if read == 0:
                form = Form(code, bool(agreed), offset)
                asked.decoded[body, step] = Decoded(self.symbols[k], form, norms[k])


def _answer(client: BoardClient, data: bytes) -> Answer:
    """An answer as a session gives it."""
    failed = bool(data[0] & lib.QFL_MSG_FAILED)
    kind = data[0] & ~(lib.QFL_MSG_ANSWER | lib.QFL_MSG_FAILED)
    status = int.from_bytes(data[2:3], "little", signed=True) if failed else 0
    return Answer(kind, data[1], status, data[2 + failed :], client.device.session.link.counters_before())


def _plan(strategy: Strategy, clients: list[BoardClient]) -> tuple[BatchPlan, list[bytes]]:
    """How all get to their heads, and the coded updates where the strategy codes them itself."""
    indices, held = [c.index for c in clients], [c.head for c in clients]
    many = getattr(strategy, "plan_many", None)
    batch: BatchPlan | None = many(indices, held) if many is not None else None
    if batch is not None:
        return batch, []
    n = len(clients)
    how, results, updates = np.full(n, ALONE, np.uint8), [], []
    for k, client in enumerate(clients):
        way = strategy.plan(client.index, client.head)
        results.append(way.result)
        data = b""
        if way.updates is not None and len(way.updates) <= 1:
            how[k] = CODED if way.updates else NO_UPDATE
            data = way.updates[0].data if way.updates else b""
            if len(data) + _HEAD > client.device.session.link.peer_message_max:
                how[k], data = ALONE, b""
        updates.append(data)
    symbols = np.zeros((n, strategy.head.params), np.int32)
    return BatchPlan(results, how, symbols, np.zeros(n, np.uint8)), updates


__all__ = ["SYMBOLS", "Asked", "Twin"]
