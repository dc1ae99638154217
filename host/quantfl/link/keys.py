"""Keys of boards and of their owner: the key file, and what is done with what is in it (docs/SECURITY.md).

The file is TOML, readable by its owner only. A board has one link key, known to it and to this file; while it
is being changed there are two, of which the board holds one or the other. The owner's signing key makes
packages that boards with its public half run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantfl.core import crypt, ffi, lib
from quantfl.errors import PackageError, SecurityError, UsageError
from quantfl.locks import locked

_HEADER = (
    "# quantfl keys. Whoever has this file can talk to these boards and sign packages for them: keep it "
    "secret.\n"
)


TRIED_MOST = 16  # keys kept of a board that were sent and never confirmed
LOCK_S = 10.0  # seconds to wait for another process's change of the key file, which takes milliseconds


class PlainLinkWarning(UserWarning):
    """A board that is not emulated is talked to without keys."""


_warned: set[str] = set()


def is_emulated(board: str) -> bool:
    """Whether a board of this kind is a program on some computer."""
    return board in ("native", "inproc") or board.startswith("qemu_") or board.endswith("_qemu")


def warn_plain(name: str, uid: str) -> None:
    """Say once per board that its link has no keys."""
    if uid not in _warned:
        _warned.add(uid)
        warnings.warn(
            f"the link to {name} (board {uid or 'without id'}) is plain: anybody on it can read, change "
            "and command; "
            f"give it a key with `quantfl keys provision`",
            PlainLinkWarning,
            stacklevel=2,
        )


@dataclass(frozen=True)
class BoardKey:
    """One board's keys.

    key: 32 bytes, the key that the board holds or was last sent. next: the key that replaces it, once the
    board has confirmed it. tried: keys that were sent before and never confirmed; the board may hold one of
    them. provisioned: the board has proved that it holds `key`. leaving: its keys are being taken away; with
    provisioned False they have been.
    """

    uid: str
    key: bytes
    next: bytes | None = None
    tried: tuple[bytes, ...] = ()
    name: str = ""
    provisioned: bool = False
    leaving: bool = False

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without telling them."""
        return crypt.mac(self.key, "quantfl fingerprint 1", size=4).hex()

    @property
    def state(self) -> str:
        """What is known of the board's key, for people."""
        if self.leaving:
            return "being removed" if self.provisioned else "removed"
        if self.next is not None:
            return "changing"
        return "given" if self.provisioned else "not confirmed"


def split_signed(data: bytes) -> tuple[bytes, bytes]:
    """A package without its signature, and what follows it (empty: not signed)."""
    n = lib.qfl_device_unsigned_length(ffi.from_buffer("uint8_t[]", data), len(data))
    return data[:n], data[n:]


def is_signed_by(owner: bytes, data: bytes) -> bool:
    """Whether a package carries the signature of the holder of this public key: the boards' own check."""
    status = lib.qfl_device_check_signed(_key(owner), ffi.from_buffer("uint8_t[]", data), len(data))
    return bool(status == 0)


def _key(data: bytes) -> Any:
    if len(data) != crypt.KEY:
        raise ValueError(f"a key has {len(data)} bytes, not {crypt.KEY}")
    return ffi.from_buffer("uint8_t[]", data)


class KeyRing:
    """A key file in memory. `load` and `make` give one; changes are written at once and whole."""

    def __init__(self, path: Path, boards: dict[str, BoardKey], owner: bytes | None, secret: bytes | None):
        self.path, self.boards, self.owner, self._secret = path, boards, owner, secret

    @classmethod
    def make(cls, path: Path) -> KeyRing:
        """A new file with a new signing key and no boards. UsageError when it exists."""
        if path.exists():
            raise UsageError(f"{path} exists already; a key file is never overwritten")
        secret = secrets.token_bytes(crypt.KEY)
        ring = cls(path, {}, crypt.public(secret), secret)
        ring.save()
        return ring

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """SecurityError when others may read it; UsageError when it is absent or no key file."""
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"{path}: no such key file; `quantfl keys make` makes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from None
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SecurityError(
                f"{path} may be read by others: chmod 600 {path}, and rotate its keys if it was"
            )
        try:
            raw = tomllib.loads(text)
            return cls._parse(path, raw)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not TOML: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UsageError(f"{path}: not a key file of this version") from None

    @classmethod
    def _parse(cls, path: Path, raw: dict[str, Any]) -> KeyRing:
        if raw["format"] != 1:
            raise ValueError
        owner = raw.get("owner", {})
        secret = _hex(owner["secret"]) if "secret" in owner else None
        public = (
            crypt.public(secret)
            if secret is not None
            else _hex(owner["public"])
            if "public" in owner
            else None
        )
        boards = {}
        for uid, row in raw.get("boards", {}).items():
            bytes.fromhex(uid)
            boards[uid] = BoardKey(
                uid,
                _hex(row["key"]),
                _hex(row["next"]) if "next" in row else None,
                tuple(_hex(key) for key in row.get("tried", ())),
                str(row.get("name", "")),
                bool(row.get("provisioned", False)),
                bool(row.get("leaving", False)),
            )
        return cls(path, boards, public, secret)

    def save(self) -> None:
        """Write the file anew, readable by us only, in one step."""
        lines = [_HEADER, "format = 1\n"]
        if self.owner is not None:
            lines += ["\n[owner]\n"]
            if self._secret is not None:
                lines += [f'secret = "{self._secret.hex()}"\n']
            lines += [f'public = "{self.owner.hex()}"\n']
        for board in self.boards.values():
            lines += [f"\n[boards.{board.uid}]\n", f'key = "{board.key.hex()}"\n']
            if board.next is not None:
                lines += [f'next = "{board.next.hex()}"\n']
            if board.tried:
                lines += ["tried = [", ", ".join(f'"{key.hex()}"' for key in board.tried), "]\n"]
            if board.leaving:
                lines += ["leaving = true\n"]
            if board.name:
                lines += [f'name = "{board.name}"\n']
            lines += [f"provisioned = {str(board.provisioned).lower()}\n"]
        new = self.path.with_name(self.path.name + ".new")
        try:
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            ) as file:
                os.chmod(new, 0o600)
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    @property
    def can_sign(self) -> bool:
        return self._secret is not None

    def candidates(self, uid: bytes) -> list[bytes]:
        """Keys that the board with this id may hold, likeliest first."""
        board = self.boards.get(uid.hex())
        if board is None:
            return []
        return [k for k in (board.key, board.next, *board.tried) if k is not None]

    def prepare(self, uid: str, name: str = "", *, reset: bool = False) -> BoardKey:
        """A new key to send to a board that answers without one. It is written before it is sent.

        A key that was sent once is never sent plainly again: who answered then may not have been the board.
        Older keys stay in the file, because the board may hold one of them. reset: the caller vouches that
        this board has lost its keys. SecurityError: the board has proved to hold a key of this file before,
        and `reset` is not given.
        """
        with self._changing():
            known = self.boards.get(uid)
            if known is not None and known.provisioned and not reset:
                raise SecurityError(
                    f"board {uid} holds a key of {self.path} (fingerprint {known.fingerprint}), but "
                    "answers without one: it "
                    "was reset, or something on the line answers in its place; no key was sent. If you "
                    "have erased this "
                    "board yourself, connect it by cable and use `quantfl keys provision --reset`, which "
                    "gives it a new key"
                )
            old: tuple[bytes, ...] = ()
            if known is not None:
                old = (known.key, *(() if known.next is None else (known.next,)), *known.tried)
            new = BoardKey(
                uid, secrets.token_bytes(crypt.KEY), tried=old[:TRIED_MOST], name=_plain_name(name)
            )
            return self._put(new if name or known is None else replace(new, name=known.name))

    def confirm(self, uid: str, held: bytes) -> None:
        """The board has proved that it holds the key `held`; all others of it are forgotten."""
        with self._changing():
            board = self.boards[uid]
            self._put(replace(board, key=held, next=None, tried=(), provisioned=True))

    def begin_rotation(self, uid: str) -> bytes:
        """A new key for a board, kept beside the old one until the board has it."""
        with self._changing():
            board = self.boards[uid]
            new = board.next or secrets.token_bytes(crypt.KEY)
            self._put(replace(board, next=new))
            return new

    def begin_removal(self, uid: str) -> None:
        """The board's keys are about to be taken away."""
        with self._changing():
            self._put(replace(self.boards[uid], leaving=True))

    def end_removal(self, uid: str) -> None:
        """The board has no keys any more. The file keeps the last ones: they open the board, should that have
        been a lie."""
        with self._changing():
            self._put(replace(self.boards[uid], leaving=True, provisioned=False))

    def forget(self, uid: str) -> None:
        """Drop a board and its keys from the file."""
        with self._changing():
            if self.boards.pop(uid, None) is not None:
                self.save()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One change of the file. Another process may have changed it since it was read, so it is read again,
        under a lock."""
        lock = self.path.with_name(self.path.name + ".lock")
        with locked(lock, f"the key file {self.path}", UsageError, timeout=LOCK_S):
            if self.path.exists():
                self.boards = KeyRing.load(self.path).boards
            yield

    def _put(self, board: BoardKey) -> BoardKey:
        if self.boards.get(board.uid) != board:
            self.boards[board.uid] = board
            self.save()
        return board

    def agree(self, flags: int, owner: bytes | None, exported: bytes) -> bytes:
        """Our signature as a board's owner: `owner` may replace us, None: we are removed, in this session.

        exported: what the session with the board exports. SecurityError: the file has no signing key.
        """
        if self._secret is None:
            raise SecurityError(f"{self.path} has no signing key")
        out = ffi.new("uint8_t[]", 64)
        session, new = ffi.from_buffer("uint8_t[]", exported), ffi.NULL if owner is None else _key(owner)
        lib.qfl_device_sign_owner(_key(self._secret), flags, new, session, out)
        return bytes(ffi.buffer(out))

    def sign(self, package: bytes) -> bytes:
        """The package as boards of this owner take it: signed by us, or as it is when it is signed already.

        Without a signing key in the file a package has to come signed. PackageError when boards would refuse
        it.
        """
        body, _ = split_signed(package)
        if self._secret is not None:
            out = ffi.new("uint8_t[]", lib.QFL_SIGNED_BYTES)
            lib.qfl_device_sign(
                _key(self._secret), ffi.from_buffer("uint8_t[]", hashlib.sha256(body).digest()), out
            )
            return body + bytes(ffi.buffer(out))
        if self.owner is not None and not is_signed_by(self.owner, package):
            raise PackageError(
                f"the package is not signed by the owner in {self.path}: `quantfl keys sign` it where the "
                "signing key is"
            )
        return package


def _hex(text: str) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != crypt.KEY:
        raise ValueError
    return data


def _plain_name(name: str) -> str:
    return "".join(c for c in name if c.isprintable() and c not in '"\\')[:80]
