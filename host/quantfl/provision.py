"""Giving boards their keys: first keys over a plain link, new ones over a link with the old. The key file is written first.

Whatever breaks in between, the file holds the key that the board holds, and the same command goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from quantfl.core.link import PEER_PLAIN
from quantfl.device import Device
from quantfl.errors import SecurityError, UsageError
from quantfl.link.keys import KeyRing


def _ring(device: Device) -> KeyRing:
    if device.session.keys is None:
        raise UsageError("a key file is needed")
    return device.session.keys


@contextlib.asynccontextmanager
async def _plain_session(device: Device, timeout: float) -> AsyncIterator[None]:
    """A session without keys. Where what it is for fails it is closed, so that nothing else ever goes over it."""
    await device.session.open(timeout, plain=True)
    try:
        yield
    except BaseException:
        await device.session.close()
        raise


async def provision(device: Device, *, owner: bool = True, timeout: float = 10.0) -> str:
    """Give a board its first keys over a plain link, and open a session with them; returns the board's id.

    Done already: nothing is sent. owner: the board takes packages signed by the file's owner only. The device's session must
    have a key file. SecurityError: the board has a key that is not in the file.
    """
    ring, session = _ring(device), device.session
    try:
        await session.open(timeout)
    except SecurityError as error:
        if error.refusal != PEER_PLAIN:
            raise
    else:
        uid = session.link.peer_uid.hex()
        await finish_rotation(device)
        ring.confirm(uid)
        return uid
    async with _plain_session(device, timeout):
        info = await device.hello(timeout, provisioning=True)
        device.require("keys", "keys")
        if not info.uid:
            raise SecurityError(f"{device.name} has no unique id; a key cannot be kept for it")
        board = ring.prepare(info.uid, "" if device.name == device.url else device.name)
        await device.set_keys(board.key, ring.owner if owner else None, timeout=timeout)
        await session.open(timeout)
    ring.confirm(info.uid)
    return info.uid


async def rotate(device: Device, *, owner: bool = True, timeout: float = 10.0) -> str:
    """Give a board a new key over a session with the old one, and open a session with the new one; returns the board's id."""
    ring, session = _ring(device), device.session
    await session.open(timeout)
    uid = session.link.peer_uid.hex()
    if not await finish_rotation(device):
        new = ring.begin_rotation(uid)
        await device.set_keys(new, ring.owner if owner else None, timeout=timeout)
        await session.open(timeout)  # with the key that the board now holds
        await finish_rotation(device)
    return uid


async def finish_rotation(device: Device) -> bool:
    """Forget the old key where the board has proved to hold the new one. True: it has."""
    ring, held = _ring(device), device.session.key_held
    uid = device.session.link.peer_uid.hex()
    board = ring.boards[uid]
    if board.next is None or held != board.next:
        return False
    ring.end_rotation(uid, held)
    return True


async def remove(device: Device, *, timeout: float = 10.0) -> str:
    """Take a board's keys away over a session with them: it talks to anybody afterwards. Returns its id."""
    ring, session = _ring(device), device.session
    try:
        await session.open(timeout)
    except SecurityError as error:
        if error.refusal != PEER_PLAIN:
            raise
        async with _plain_session(device, timeout):  # done already, and the answer was lost
            uid = (await device.hello(timeout)).uid
    else:
        uid = session.link.peer_uid.hex()
        await device.set_keys(None, None, timeout=timeout)
    ring.forget(uid)
    return uid
