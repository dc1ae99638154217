"""Giving boards their keys: first keys over a plain link, new ones over a link with the old. The key file is
written first.

Whatever breaks in between, the file holds the key that the board holds, and the same command goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from quantfl.core.link import PEER_PLAIN
from quantfl.device import Device
from quantfl.errors import SecurityError, UsageError
from quantfl.link.keys import KeyRing


def _ring(device: Device) -> KeyRing:
    if device.session.keys is None:
        raise UsageError("a key file is needed")
    return device.session.keys


def _agreed(ring: KeyRing) -> Callable[[int, bytes | None, bytes], bytes] | None:
    return ring.agree if ring.can_sign else None


@contextlib.asynccontextmanager
async def _plain_session(device: Device, timeout: float) -> AsyncIterator[None]:
    """A session without keys. Where what it is for fails it is closed, so that nothing else ever goes over
    it."""
    await device.session.open(timeout, plain=True)
    try:
        yield
    except BaseException:
        await device.session.close()
        raise


async def provision(device: Device, *, owner: bool = True, reset: bool = False, timeout: float = 10.0) -> str:
    """Give a board its first keys over a plain link, and open a session with them; returns the board's id.

    Done already: nothing is sent. owner: the board takes packages signed by the file's owner only. reset: the
    board is known to have lost its keys, so it gets new ones. The device's session must have a key file.
    SecurityError: the board has a key that is not in the file, or has proved to hold one of the file before
    and now answers without (somebody may answer in its place).
    """
    ring, session = _ring(device), device.session
    try:
        await session.open(timeout)
    except SecurityError as error:
        if error.refusal != PEER_PLAIN:
            raise
    else:
        return _confirm(device)
    async with _plain_session(device, timeout):
        info = await device.read_info(timeout, provisioning=True)
        device.require("keys", "keys")
        if not info.uid:
            raise SecurityError(f"{device.name} has no unique id; a key cannot be kept for it")
        board = ring.prepare(info.uid, "" if device.name == device.url else device.name, reset=reset)
        await device.set_keys(board.key, ring.owner if owner else None, timeout=timeout)
        await session.open(timeout)
    return _confirm(device)


def _confirm(device: Device) -> str:
    """Keep the key that the board has just proved to hold, and forget the others; returns the board's id."""
    uid, held = device.session.link.peer_uid.hex(), device.session.key_held
    if held is None:
        raise SecurityError(f"{device.name}: the session has no key")
    _ring(device).confirm(uid, held)
    return uid


async def rotate(device: Device, *, owner: bool = True, timeout: float = 10.0) -> str:
    """Give a board a new key over a session with the old one, and open a session with the new one; returns
    the board's id."""
    ring, session = _ring(device), device.session
    await session.open(timeout)
    uid = session.link.peer_uid.hex()
    board = ring.boards[uid]
    if board.next is None or session.key_held != board.next:  # else an earlier rotation has reached the board
        new = ring.begin_rotation(uid)
        await device.set_keys(new, ring.owner if owner else None, agreed=_agreed(ring), timeout=timeout)
        await session.open(timeout)  # with the key that the board now holds
    return _confirm(device)


async def remove(device: Device, *, timeout: float = 10.0) -> str:
    """Take a board's keys away over a session with them: it talks to anybody afterwards. Returns its id.

    SecurityError: it answers without a key, though nobody has begun to take its keys away.
    """
    ring, session = _ring(device), device.session
    try:
        await session.open(timeout)
    except SecurityError as error:
        if error.refusal != PEER_PLAIN:
            raise
        async with _plain_session(device, timeout):  # done already, and the answer was lost
            uid = (await device.read_info(timeout)).uid
        if uid not in ring.boards or not ring.boards[uid].leaving:
            raise SecurityError(
                f"{device.name} answers without a key: it never had one, was reset, or something on the "
                "line answers in its "
                f"place; nothing was changed. `quantfl keys forget {uid or 'ID'}` drops a board's keys "
                "from the file"
            ) from None
    else:
        uid = session.link.peer_uid.hex()
        ring.begin_removal(uid)
        await device.set_keys(None, None, agreed=_agreed(ring), timeout=timeout)
    ring.end_removal(uid)
    return uid
