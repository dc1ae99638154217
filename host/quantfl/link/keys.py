"""Keys of boards and of their owner: the key file, and what is done with what is in it (docs/SECURITY.md).

The file is TOML, readable by its owner only. A board has one link key, known to it and to this file; while it is being changed
there are two, of which the board holds one or the other. The owner's signing key makes packages that boards with its public half run.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tomllib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from quantfl.core import crypt, ffi, lib
from quantfl.errors import PackageError, SecurityError, UsageError

_HEADER = "# quantfl keys. Whoever has this file can talk to these boards and sign packages for them: keep it secret.\n"


class PlainLinkWarning(UserWarning):
    """A board that is not emulated is talked to without keys."""


_warned: set[str] = set()


def is_emulated(board: str) -> bool:
    """Whether a board of this kind is a program on some computer."""
    return board in ("native", "inproc") or board.startswith("qemu_")


def warn_plain(name: str, uid: str) -> None:
    """Say once per board that its link has no keys."""
    if uid not in _warned:
        _warned.add(uid)
        warnings.warn(
            f"the link to {name} (board {uid or 'without id'}) is plain: anybody on it can read, change and command; "
            f"give it a key with `quantfl keys provision`",
            PlainLinkWarning,
            stacklevel=2,
        )


@dataclass(frozen=True)
class BoardKey:
    """One board's keys. key: 32 bytes; next: the key that replaces it, once the board has confirmed it."""

    uid: str
    key: bytes
    next: bytes | None = None
    name: str = ""
    provisioned: bool = False

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without telling them."""
        return crypt.mac(self.key, "quantfl fingerprint 1", size=4).hex()


def split_signed(data: bytes) -> tuple[bytes, bytes]:
    """A package without its signature, and what follows it (empty: not signed)."""
    n = lib.qfl_device_unsigned_length(ffi.from_buffer("uint8_t[]", data), len(data))
    return data[:n], data[n:]


def is_signed_by(owner: bytes, data: bytes) -> bool:
    """Whether a package carries the signature of the holder of this public key: the boards' own check."""
    return lib.qfl_device_check_signed(_key(owner), ffi.from_buffer("uint8_t[]", data), len(data)) == 0


def _key(data: bytes):
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
    def _parse(cls, path: Path, raw: dict) -> KeyRing:
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
                str(row.get("name", "")),
                bool(row.get("provisioned", False)),
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
        return [] if board is None else [k for k in (board.key, board.next) if k is not None]

    def prepare(self, uid: str, name: str = "") -> BoardKey:
        """The key to give to a board that has none: new, or the one made for it before. Written before it is sent."""
        board = self.boards.get(uid) or BoardKey(uid, secrets.token_bytes(crypt.KEY), name=_plain_name(name))
        return self._put(replace(board, provisioned=False))

    def confirm(self, uid: str) -> None:
        """The board holds its key."""
        self._put(replace(self.boards[uid], provisioned=True))

    def begin_rotation(self, uid: str) -> bytes:
        """A new key for a board, kept beside the old one until the board has it."""
        board = self.boards[uid]
        return self._put(replace(board, next=board.next or secrets.token_bytes(crypt.KEY))).next

    def end_rotation(self, uid: str, held: bytes) -> None:
        """The board holds `held`; the other key is forgotten."""
        self._put(replace(self.boards[uid], key=held, next=None, provisioned=True))

    def forget(self, uid: str) -> None:
        if self.boards.pop(uid, None) is not None:
            self.save()

    def _put(self, board: BoardKey) -> BoardKey:
        if self.boards.get(board.uid) != board:
            self.boards[board.uid] = board
            self.save()
        return board

    def sign(self, package: bytes) -> bytes:
        """The package as boards of this owner take it: signed by us, or as it is when it is signed already.

        Without a signing key in the file a package has to come signed. PackageError when boards would refuse it.
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
                f"the package is not signed by the owner in {self.path}: `quantfl keys sign` it where the signing key is"
            )
        return package


def _hex(text: str) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != crypt.KEY:
        raise ValueError
    return data


def _plain_name(name: str) -> str:
    return "".join(c for c in name if c.isprintable() and c not in '"\\')[:80]
