"""Boards with keys: provisioning, rotation, false hosts and boards, signed packages; runs with keys equal
runs without."""

from __future__ import annotations

import asyncio
import json
import stat
import warnings
from dataclasses import asdict

import pytest

from quantfl.core import lib
from quantfl.core.board import InprocBoard
from quantfl.core.link import KEY_UNKNOWN, KEY_WRONG, NAMED, PEER_KEYED, PEER_PLAIN, UP, Link, cobs_decode
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import DeviceError, LinkError, PackageError, SecurityError, UsageError
from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.fleet.setup import load_package
from quantfl.link import keys as keys_module
from quantfl.link.chaos import parse
from quantfl.link.keys import KeyRing, PlainLinkWarning, is_signed_by, split_signed
from quantfl.provision import provision, remove, rotate
from tests.support import DEMO_MODEL, demo_config, demo_toml, need_board, need_digits

pytestmark = pytest.mark.emulated


@pytest.fixture
def board():
    (one,) = boot_fleet("inproc", 1)
    yield one
    close_all([one])


@pytest.fixture
def ring(tmp_path):
    return KeyRing.make(tmp_path / "keys.toml")


@pytest.fixture(scope="module")
def package():
    return load_package(DEMO_MODEL).data


def with_device(url, action, keys=None):
    async def go():
        device = Device(url, keys=keys)
        try:
            return await action(device)
        finally:
            await device.close()

    return asyncio.run(go())


async def hello(device):
    await device.open()
    return await device.read_info()


def refused(url, action=hello, keys=None) -> SecurityError:
    with pytest.raises(SecurityError) as error:
        with_device(url, action, keys)
    assert error.value.exit_code == 10 and "\n" not in str(error.value)
    return error.value


def test_a_board_is_provisioned_once(board, ring, tmp_path):
    assert refused(board.url, keys=ring).refusal == PEER_PLAIN
    uid = with_device(board.url, provision, ring)
    assert with_device(board.url, provision, ring) == uid  # again: nothing to do
    info = with_device(board.url, hello, ring)
    assert info.uid == uid and info.keys == lib.QFL_KEYS_LINK | lib.QFL_KEYS_OWNER
    again = KeyRing.load(ring.path)
    assert again.boards == ring.boards and again.boards[uid].provisioned
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert refused(board.url).refusal == PEER_KEYED
    other = KeyRing.make(tmp_path / "other.toml")
    assert refused(board.url, keys=other).refusal == KEY_UNKNOWN
    other.prepare(uid)
    assert refused(board.url, keys=other).refusal == KEY_WRONG
    assert refused(board.url, provision, other).refusal == KEY_WRONG  # nobody takes a board over
    board.reset()
    assert with_device(board.url, hello, ring).reset == "pin"  # the key outlives the power


@pytest.mark.parametrize("reached", [False, True], ids=["before the board", "after the board"])
def test_first_keys_broken_off_leave_no_plain_session(board, ring, reached, monkeypatch):
    """The request or its answer is lost: what comes next opens a session with keys, and never uses the one
    without."""
    real = Device.set_keys

    async def lost(device, *args, **options):
        if reached:
            await real(device, *args, **options)
        raise LinkError("lost")

    async def go(device):
        with monkeypatch.context() as patch:
            patch.setattr(Device, "set_keys", lost)
            with pytest.raises(LinkError):
                await provision(device)
        assert not device.session.up
        await provision(device)
        assert device.session.up and device.session.link.sealed

    with_device(board.url, go, ring)


def test_rotation(board, ring, tmp_path):
    uid = with_device(board.url, provision, ring)
    old = ring.boards[uid].key
    before = tmp_path / "before.toml"
    before.write_bytes(ring.path.read_bytes())
    before.chmod(0o600)
    assert with_device(board.url, rotate, ring) == uid
    assert ring.boards[uid].key != old and ring.boards[uid].next is None
    assert with_device(board.url, hello, KeyRing.load(ring.path)).uid == uid
    assert refused(board.url, keys=KeyRing.load(before)).refusal == KEY_WRONG


@pytest.mark.parametrize("reached", [False, True], ids=["before the board", "after the board"])
def test_a_rotation_broken_off_goes_on(board, ring, reached):
    """The host dies after it has written the new key: with the board on the old one, and with the board on
    the new one."""
    uid = with_device(board.url, provision, ring)
    new = ring.begin_rotation(uid)

    async def half(device):
        await device.open()
        if reached:
            await device.set_keys(new, ring.owner)

    with_device(board.url, half, ring)
    later = KeyRing.load(ring.path)
    assert later.boards[uid].next == new
    assert with_device(board.url, hello, later).uid == uid  # either way the board is reached
    assert with_device(board.url, rotate, later) == uid
    assert later.boards[uid].key == new and later.boards[uid].next is None


def test_keys_are_taken_away_by_their_holder_only(board, ring):
    uid = with_device(board.url, provision, ring)
    assert with_device(board.url, remove, ring) == uid and ring.boards[uid].state == "removed"
    assert with_device(board.url, hello).keys == 0


def test_the_session_of_the_first_key_can_do_nothing_else(board, ring):
    """A stranger who listened in while the key was given does not go on in that session."""

    async def go(device):
        await device.open()
        await device.set_keys(bytes(range(32)), None)
        await device.set_keys(bytes(range(32)), None)  # the answer was lost: the same once more is harmless
        with pytest.raises(DeviceError) as error:
            await device.set_keys(bytes(32), None)
        assert error.value.status == lib.QFL_E_AUTH
        with pytest.raises(DeviceError) as error:
            await device.status()
        assert error.value.status == lib.QFL_E_AUTH

    with_device(board.url, go)


BAD_BODIES = [
    b"",
    b"\1",
    b"\1" + bytes(31),
    b"\1" + bytes(33),
    b"\3" + bytes(32),
    b"\2" + bytes(32),
    b"\4",
    b"\0\0",
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_malformed_keys_are_refused(board, body):
    async def go(device):
        await device.open()
        answer = await device._request(lib.QFL_MSG_KEYS, body)
        assert answer.status == lib.QFL_E_FORMAT
        assert (await device.read_info()).keys == 0

    with_device(board.url, go)


def test_a_board_without_a_generator_never_repeats_a_challenge():
    """In-process boards have no random numbers; here the clock stands still too. Starts are counted in
    flash."""
    one, said = InprocBoard(b"uid"), set()

    def talk(link: Link, until) -> None:
        for _ in range(200):
            one.write(link.pull(0))
            one.poll(0)
            data = one.read()
            link.feed(data, 0)
            if until(data):
                return
        raise AssertionError("no answer")

    plain = Link()
    plain.connect(1, 0)
    talk(plain, lambda _d: plain.state == UP)
    plain.send(bytes((lib.QFL_MSG_KEYS, 1, lib.QFL_KEYS_LINK)) + bytes(range(32)))
    talk(plain, lambda _d: plain.message() == bytes((lib.QFL_MSG_KEYS | lib.QFL_MSG_ANSWER, 1)))
    for _ in range(6):
        one.reset()
        for nonce in (1, 2):
            host, heard = Link(), []
            host.secure(bytes(32))
            host.connect(nonce, 0)
            talk(host, lambda d, heard=heard, host=host: heard.append(d) or host.state == NAMED)
            assert host.set_key(bytes(range(32)))
            synack = cobs_decode(b"".join(heard).strip(b"\0"))
            assert synack[13:18] == b"\1\3uid"
            said.add(synack[18:34])
    assert len(said) == 12


def push_of(data):
    async def go(device):
        await device.open()
        await device.read_info()
        return await device.push(data)

    return go


def test_a_board_runs_what_its_owner_has_signed(board, ring, package, tmp_path):
    with_device(board.url, provision, ring)
    signed = ring.sign(package)
    assert split_signed(signed) == (package, signed[len(package) :]) and len(signed) == len(package) + 72
    thief = KeyRing.make(tmp_path / "thief.toml")
    thief.boards = ring.boards  # has stolen the link keys, but not the owner's
    bad = bytearray(signed)
    bad[-40] ^= 1
    worse = bytearray(signed)
    worse[len(package) // 2] ^= 1
    for data in (package, thief.sign(package), bytes(bad), bytes(worse), signed[:-1], signed + b"\0"):
        with pytest.raises(DeviceError):
            with_device(board.url, push_of(data), thief)
    assert with_device(board.url, hello, ring).package is None
    assert with_device(board.url, push_of(signed), ring)
    board.reset()
    info = with_device(board.url, hello, ring)
    assert info.package is not None and info.params > 0
    assert not with_device(board.url, push_of(signed), ring)  # it has it already


def test_a_new_owner_does_not_run_what_was_there(board, ring, package):
    async def any_package(device):
        return await provision(device, owner=False)

    with_device(board.url, any_package, ring)
    assert with_device(board.url, hello, ring).keys == lib.QFL_KEYS_LINK
    with_device(board.url, push_of(package), ring)
    assert with_device(board.url, hello, ring).package is not None
    with_device(board.url, rotate, ring)
    assert with_device(board.url, hello, ring).package is None
    board.reset()
    assert with_device(board.url, hello, ring).package is None
    with_device(board.url, push_of(ring.sign(package)), ring)
    assert with_device(board.url, hello, ring).package is not None


def test_packages_where_the_signing_key_is_not(ring, package):
    signed = ring.sign(package)
    text = "".join(line for line in ring.path.read_text().splitlines(True) if not line.startswith("secret"))
    ring.path.write_text(text)
    gateway = KeyRing.load(ring.path)
    assert not gateway.can_sign and gateway.owner == ring.owner
    assert gateway.sign(signed) == signed and is_signed_by(gateway.owner, signed)
    with pytest.raises(PackageError):
        gateway.sign(package)


def test_key_files(tmp_path, ring):
    with pytest.raises(UsageError):
        KeyRing.make(ring.path)
    with pytest.raises(UsageError):
        KeyRing.load(tmp_path / "absent.toml")
    ring.path.chmod(0o640)
    with pytest.raises(SecurityError):
        KeyRing.load(ring.path)
    ring.path.chmod(0o600)
    for text in (
        "format = 2",
        "[boards.zz]\nkey = 'aa'",
        "[boards.00]\nkey = 'aa'",
        "[",
        "[boards.00]\n",
        "boards = 3",
    ):
        text = text if "format" in text else "format = 1\n" + text
        ring.path.write_text(text)
        with pytest.raises(UsageError):
            KeyRing.load(ring.path)


def test_plain_links_to_real_boards_are_said_in_red(board, monkeypatch, capsys):
    from quantfl.cli.main import main

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with_device(board.url, hello)
    assert not [w for w in seen if w.category is PlainLinkWarning]  # an emulated one
    monkeypatch.setattr("quantfl.device.is_emulated", lambda _board: False)
    monkeypatch.setattr(keys_module, "_warned", set())
    monkeypatch.setenv("FORCE_COLOR", "1")
    for _ in range(2):
        assert main(["devices", board.url]) == 0
    out = capsys.readouterr().err
    assert out.count("is plain") == 1 and "\x1b[1;31m" in out


def totals(state, last: int) -> dict[str, dict[str, int]]:
    """Bytes of rounds 1 to `last` by direction and category."""
    out: dict[str, dict[str, int]] = {}
    for direction, traffic in zip(("up", "down"), state.ledger.total(first=1, last=last), strict=True):
        out[direction] = asdict(traffic)
    return out


@pytest.mark.parametrize("kind", ["inproc", "native", "qemu_m4"])
def test_a_run_with_keys_is_the_same_run(kind, tmp_path):
    """Same deltas, same head; the counters agree and show what keys cost: 14 bytes per frame, and nothing
    else."""
    need_digits()
    need_board(kind)
    found = {}
    for name in ("plain", "keyed"):
        file = {"file": str(tmp_path / "keys.toml")} if name == "keyed" else {}
        config = demo_config(run={"rounds": 3}, fleet={"boards": 3}, keys=file)
        asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=tmp_path / name, kind=kind))
        found[name] = RunFolder(tmp_path / name).load()
    plain, keyed = found["plain"], found["keyed"]
    assert [[b["delta_sha256"] for b in r["boards"].values()] for r in plain.history[1:]] == [
        [b["delta_sha256"] for b in r["boards"].values()] for r in keyed.history[1:]
    ]
    assert plain.params.tobytes() == keyed.params.tobytes()
    assert len(KeyRing.load(tmp_path / "keys.toml").boards) == 3
    assert not keyed.ledger.notes
    p, k = totals(plain, 3), totals(keyed, 3)
    for direction in ("up", "down"):
        assert (
            p[direction].pop("security") == 0
            and k[direction]["security"] % lib.QFL_LINK_SEAL == 0
            and k[direction].pop("security") > 0
        )
        # COBS takes a byte more for 254 bytes without a zero, which depends on the bytes that encryption
        # makes.
        assert abs(k[direction].pop("framing") - p[direction].pop("framing")) <= 3
        assert {n: v for n, v in k[direction].items() if n != "noise"} == {
            n: v for n, v in p[direction].items() if n != "noise"
        }
    summary = json.loads((tmp_path / "keyed" / "summary.json").read_text())
    assert summary["rounds"] == 3


def test_a_run_with_keys_over_bad_lines(tmp_path):
    """Chaos between host and boards with keys: the counters still agree, and the run ends."""
    need_digits()
    config = demo_config(
        run={"rounds": 3, "min_boards": 1}, fleet={"boards": 3}, keys={"file": str(tmp_path / "keys.toml")}
    )
    chaos = parse("flip=3e-5,drop=0.001,dup=0.001")
    outcome = asyncio.run(
        api.run(config, base=DEMO_MODEL.parent, folder=tmp_path / "run", kind="inproc", chaos=chaos)
    )
    state = RunFolder(tmp_path / "run").load()
    assert outcome.summary["rounds"] == 3 and all(r["contributors"] for r in state.history[1:])
    assert all(note.explained for note in state.ledger.notes)


def test_the_command_line(tmp_path, capsys, package):
    need_board("native")
    from quantfl.cli.main import main

    boards = boot_fleet("native", 2)
    urls, file = [b.url for b in boards], str(tmp_path / "keys.toml")
    (tmp_path / "p.tflite").write_bytes(package)
    pushed = str(tmp_path / "p.tflite")

    def run(*args) -> tuple[int, str, str]:
        code = main(list(args))
        out = capsys.readouterr()
        return code, out.out, out.err

    try:
        assert run("keys", "list", "--file", file)[0] == 2
        assert run("keys", "make", "--file", file)[0] == 0
        assert run("keys", "make", "--file", file)[0] == 2
        assert run("push", pushed, *urls, "--keys", file)[0] == 10  # not provisioned
        code, out, _ = run("keys", "provision", *urls, "--file", file, "--json")
        rows = json.loads(out)
        assert code == 0 and len({r["fingerprint"] for r in rows}) == 2
        assert run("keys", "rotate", *urls, "--file", file)[0] == 0
        code, out, _ = run("keys", "list", "--file", file, "--json")
        listed = json.loads(out)
        assert {b["state"] for b in listed["boards"]} == {"given"} and listed["owner"]["can_sign"]
        lines = (tmp_path / "keys.toml").read_text().splitlines()
        secrets = [line.split('"')[1] for line in lines if line.startswith(("key", "secret"))]
        assert len(secrets) == 3 and not any(s in out for s in secrets)
        assert {b["fingerprint"] for b in listed["boards"]} != {r["fingerprint"] for r in rows}
        assert run("devices", *urls)[0] == 10 and run("push", pushed, *urls)[0] == 10
        assert run("devices", *urls, "--keys", file)[0] == 0
        assert run("push", pushed, *urls, "--keys", file)[0] == 0
        assert run("keys", "sign", pushed, "-o", str(tmp_path / "s.tflite"), "--file", file)[0] == 0
        ring = KeyRing.load(tmp_path / "keys.toml")
        assert (tmp_path / "s.tflite").read_bytes() == ring.sign(package)
        fleet = demo_toml(tmp_path / "FLEET.toml", rounds=1)
        text = (
            fleet.read_text().split("[fleet]")[0]
            + "[fleet]\n"
            + "".join(f'[[fleet.board]]\nurl = "{b.url}"\nsamples = "{b.samples_url}"\n' for b in boards)
            + "[train]\nlr = 0.003\n"
        )
        fleet.write_text(text)
        assert run("run", str(fleet), "--out", str(tmp_path / "plain"))[0] == 8  # no board talks to us
        fleet.write_text(text + '[keys]\nfile = "keys.toml"\n')
        assert run("run", str(fleet), "--out", str(tmp_path / "keyed"))[0] == 0
        assert run("keys", "remove", *urls, "--file", file)[0] == 0
        assert run("devices", *urls)[0] == 0
    finally:
        close_all(boards)


def test_a_recorded_host_gets_nowhere(board, ring):
    """A false host with a recording of a whole session, over the board's real firmware."""
    with_device(board.url, provision, ring)
    sent: list[bytes] = []

    async def record(device):
        write = device.session.transport.write
        device.session.transport.write = lambda data: (sent.append(bytes(data)), write(data))[1]
        await device.open()
        await device.read_info()
        await device.set_keys(
            bytes(range(32)), None, agreed=ring.agree
        )  # what the false host would like to happen again

    with_device(board.url, record, ring)

    async def back(device):
        await device.open()
        await device.set_keys(taken.key, ring.owner, agreed=ring.agree)

    (uid,) = ring.boards
    taken = ring.boards[uid]
    ring._put(type(taken)(uid, bytes(range(32)), taken.key, provisioned=True))
    with_device(board.url, back, ring)
    ring.confirm(uid, taken.key)

    async def replay():
        from quantfl.link.transport import open_transport

        transport, heard = open_transport(board.url), []
        await transport.open(heard.append, lambda _reason: None)
        for data in sent:
            transport.write(data)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        await transport.close()
        return b"".join(heard)

    asyncio.run(replay())
    assert (
        with_device(board.url, hello, ring).keys == lib.QFL_KEYS_LINK | lib.QFL_KEYS_OWNER
    )  # still the owner's key


def test_nobody_is_there(tmp_path, ring):
    with pytest.raises(LinkError) as error:
        with_device("socket://127.0.0.1:1", hello, ring)
    assert not isinstance(error.value, SecurityError)
