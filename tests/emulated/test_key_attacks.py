"""Attacks on keys, each once successful: a false board that answers plainly, two processes at one key
file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from quantfl.core import crypt, ffi, lib
from quantfl.core.link import PEER_PLAIN
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import LinkError, SecurityError, UsageError
from quantfl.link.keys import KeyRing
from quantfl.link.ports import is_private
from quantfl.locks import Lock, acquire_port, holder_of, locked, release_port
from quantfl.provision import provision, remove, rotate

pytestmark = pytest.mark.emulated


@pytest.fixture
def ring(tmp_path):
    return KeyRing.make(tmp_path / "keys.toml")


@pytest.fixture
def boards():
    """A board, and one that claims the same id: whoever sits in the middle can answer so."""
    real, false = boot_fleet("inproc", 1), boot_fleet("inproc", 1)
    yield real[0], false[0]
    close_all([*real, *false])


async def hello(device):
    await device.open()
    return await device.read_info()


def with_device(url, action, keys=None):
    async def go():
        device = Device(url, keys=keys)
        try:
            return await action(device)
        finally:
            await device.close()

    return asyncio.run(go())


def listening(sent: list[bytes]):
    """Device.set_keys that also tells what went over the line."""
    real = Device.set_keys

    async def spy(device, key, *args, **options):
        sent.append(key)
        return await real(device, key, *args, **options)

    return spy


def test_a_key_is_never_sent_plainly_twice(boards, ring, monkeypatch):
    """Somebody in the middle answers plainly, and the owner provisions again: the real board's key must not
    come."""
    board, false = boards
    uid = with_device(board.url, provision, ring)
    before, sent = ring.path.read_text(), []
    monkeypatch.setattr(Device, "set_keys", listening(sent))
    with pytest.raises(SecurityError) as error:
        with_device(false.url, provision, KeyRing.load(ring.path))
    assert uid in str(error.value) and "--reset" in str(error.value) and "\n" not in str(error.value)
    assert sent == [] and ring.path.read_text() == before
    real_key = ring.boards[uid].key

    async def again(device):
        return await provision(device, reset=True)

    assert with_device(false.url, again, ring) == uid  # the owner vouches for it: a key of its own
    assert len(sent) == 1 and sent[0] != real_key


def test_a_first_key_broken_off_is_not_sent_again(boards, ring, monkeypatch):
    """The board took its first key and the answer was lost; then somebody answers plainly. He gets another
    key than the board."""
    board, false = boards
    real, sent = Device.set_keys, []

    async def lost(device, key, *args, **options):
        sent.append(key)
        await real(device, key, *args, **options)
        raise LinkError("lost")

    monkeypatch.setattr(Device, "set_keys", lost)
    for url in (board.url, false.url):
        with pytest.raises(LinkError):
            with_device(url, provision, ring)
    assert len(set(sent)) == 2
    monkeypatch.setattr(Device, "set_keys", real)
    uid = with_device(board.url, provision, ring)  # the board is reached with the key that it holds
    assert ring.boards[uid].key == sent[0] and ring.boards[uid].tried == () and ring.boards[uid].provisioned


def test_an_answer_without_keys_removes_none(boards, ring):
    board, false = boards
    uid = with_device(board.url, provision, ring)
    with pytest.raises(SecurityError):
        with_device(false.url, remove, ring)
    assert KeyRing.load(ring.path).boards[uid].state == "given"
    assert with_device(board.url, remove, ring) == uid
    assert with_device(board.url, remove, ring) == uid  # again, as when the answer was lost
    assert KeyRing.load(ring.path).boards[uid].state == "removed"
    assert with_device(board.url, provision, ring) == uid  # it may come back


def test_a_refusal_says_what_it_may_be(boards, ring):
    board, _ = boards

    async def open_(device):
        await device.open()

    with pytest.raises(SecurityError) as error:
        with_device(board.url, open_, ring)
    assert error.value.refusal == PEER_PLAIN and "in its place" in str(error.value)


def test_a_stolen_gateway_takes_no_board(ring, boards, tmp_path):
    """A key file without the signing key rotates keys, but neither replaces nor removes the board's owner."""
    board, _ = boards
    uid = with_device(board.url, provision, ring)
    text = "".join(line for line in ring.path.read_text().splitlines(True) if not line.startswith("secret"))
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    path.chmod(0o600)
    gateway = KeyRing.load(path)
    thief = KeyRing.make(tmp_path / "thief.toml")
    key = gateway.boards[uid].key

    async def attack(device):
        await device.open()
        info = await device.read_info()
        for new in ((key, thief.owner), (key, None), (None, None)):
            for agreed in (None, thief.agree, lambda *_: bytes(64)):
                with pytest.raises(SecurityError, match="signing key"):
                    await device.set_keys(*new, agreed=agreed)
        recorded = ring.agree(3, thief.owner, bytes(32))  # a signature of another session
        with pytest.raises(SecurityError):
            await device.set_keys(key, thief.owner, agreed=lambda *_: recorded)
        assert (await device.read_info()).keys == info.keys == 3

    with_device(board.url, attack, gateway)
    with pytest.raises(SecurityError):
        with_device(board.url, remove, KeyRing.load(path))
    assert with_device(board.url, rotate, KeyRing.load(path)) == uid  # the owner stays: this a gateway may do
    owner = KeyRing.load(path)
    owner._secret = ring._secret

    async def replace_owner(device):
        await device.open()
        held = device.session.key_held
        await device.set_keys(held, thief.owner, agreed=owner.agree)
        with pytest.raises(SecurityError):
            await device.set_keys(held, owner.owner, agreed=owner.agree)  # it is not its owner any more
        await device.set_keys(held, owner.owner, agreed=thief.agree)

    with_device(board.url, replace_owner, owner)
    assert with_device(board.url, remove, owner) == uid


def test_damaged_keys_open_no_board(ring):
    """One flipped bit in the only copy once made a board talk to anybody."""
    (board,) = boot_fleet("inproc", 1)
    try:
        uid = with_device(board.url, provision, ring)
        info = ffi.new("qfl_flash_info *")
        lib.qfl_inproc_port(board.board._board).flash_info(lib.qfl_inproc_port(board.board._board).ctx, info)
        flash = memoryview(ffi.buffer(info.map, info.size)).cast("B")
        clean = bytes(flash)
        at = [i for i in range(len(clean) - 3) if clean[i : i + 4] == b"QFK1"]
        assert len(at) == 2  # two copies from the first write on
        for copy in at:
            for bit in range(0, 96 * 8, 37):
                flash[:] = clean
                flash[copy + bit // 8] ^= 1 << bit % 8
                board.reset()
                assert with_device(board.url, hello, ring).keys == 3  # the other copy holds
                repaired = bytes(flash)
                keys = [repaired[a + 8 : a + 12] + repaired[a + 16 : a + 88] for a in at]
                assert keys[0] == keys[1]  # between them the count of starts
        flash[:] = clean
        for copy in at:
            flash[copy + 20] ^= 1
        board.reset()
        with pytest.raises(SecurityError, match="damaged"):
            with_device(board.url, hello)
        with pytest.raises(SecurityError) as error:
            with_device(board.url, hello, ring)
        assert error.value.refusal == PEER_PLAIN

        async def others(device):
            await device.open()
            answer = await device._request(lib.QFL_MSG_STATUS, timeout=5)
            assert answer.status == lib.QFL_E_AUTH
            answer = await device._request(lib.QFL_MSG_KEYS, bytes([1]) + bytes(32), timeout=5)
            assert answer.status == lib.QFL_E_AUTH

        with_device(board.url, others)
        flash[:] = bytes([info.erased]) * len(clean)
        board.reset()
        fresh = KeyRing.load(ring.path)

        async def again(device):
            return await provision(device, reset=True)

        assert with_device(board.url, again, fresh) == uid
    finally:
        close_all([board])


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("/dev/ttyUSB0", True),
        ("COM3", True),
        ("socket://127.0.0.1:7001", True),
        ("socket://localhost:7001", True),
        ("socket://[::1]:7001", True),
        ("socket://10.0.0.7:7001", False),
        ("socket://127.evil.example:7001", False),
        ("rfc2217://gateway:2217", False),
        ("ble://quantfl-1", False),
        ("loop://", True),
    ],
)
def test_where_others_may_listen(url, private):
    assert is_private(url) is private


def test_first_keys_over_a_network_are_asked_for(tmp_path, capsys, ring):
    from quantfl.cli.main import main

    code = main(["keys", "provision", "ble://somebody", "--file", str(ring.path)])
    assert code == 2 and "in clear" in capsys.readouterr().err


def test_two_processes_lose_no_key(ring):
    """Both have read the file before either writes it."""
    first, second = KeyRing.load(ring.path), KeyRing.load(ring.path)
    a, b = first.prepare("aa" * 8), second.prepare("bb" * 8)
    first.confirm(a.uid, a.key)
    second.confirm(b.uid, b.key)
    kept = KeyRing.load(ring.path).boards
    assert kept[a.uid].key == a.key and kept[b.uid].key == b.key
    assert kept[a.uid].provisioned and kept[b.uid].provisioned


def elsewhere(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_second_process_is_told_who_holds_a_lock(tmp_path):
    path = tmp_path / "run.lock"
    code = (
        "from pathlib import Path; from quantfl.locks import Lock; "
        f"other = Lock(Path({str(path)!r})).acquire(); print(other.pid if other else 'free')"
    )
    with locked(path, "the run", UsageError):
        assert elsewhere(code) == str(os.getpid())
        assert holder_of(path).pid == os.getpid()
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), locked(path, "the run", UsageError):
            pytest.fail("two owners")
    assert elsewhere(code) == "free"  # and again, after a process that ended while it held the lock
    assert elsewhere(code) == "free"


def test_a_damaged_lock_file_is_no_obstacle(tmp_path):
    path = tmp_path / "x.lock"
    for text in (b"", b"\xff\xfe", b"[]", b'{"pid": {}}', b"9" * 10_000):
        path.write_bytes(text)
        assert holder_of(path) is None
        lock = Lock(path)
        assert lock.acquire() is None and lock.held
        lock.release()


def test_a_port_belongs_to_one_process():
    port = "socket://127.0.0.1:1"
    code = (
        f"from quantfl.locks import acquire_port; other = acquire_port({port!r}); print('free' if other is "
        "None else other)"
    )
    assert acquire_port(port) is None and acquire_port(port) is None
    try:
        release_port(port)
        assert "process" in elsewhere(code)
    finally:
        release_port(port)
    assert elsewhere(code) == "free"
    release_port(port)  # once too often is harmless


def test_a_fingerprint_does_not_tell_the_key(ring):
    board = ring.prepare("cc" * 8)
    assert board.fingerprint not in board.key.hex() and len(bytes.fromhex(board.fingerprint)) == 4
    assert len(board.key) == crypt.KEY
