"""Chaos in a run: faulty lines before its boards, boards that lie, and the round they are in
(quantfl.link.chaos)."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

import numpy as np

from quantfl.core import lib
from quantfl.core.codec import Codec, Form, dz_step, dz_write
from quantfl.link.chaos import Chaos, Fault, FaultyTransport
from quantfl.link.keys import KeyRing
from quantfl.link.session import Session
from quantfl.link.transport import Transport

_ANSWER, _REFUSED = lib.QFL_MSG_ANSWER, lib.QFL_MSG_ANSWER | lib.QFL_MSG_FAILED
_TRAINED = {lib.QFL_MSG_TRAIN | _ANSWER, lib.QFL_MSG_TRAIN_UPDATE | _ANSWER}


class FaultInjector:
    """The chaos of one run. tensors, codec: of the deltas its boards send, so that lies can be
    well-formed."""

    def __init__(self, chaos: Chaos, tensors: Sequence[int], codec: Codec):
        self.chaos, self.tensors, self.codec = chaos, tensors, codec
        self.round = 0
        self.lines: dict[str, FaultyTransport] = {}
        self.told: dict[str, set[int]] = {}  # board -> rounds in which it lied

    def begin(self, round_: int) -> None:
        self.round = round_

    def quiet(self) -> None:
        """No faults any more: for the counters to be compared."""
        for line in self.lines.values():
            line.quiet = True

    def session(
        self, name: str, transport: Transport, reset: Callable[[], None] | None, keys: KeyRing | None = None
    ) -> Session:
        """A session with board `name` over a faulty line. reset: resets the board."""
        faults, seed = self.chaos.faults(name), f"{self.chaos.seed}/{name}"
        line = self.lines[name] = FaultyTransport(
            transport, faults, seed=seed, now_round=lambda: self.round, reset=reset
        )
        session = Session(line, nonce_seed=random.Random(seed).getrandbits(32), keys=keys)
        own = tuple(f for f in faults if f.name in ("lie", "full"))
        if own:
            session.tamper = ByzantineClient(self, name, own)
        return session

    def faults(self) -> dict[str, dict[str, int]]:
        """How often each fault struck, by board."""
        return {
            name: dict(sum((d.faults for d in line.lines.values()), type(line.lines["up"].faults)()))
            for name, line in self.lines.items()
        }


class ByzantineClient:
    """Changes a board's messages after the link has taken them, as a board would that lies over a sound
    link."""

    def __init__(self, chaos: FaultInjector, name: str, faults: tuple[Fault, ...]):
        self.chaos, self.name, self.faults = chaos, name, faults
        self.rng = np.random.default_rng([chaos.chaos.seed, *name.encode()])
        self.first: bytes | None = None  # the first delta it sent

    def __call__(self, message: bytes) -> bytes:
        if len(message) < 2 or self.chaos.lines[self.name].quiet:
            return message
        for fault in self.faults:
            if not fault.on(self.chaos.round) or self.rng.random() >= fault.probability:
                continue
            if fault.name == "full" and message[0] == lib.QFL_MSG_PUT_BEGIN | _ANSWER:
                return bytes((lib.QFL_MSG_PUT_BEGIN | _REFUSED, message[1])) + struct.pack(
                    "<b", lib.QFL_E_NOMEM
                )
            if fault.name == "lie" and message[0] in _TRAINED and len(message) > 7:
                self.chaos.told.setdefault(self.name, set()).add(self.chaos.round)
                lied: bytes = getattr(self, f"_{fault.value}")(message)
                return lied
        return message

    def _coded(self, scale: float, tensors: Sequence[int] | None = None) -> bytes:
        """A well-formed delta of the run's codec, with noise of this scale."""
        tensors = tensors or self.chaos.tensors
        if self.chaos.codec.kind == "dz":  # a step that leaves symbols other than zero
            x = self.rng.standard_normal(sum(tensors)) * 2
            return dz_write(np.round(x).astype(np.int32), Form(dz_step(np.full(1, scale), 1.0)), tensors)
        return self.chaos.codec.encode(
            (scale * self.rng.standard_normal(sum(tensors))).astype(np.float32), tensors
        )

    def _nan(self, message: bytes) -> bytes:
        if self.chaos.codec.kind in ("bu", "bq"):
            data = bytearray(self._coded(1.0))
            data[2:6] = struct.pack("<f", float("nan"))
            return message[:7] + bytes(data)
        return (
            message[:7]
            + bytes((lib.QFL_CODEC_FP32,))
            + struct.pack("<f", float("nan")) * sum(self.chaos.tensors)
        )

    def _huge(self, message: bytes) -> bytes:
        return message[:7] + self._coded(1e6)

    def _shape(self, message: bytes) -> bytes:
        return message[:7] + self._coded(0.01, [*self.chaos.tensors[:-1], self.chaos.tensors[-1] + 64])

    def _garbage(self, message: bytes) -> bytes:
        return message[:2] + self.rng.bytes(max(1, len(message) - 2))

    def _replay(self, message: bytes) -> bytes:
        if self.first is None:
            self.first = message[7:]
            self.chaos.told[self.name].discard(self.chaos.round)  # the first time it is the truth
        return message[:7] + self.first

    def _round(self, message: bytes) -> bytes:
        return bytes((message[0], (message[1] - 1) & 0xFF)) + message[2:]

    def _samples(self, message: bytes) -> bytes:
        return message[:2] + struct.pack("<H", 65535) + message[4:]
