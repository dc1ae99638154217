"""One board as an async object: INFO, push, configure, train, update, evaluate, traffic counters.

Every method is safe to repeat: requests are idempotent on the board (docs/PROTOCOL.md), so a link that breaks
is reopened and the request sent again until its deadline.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from quantfl.answers import (
    TRAIN_HEAD,
    PartialAnswer,
    parse_evaluation,
    parse_head_hash,
    parse_nothing,
    parse_offset,
    parse_selftest,
    parse_stats,
    parse_status,
    parse_train,
)
from quantfl.board_info import parse_info, uid_of
from quantfl.core import lib, status_text
from quantfl.core.codec import CODEC_NAMES
from quantfl.core.head import Score
from quantfl.core.link import Counters, unpack_counters
from quantfl.errors import DeviceError, LinkError, SecurityError
from quantfl.link.clock import monotonic
from quantfl.link.keys import KeyRing, is_emulated, warn_plain
from quantfl.link.session import Answer, Session
from quantfl.link.traffic import Comparison, compare
from quantfl.link.transport import BAUD, open_transport
from quantfl.messages import (
    Delta,
    DeviceInfo,
    DeviceStatus,
    StaleHead,
    config_needs,
)
from quantfl.package.build import PARTS, codec_linked, codec_name, lacking
from quantfl.package.program import Needs

_T = TypeVar("_T")
_REQUEST_S = 5.0
# seconds that a board waits for its turn at a BLE adapter; in a run the round's deadline ends it earlier
TURN_S = 600.0
#: Requests that are answered at once: a board whose queue was full has dropped the answer, and is asked again
#: after so many seconds.
_QUICK, _AGAIN_S = {lib.QFL_MSG_INFO, lib.QFL_MSG_STATUS, lib.QFL_MSG_COUNTERS}, 2.5
#: Counters that stand still while both ends' counters are compared, but for the question and the answer.
_STEADY = ("tx_retransmission", "tx_handshake", "rx_frames", "rx_noise")


@lru_cache(maxsize=8)
def sha256_of(package: bytes) -> bytes:
    """SHA-256 of a package, kept: every board of a fleet is asked for it."""
    return hashlib.sha256(package).digest()


@lru_cache(maxsize=8)
def _needs_of(package: bytes) -> Needs:
    return Needs.of(package)


class Device:
    """A board at a port.

    Every method may be called again after a failure: requests are idempotent on the board, and a link that
    breaks is opened again until the request's deadline.

    url: a serial port, or a URL that `quantfl.link.transport` opens, such as `socket://HOST:PORT` or
    `ble://NAME`. name: what messages and the ledger call the board; None: its URL. baud: bits per second on a
    serial port. session: a session that is open already. patience: seconds for which a lost board is waited
    for. keys: links are authenticated and encrypted, with boards that hold a key of these only.

        async with Device("socket://127.0.0.1:7001") as device:
            info = await device.read_info()
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        baud: int = BAUD,
        session: Session | None = None,
        patience: float = 5.0,
        keys: KeyRing | None = None,
    ):
        self.url, self.patience = url, patience
        self.name = name or url
        self.session = session or Session(open_transport(url, baud=baud), keys=keys)
        self.info: DeviceInfo | None = None
        self.boot: int | None = None  # a number the board drew when it started
        self._restarted = False
        self.port_lost = 0  # bytes the board's port had dropped when its counters were last seen
        self._config: bytes | None = None
        self._agreed: tuple[Counters, Counters] | None = (
            None  # both ends' counters (ours, theirs) when last compared
        )
        self._looked_at: tuple[Counters, Counters] | None = None  # by `counters_agree`, which found `_same`
        self._same = True

    async def __aenter__(self) -> Device:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def open(self, timeout: float = _REQUEST_S) -> None:
        """Connect, within `timeout` seconds. The wait for a turn at a BLE adapter does not count.

        LinkError: the port is absent, or nobody answers.
        """
        with self.session.requesting():
            await self.session.acquire_turn(TURN_S)
            await self.session.open(max(timeout, self.session.open_s(timeout)))

    async def close(self) -> None:
        """Close the session and the port."""
        await self.session.close()

    def counters(self) -> Counters:
        """The host's traffic counters of this link so far."""
        return self.session.counters()

    async def _request(
        self,
        kind: int,
        body: bytes = b"",
        *,
        timeout: float = _REQUEST_S,
        number: int | None = None,
        head: int | None = None,
    ) -> Answer:
        """A request that survives a broken link: reconnects and asks again until `timeout` s have passed, or
        until the board has been away for `patience` s.

        head: bytes before the object in a long answer, which goes on after a break where it stopped."""
        partial = None if head is None else PartialAnswer(kind, number, body, head)
        with self.session.requesting():
            return await self._persist(kind, body, timeout, number, partial)

    async def _ask(
        self, kind: int, body: bytes, timeout: float, number: int | None, partial: PartialAnswer | None
    ) -> Answer:
        session = self.session
        if partial is not None and session.partial:
            partial.take(session.partial)
        session.partial = b""
        if partial is not None and partial.data:
            body_of_resume = partial.named + struct.pack("<I", len(partial.data))
            whole = partial.whole(
                await session.request(lib.QFL_MSG_RESUME, body_of_resume, timeout=timeout, number=number)
            )
            if whole is not None:
                return whole
        return await session.request(kind, body, timeout=timeout, number=number)

    async def _reopen(self, timeout: float) -> None:
        """Open the session again; at a port of this machine another board may answer by now, which is not
        asked anything."""
        session = self.session
        try:
            await session.open(timeout)
            expected = session.transport.expected_uid
            if expected is None:
                return
            answer = await session.request(lib.QFL_MSG_INFO, timeout=timeout)
            if answer.status == 0 and not uid_of(answer.body).startswith(expected):
                raise LinkError(f"{session.transport.place}: another board answers there")
        except LinkError:
            if session.transport.relocated():
                await session.close()
            raise

    async def _persist(
        self, kind: int, body: bytes, timeout: float, number: int | None, partial: PartialAnswer | None
    ) -> Answer:
        deadline = monotonic() + timeout
        pause, away = 0.05, None
        while True:
            left = deadline - monotonic()
            try:
                if not self.session.up:
                    away = away or monotonic()
                    queued = await self.session.acquire_turn(TURN_S)
                    away, began = away + queued, monotonic()
                    await self._reopen(self.session.open_s(max(0.1, min(left, 2.0))))
                    # Connecting over BLE takes seconds, and the queue before it any time: neither is the
                    # request's.
                    deadline += queued + (monotonic() - began if self.session.open_s(0.0) else 0.0)
                    left = deadline - monotonic()
                away = None
                patience = min(left, _AGAIN_S) if kind in _QUICK else left
                answer = await self._ask(kind, body, max(0.1, patience), number, partial)
            except SecurityError:
                raise  # asking again would not change it
            except LinkError:
                now = monotonic()
                if now + pause >= deadline or (
                    away is not None and now - away > self.session.patience(self.patience)
                ):
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)
                continue
            if answer.status != lib.QFL_E_BUSY or monotonic() + pause >= deadline:
                return answer
            await asyncio.sleep(pause)

    def _refused(self, answer: Answer, what: str) -> DeviceError:
        return DeviceError(f"{self.name} refused {what}: {status_text(answer.status)}", answer.status)

    def _read(self, answer: Answer, what: str, parse: Callable[[bytes], _T]) -> _T:
        """The values in an answer. DeviceError, in one line, when it makes no sense."""
        try:
            return parse(answer.body)
        except ValueError as error:
            raise DeviceError(
                f"{self.name} answered {what} with bytes that make no sense ({error}); is its firmware of "
                "this version?"
            ) from None

    def _stale(self, answer: Answer) -> StaleHead:
        head = self._read(answer, "that it holds another head", parse_head_hash)
        return StaleHead(f"{self.name} holds another head", head)

    async def read_info(self, timeout: float = _REQUEST_S, *, provisioning: bool = False) -> DeviceInfo:
        """Ask the board for its description, within `timeout` seconds.

        A plain link to a real board gives a warning, unless `provisioning` says that it is about to get its
        key. DeviceError: the board describes itself in a way that makes no sense, or fails its self-test.
        SecurityError: the record of its keys is damaged.
        """
        answer = await self._request(lib.QFL_MSG_INFO, timeout=timeout)
        if answer.status < 0:
            raise self._refused(answer, "to describe itself")
        try:
            self.info = parse_info(answer.body)
        except ValueError as error:
            raise DeviceError(
                f"{self.name} describes itself in a way that makes no sense ({error}); is it a quantfl "
                "board, of this version?"
            ) from None
        self.session.transport.remember(self.info.uid)
        if not self.session.link.sealed and not provisioning and not is_emulated(self.info.board):
            warn_plain(self.name, self.info.uid)
        if self.info.keys & lib.QFL_KEYS_DAMAGED:
            raise SecurityError(
                f"{self.name}: the record of its keys is damaged, so it talks to nobody; erase its flash by "
                f"cable, flash its firmware, and give it new keys with `quantfl keys provision --reset`"
            )
        if self.info.selftest:
            raise DeviceError(
                f"{self.name} fails its self-test (kernel case {self.info.selftest}): it would compute "
                "wrong results; "
                "flash its firmware again, or replace it"
            )
        return self.info

    async def set_keys(
        self,
        key: bytes | None,
        owner: bytes | None,
        *,
        agreed: Callable[[int, bytes | None, bytes], bytes] | None = None,
        timeout: float = _REQUEST_S,
    ) -> None:
        """Tell the board its link key, 32 bytes, and its owner's public key, 32 bytes. None: it has none any
        more.

        `quantfl.provision` does this together with the key file. agreed: makes the signature of the present
        owner over the flags, the new owner and what this session exports. Without it a board lets no owner be
        replaced or removed. DeviceError: the board refuses. SecurityError: it asks for the owner's signature.
        """
        self.require("keys", "keys")
        flags = (lib.QFL_KEYS_LINK if key is not None else 0) | (
            lib.QFL_KEYS_OWNER if owner is not None else 0
        )
        body = bytes((flags,)) + (key or b"") + (owner or b"")
        if agreed is not None and self.session.link.sealed:
            body += agreed(flags, owner, self.session.link.export())
        answer = await self._request(lib.QFL_MSG_KEYS, body, timeout=timeout)
        if answer.status < 0:
            if answer.status == lib.QFL_E_AUTH and self.session.link.sealed:
                raise SecurityError(
                    f"{self.name} refused the keys: its owner is replaced or removed by the owner's signing "
                    f"key only, which this key file does not have"
                )
            raise self._refused(answer, "the keys")
        self._read(answer, "new keys", parse_nothing)

    async def selftest(self, timeout: float = _REQUEST_S) -> tuple[int, int, int]:
        """Let the board run the known answers of its kernels again.

        Returns the number of cases, how many failed, and the first of these, counted from 1 (0: none).
        DeviceError: the board's memory is full of samples. A reset tests the board as well.
        """
        answer = await self._request(lib.QFL_MSG_SELFTEST, timeout=timeout)
        if answer.status == lib.QFL_E_NOMEM:
            raise DeviceError(
                f"{self.name} has no memory to spare for a self-test; reset it: it tests itself when it "
                "starts"
            )
        if answer.status < 0:
            raise self._refused(answer, "to test itself")
        return self._read(answer, "a self-test request", parse_selftest)

    async def status(self, timeout: float = _REQUEST_S) -> DeviceStatus:
        """What the board does at the moment: its state, samples, head and round."""
        answer = await self._request(lib.QFL_MSG_STATUS, timeout=timeout)
        if answer.status < 0:
            raise self._refused(answer, "its status")
        return self._read(answer, "a status request", parse_status)

    async def push(
        self, package: bytes, *, timeout: float = 120.0, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        """Make `package`, the bytes of a package, current on the board, within `timeout` seconds.

        A push that was interrupted goes on where it stopped. progress: told of bytes sent and bytes in all.
        Returns False when the board had the package already. DeviceError: the board cannot run it, or refuses
        it.
        """
        sha = sha256_of(package).hex()
        if self.info is not None and self.info.package == sha:
            return False
        if self.info is not None:
            missing = lacking(_needs_of(package), self.info.operators, self.info.kinds)
            if missing:
                raise DeviceError(f"{self.name} {missing}", lib.QFL_E_UNSUPPORTED)
        moved = await self._put(lib.QFL_OBJECT_PACKAGE, package, "the package", timeout, progress)
        self._config = None
        await self.read_info()
        if self.info is None or self.info.package != sha:
            raise DeviceError(f"{self.name} did not make the package current")
        return moved > 0

    async def put_head(self, params: bytes, *, timeout: float = 60.0) -> None:
        """Set the whole global head: `params` are little-endian float32. DeviceError: it is refused."""
        await self._put(lib.QFL_OBJECT_HEAD, params, "the head", timeout, None)

    async def _put(
        self, kind: int, data: bytes, what: str, timeout: float, progress: Callable[[int, int], None] | None
    ) -> int:
        """Move one object; returns the bytes moved. Breaks are resumed at the board's offset until the
        deadline."""
        with self.session.requesting():
            return await self._put_on(kind, data, what, timeout, progress)

    async def _put_on(
        self, kind: int, data: bytes, what: str, timeout: float, progress: Callable[[int, int], None] | None
    ) -> int:
        deadline = monotonic() + timeout
        digest = sha256_of(data) if kind == lib.QFL_OBJECT_PACKAGE else hashlib.sha256(data).digest()
        begin = struct.pack("<BI", kind, len(data)) + digest
        moved = 0
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise LinkError(f"{self.url}: {what} did not get through within {timeout:g} s")
            # A first erase of flash may take seconds: the answer to PUT_BEGIN has the whole deadline.
            answer = await self._request(lib.QFL_MSG_PUT_BEGIN, begin, timeout=left)
            if answer.status < 0:
                raise self._refused(answer, what)
            at = self._read(answer, what, lambda body: parse_offset(body, len(data)))
            try:
                moved += await self._stream(data, at, left, progress)
                left = max(0.5, deadline - monotonic())
                # At once: the board acknowledges the end of the object with this answer.
                answer = await self.session.request(lib.QFL_MSG_PUT_END, timeout=min(10.0, left), behind=left)
            except (LinkError, _Resume):
                continue
            if answer.status in (lib.QFL_E_STATE, lib.QFL_E_BUSY) and monotonic() < deadline:
                await asyncio.sleep(0.2 if answer.status == lib.QFL_E_BUSY else 0.0)  # flash is being erased
                continue
            if answer.status < 0:
                raise self._refused(answer, what)
            held = self._read(answer, what, parse_head_hash)
            if kind == lib.QFL_OBJECT_HEAD and held != int.from_bytes(begin[5:9], "little"):
                raise DeviceError(f"{self.name} says it took the head, but holds a head of another hash")
            return moved

    async def _stream(
        self, data: bytes, at: int, timeout: float, progress: Callable[[int, int], None] | None
    ) -> int:
        start, session = at, self.session
        chunk, ahead = session.link.piece, session.link.ahead
        while not session.refusals.empty():
            session.refusals.get_nowait()
        number = session.next_number()
        while at < len(data):
            if not session.refusals.empty():
                answer = session.refusals.get_nowait()
                if answer.number == number:
                    raise _Resume
            piece = data[at : at + chunk]
            await session.send(
                lib.QFL_MSG_PUT_DATA, number, struct.pack("<I", at) + piece, timeout=timeout, ahead=ahead
            )
            at += len(piece)
            if progress is not None:
                progress(at, len(data))
        return at - start

    def has(self, part: str) -> bool:
        """Whether the board's firmware was built with this part (`quantfl.package.build.PARTS`), as far as is
        known.
        """
        return self.info is None or bool(self.info.parts & PARTS[part])

    def require(self, part: str, what: str) -> None:
        """DeviceError when the board's firmware was built without this part. what: its name in messages."""
        if not self.has(part):
            raise DeviceError(
                f"{self.name} has no {what} in its firmware; build it with QFL_{part.upper()}=1 "
                "(docs/PORTING.md)",
                lib.QFL_E_UNSUPPORTED,
            )

    def require_codec(self, name: str) -> None:
        """DeviceError when the board's firmware was built without this codec ("dz", "bu" and so on)."""
        if self.info is not None and not codec_linked(name, self.info.codecs):
            has = ", ".join(n for n in CODEC_NAMES if codec_linked(n, self.info.codecs))
            raise DeviceError(
                f"{self.name} has no codec {name} in its firmware, only {has}; choose one of these, or "
                "build it with "
                "QFL_CODECS (docs/PORTING.md)",
                lib.QFL_E_UNSUPPORTED,
            )

    async def configure(self, config: bytes, *, timeout: float = _REQUEST_S) -> None:
        """Set a run's hyper-parameters: `config` comes from `quantfl.messages.config_bytes`.

        When the board has been reset and asks for them, they are sent again. DeviceError: the board's build
        lacks the codec, or personalised heads.
        """
        codec, personal = config_needs(config)
        self.require_codec(codec_name(codec))
        if personal:
            self.require("personal", "personalised heads")
        answer = await self._request(lib.QFL_MSG_CONFIG, config, timeout=timeout)
        if answer.status < 0:
            raise self._refused(answer, "the run's configuration")
        self._read(answer, "the run's configuration", parse_nothing)
        self._config = config

    async def train(
        self,
        round_: int,
        head: int,
        *,
        timeout: float,
        step: int = 0,
        update: bytes | None = None,
        early: Answer | None = None,
    ) -> Delta:
        """Train one round from the global head whose hash is `head`, and return the delta, within `timeout`
        seconds.

        step: code of the step that its DZ delta shall have; 0: the board chooses. update: the coded delta
        that leads the board from the head it holds to `head`; None: it holds it. early: the answer, where
        the board has been asked already. StaleHead: the board holds another head. DeviceError: it refuses, or
        answers what makes no sense.
        """
        kind = lib.QFL_MSG_TRAIN if update is None else lib.QFL_MSG_TRAIN_UPDATE
        body = struct.pack("<IB", head, step) + (update or b"")
        deadline = monotonic() + timeout
        for attempt in (0, 1):
            left = max(0.1, deadline - monotonic())
            answer = early or await self._request(
                kind, body, timeout=left, number=round_ & 0xFF, head=TRAIN_HEAD
            )
            early = None
            if answer.status == lib.QFL_E_STATE and self._config is not None and attempt == 0:
                await self.configure(self._config)  # the board was reset since
                continue
            break
        if answer.status == lib.QFL_E_STALE:
            raise self._stale(answer)
        if answer.status < 0:
            raise self._refused(answer, f"to train round {round_}")
        found = self._read(answer, "a train request", parse_train)
        balanced = found.digest == self._peer_counters(answer.before).digest
        return Delta(round_, found.samples, found.loss, found.delta, balanced, step, head)

    async def sums(self, request: bytes, *, timeout: float) -> bytes:
        """Ask for sufficient statistics of the cached features: class sums, counts and scatter, coded.

        request: eight bytes (`quantfl.strategy.closed_form.StatsSpec.request`). DeviceError: the board
        refuses.
        """
        self.require("stats", "sufficient statistics for a closed-form initialisation")
        answer = await self._request(lib.QFL_MSG_STATS, request, timeout=timeout, head=0)
        if answer.status < 0:
            raise self._refused(answer, "to sum its features")
        return self._read(answer, "a request for sums", parse_stats)

    async def update(self, result: int, data: bytes, *, timeout: float = 10.0) -> None:
        """Lead the board to the head whose hash is `result`, by the coded delta `data`.

        StaleHead: the delta is for another head than the board holds. DeviceError: the board refuses.
        """
        if len(data) + lib.QFL_UPDATE_HEAD_BYTES > self.session.link.peer_message_max:
            await self._put(lib.QFL_OBJECT_UPDATE, data, "an update", timeout, None)
            body = struct.pack("<BI", lib.QFL_UPDATE_STAGED, result)
        else:
            body = struct.pack("<BI", 0, result) + data
        answer = await self._request(lib.QFL_MSG_UPDATE, body, timeout=timeout)
        if answer.status == lib.QFL_E_STALE:
            raise self._stale(answer)
        if answer.status < 0:
            raise self._refused(answer, "an update of the head")
        if self._read(answer, "an update of the head", parse_head_hash) != result:
            raise DeviceError(f"{self.name} says it took an update, but holds a head of another hash")

    async def evaluate(
        self, *, held_back: bool = False, in_use: bool = False, timeout: float = 60.0
    ) -> Score:
        """Score the board's global head on its samples.

        held_back: on the samples that it holds back only. in_use: score the head that the board uses, which
        may be its personalised head. DeviceError: the board refuses.
        """
        flags = lib.QFL_EVAL_HELD * held_back | lib.QFL_EVAL_IN_USE * in_use
        answer = await self._request(lib.QFL_MSG_EVAL, bytes((flags,)), timeout=timeout)
        if answer.status < 0:
            raise self._refused(answer, "an evaluation")
        return self._read(answer, "an evaluation", parse_evaluation)

    async def read_counters(self, timeout: float = _REQUEST_S) -> tuple[Counters, Counters]:
        """Traffic counters of this link at one moment: the host's, and the board's.

        On a clean link what one end has sent is what the other has received.
        """
        answer = await self._request(lib.QFL_MSG_COUNTERS, timeout=timeout)
        if answer.status < 0:
            raise self._refused(answer, "to tell its counters")
        theirs, self.port_lost, boot = self._read(answer, "a request for its counters", unpack_counters)
        self._restarted = self._restarted or (self.boot is not None and boot != self.boot)
        self.boot = boot
        return answer.before, theirs

    def _peer_counters(self, ours: Counters) -> Counters:
        """The board's counters as they must stand when ours are `ours`, if nothing went wrong since they were
        last compared."""
        if self._agreed is None:
            return ours.swapped
        return self._agreed[1] + (ours - self._agreed[0]).swapped

    def expected_counters(self) -> Counters:
        """What the board's counters must be now, if nothing went wrong since they were last read."""
        return self._peer_counters(self.counters())

    @property
    def counters_agree(self) -> bool:
        """Whether both ends' counters were the same when they were last compared, or never were."""
        if self._looked_at is not self._agreed:
            self._looked_at = self._agreed
            self._same = self._agreed is None or self._agreed[1] == self._agreed[0].swapped
        return self._same

    @property
    def compared(self) -> tuple[Counters, Counters]:
        """Traffic counters when they were last compared: the host's, and the board's. Zeros before."""
        return self._agreed or (Counters(), Counters())

    async def compare(self, timeout: float = _REQUEST_S) -> Comparison:
        """Compare both ends' counters since the last comparison, whose outcome is from now on what they
        are held against.

        The first one has nothing to be held against: what the board had counted before this host came is no
        difference. On a line too bad for a question and its answer the comparison is not `steady`, says
        nothing, and changes nothing.
        """
        deadline, before = monotonic() + timeout, None
        for _attempt in range(5):
            asked = self.counters()
            ours, theirs = await self.read_counters(max(0.1, deadline - monotonic()))
            # Where question or answer had to be repeated, the two ends' counters are of different moments;
            # where they differ, what was on the line may still come: they are compared when they differ
            # twice by the same.
            steady, apart = all(getattr(asked, n) == getattr(ours, n) for n in _STEADY), theirs - ours.swapped
            if steady and (
                self._agreed is None
                or apart == before
                or ours.swapped.digest == theirs.digest
                or theirs.digest == self._peer_counters(ours).digest
            ):
                break
            before = apart if steady else None
        else:
            return compare(ours, ours.swapped, steady=False)
        then, self._agreed = self._agreed, (ours, theirs)
        if then is None:
            return compare(ours, ours.swapped)
        if self._restarted:
            self._restarted = False
            return compare(ours - then[0], theirs, restarted=True)
        return compare(ours - then[0], theirs - then[1], port_lost=self.port_lost)

    async def wait_samples(self, count: int, *, timeout: float, poll: float = 0.2) -> DeviceStatus:
        """Wait until the board has cached or refused `count` samples, or is full. Returns its status.

        poll: seconds between two questions. DeviceError: not within `timeout` seconds.
        """
        deadline = monotonic() + timeout
        while True:
            status = await self.status()
            if status.samples + status.rejected >= count or status.samples >= status.capacity:
                return status
            if monotonic() >= deadline:
                raise DeviceError(f"{self.name} has {status.samples} of {count} samples after {timeout:g} s")
            await asyncio.sleep(poll)


class _Resume(Exception):
    """The board refused a piece; ask where to go on."""
