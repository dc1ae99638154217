"""The counters by kind, the comparison of both ends, the ledger in SQLite and its verb."""

from __future__ import annotations

import csv
import io
import json
import random
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.cli.main import main
from quantfl.core import lib
from quantfl.core.link import BYTE_CATEGORIES, Counters
from quantfl.errors import RunError
from quantfl.fleet import ledger_store
from quantfl.fleet.checkpoint import RunFolder
from quantfl.link.ledger import MESSAGE_NAMES, UNSEEN, Carried, Key, Ledger, Traffic, unseen
from quantfl.link.traffic import compare
from tests.unit.test_link import Line, exchange

kinds = st.lists(st.tuples(st.integers(0, 63), st.binary(max_size=500)), max_size=8)


def messages(pairs) -> list[bytes]:
    return [bytes((kind,)) + body for kind, body in pairs]


@given(kinds, kinds, st.integers(1, 16))
@settings(deadline=None, max_examples=30)
def test_both_ends_count_every_byte_under_the_same_kind(down, up, window):
    line = Line(1, window=window)
    line.connect()
    exchange(line, messages(down), messages(up), 20_000)
    for _ in range(5):
        line.step()
    h, b = line.host.kinds(), line.board.kinds()
    assert (h[0] == b[1]).all() and (h[1] == b[0]).all()
    assert compare(line.host.counters(), line.board.counters()).balanced
    for i, category in enumerate(BYTE_CATEGORIES[:-1]):
        name = category
        assert h[0, :, i].sum() == getattr(line.host.counters(), f"tx_{name}")
    for kind in range(64):
        sent = [m for m in messages(down) if m[0] == kind]
        assert h[0, kind, 0] == sum(map(len, sent))


def test_checksums_tell_counters_apart_whose_sums_are_equal():
    """The same bytes under other kinds: equal by category, different checksums."""
    a, b = Line(1), Line(1)
    for line, first in ((a, 1), (b, 2)):
        line.connect()
        exchange(line, [bytes((first,)) + b"same"], [], 1000)
    x, y = a.host.counters(), b.host.counters()
    assert (
        x.tx_payload == y.tx_payload
        and x.tx_acknowledgement == y.tx_acknowledgement
        and x.tx_checksum != y.tx_checksum
    )
    assert x.digest != y.digest


@pytest.mark.parametrize("keys", [0, lib.QFL_LINK_SEAL])
def test_a_lost_acknowledgement_and_a_doubled_one_are_told_by_their_checksums(keys):
    """All sums are equal and no frame is missing; other kinds that differ are not explained by it."""

    def counted(kind: int, category: str, n: int) -> Counters:
        """Of an end that has sent n bytes of a category and kind, and what keys add, beside much that is the
        same in all."""
        sealed = keys * lib.qfl_link_weight(kind, BYTE_CATEGORIES.index("security"))
        checksum = 77 + n * lib.qfl_link_weight(kind, BYTE_CATEGORIES.index(category)) + sealed
        return Counters(tx_acknowledgement=500, tx_security=900, tx_frames=60, tx_checksum=checksum % 2**32)

    sent = counted(3, "acknowledgement", 8)
    for kind in range(16):
        seen = compare(sent, counted(kind, "acknowledgement", 8).swapped)
        assert seen.explained and seen.balanced == (kind == 3)
        assert kind == 3 or "another, of the same length, came twice" in seen.text()
    for other in (counted(6, "payload", 8), counted(6, "acknowledgement", 300)):
        assert not compare(sent, other.swapped).explained


@pytest.mark.parametrize("seed", range(30))
def test_differences_on_a_faulty_line_are_explained_and_add_up(seed):
    """Bytes sent = bytes received in valid frames + noise + bytes the line swallowed - bytes it added, both
    ways."""
    rng = random.Random(seed)
    line = Line(
        seed,
        flip=rng.choice([0, 2e-4]),
        drop=rng.choice([0, 2e-4]),
        dup=rng.choice([0, 2e-4]),
        give_up=255,
    )
    moved = {"swallowed": 0, "added": 0}
    spoil = line.spoil

    def counted(data: bytes) -> bytes:
        out = spoil(data)
        moved["swallowed" if len(out) < len(data) else "added"] += abs(len(out) - len(data))
        return out

    line.spoil = counted
    line.connect()
    exchange(line, [bytes((3,)) + bytes(700)] * 8, [bytes((0x86,)) + bytes(range(256)) * 3] * 8, 400_000)
    for end in (line.host, line.board):
        end.feed(b"\x01\x00", line.now)  # ends a piece under way
    found = compare(line.host.counters(), line.board.counters())
    assert found.explained, found.text()
    assert found.balanced == (found.text() == "")
    # two bytes were fed at each end that nobody sent
    assert found.down.gone + found.up.gone == moved["swallowed"] - moved["added"] - 4


def test_a_difference_without_a_fault_is_not_explained():
    ours = Counters(tx_payload=100, tx_framing=9, tx_frames=1)
    found = compare(ours, Counters(rx_payload=90, rx_framing=19, rx_frames=1))
    assert not found.balanced and not found.explained and "no fault was counted" in found.text()
    found = compare(ours, Counters(rx_noise=109, rx_bad_frames=1))
    assert found.explained and "board counted 1 piece of 109 bytes in all as noise" in found.text()


def running(**cells: int) -> np.ndarray:
    """A link's table: running(down_TRAIN_payload=7)."""
    table = np.zeros((2, 64, 7), np.uint32)
    for name, n in cells.items():
        direction, kind, category = name.split("_")
        table[["down", "up"].index(direction), MESSAGE_NAMES.index(kind), BYTE_CATEGORIES.index(category)] = n
    return table


def test_rows_are_differences_and_survive_a_wrap():
    ledger = Ledger()
    ledger.record(0, "a", running(down_TRAIN_payload=2**32 - 5))
    up, down = ledger.record(1, "a", running(down_TRAIN_payload=7, up_LINK_noise=3))
    assert down == Traffic(payload=12) and up == Traffic(noise=3)
    assert ledger.rows[Key(1, "a", "down", "TRAIN")] == Traffic(payload=12)
    assert ledger.total(first=1) == (Traffic(noise=3), Traffic(payload=12))


def filled() -> Ledger:
    ledger = Ledger()
    ledger.record(0, "a", running(down_INFO_payload=2, down_INFO_framing=9, up_INFO_payload=120))
    ledger.record(
        1,
        "a",
        running(
            down_INFO_payload=2,
            down_INFO_framing=9,
            up_INFO_payload=120,
            up_TRAIN_payload=50,
            up_LINK_noise=4,
        ),
    )
    ledger.record(1, "b", running(down_TRAIN_retransmission=30))
    ledger.record_carried(1, "b", {("down", "att"): (33, False), ("down", "air"): (60, True)})
    ledger.note(1, "b", "counters differ by 30 bytes", True)
    ledger.samples["a"], ledger.radios["a"] = 1000, "lora-sf7"
    ledger.peers["a"] = Counters(tx_payload=5), 77
    return ledger


def summed(ledger: Ledger, first: int, last: int | None) -> tuple[Traffic, Traffic]:
    found = ledger.grouped(lambda k: k.direction, first=first, last=last)
    return found.get("up", Traffic()), found.get("down", Traffic())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from("ab"),
            st.sampled_from(("up", "down")),
            st.sampled_from(MESSAGE_NAMES),
            st.integers(0, 99),
            st.integers(0, 99),
        )
    )
)
@settings(deadline=None, max_examples=40)
def test_totals_are_the_sums_of_the_rows(tmp_path_factory, added):
    ledger = Ledger()
    for *key, payload, noise in added:
        ledger.add(Key(*key), Traffic(payload=payload, noise=noise))
    path = tmp_path_factory.mktemp("ledger") / "l.sqlite"
    ledger_store.save(path, ledger)
    for each in (ledger, ledger_store.load(path)):
        for first, last in ((0, None), (1, None), (2, 3), (3, 2)):
            assert each.total(first=first, last=last) == summed(each, first, last)
    assert not ledger_store.load(path).changed


def test_what_is_stored_comes_back_and_only_once(tmp_path):
    path, ledger = tmp_path / "l.sqlite", filled()
    ledger_store.save(path, ledger)
    ledger_store.save(path, ledger)
    again = ledger_store.load(path)
    for name in ("rows", "carried", "notes", "samples", "radios", "peers"):
        assert getattr(again, name) == getattr(ledger, name), name
    again.record(2, "a", running(down_TRAIN_payload=1))
    ledger_store.save(path, again)
    assert ledger_store.load(path).rows == again.rows
    assert again.carried[Key(1, "b", "down", "air")] == Carried(60, True)


def test_a_save_is_all_or_nothing(tmp_path):
    path, ledger = tmp_path / "l.sqlite", filled()
    ledger_store.save(path, ledger)
    before = ledger_store.load(path).rows
    ledger.record(2, "a", running(down_TRAIN_payload=1))
    ledger.notes.append((1, 2, object(), 0))  # cannot be stored
    with pytest.raises(RunError):
        ledger_store.save(path, ledger)
    assert ledger_store.load(path).rows == before


def test_other_files_are_refused_in_one_line(tmp_path):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 9")
    for path in (other, tmp_path / "absent.sqlite"):
        with pytest.raises(RunError):
            ledger_store.load(path)
    junk = tmp_path / "junk.sqlite"
    junk.write_bytes(b"no database" * 200)
    with pytest.raises(RunError, match="not a database"):
        ledger_store.load(junk)


def test_what_moved_without_a_host_is_taken_from_the_boards_counters():
    before = Counters(tx_payload=100, rx_payload=50)
    ours, theirs = (
        Counters(tx_payload=10, rx_payload=30),
        Counters(tx_payload=150, rx_payload=67, rx_acknowledgement=8),
    )
    rows = unseen("a", 4, before, ours, theirs)
    assert rows == {
        Key(4, "a", "up", UNSEEN): Traffic(payload=20),
        Key(4, "a", "down", UNSEEN): Traffic(payload=7, acknowledgement=8),
    }
    assert unseen("a", 4, before, ours, before + ours.swapped) == {}


def test_the_verb(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    ledger = filled()
    ledger_store.save(folder.ledger, ledger)
    assert main(["ledger", str(tmp_path), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert {r["kind"]: r["total"] for r in out["by_kind"] if r["direction"] == "up"} == {
        "INFO": 120,
        "LINK": 4,
        "TRAIN": 50,
    }
    up = {r["category"]: r["total"] for r in out["by_category"] if r["direction"] == "up"}
    assert up == {"SERVICE": 120, "LINK": 4, "TRAINING": 50}
    assert (
        sum(r["total"] for r in out["by_link"])
        == sum(r["total"] for r in out["by_round"])
        == 2 + 9 + 120 + 50 + 4 + 30
    )
    assert out["energy"]["a"]["radio"] == "lora-sf7"
    assert out["energy"]["a"]["joules_up"] == pytest.approx(174 * 8 * 30e-6)
    assert main(["ledger", str(tmp_path), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(r["total"]) for r in rows) == 215 and rows[0]["link"] == "a"
    assert main(["ledger", str(tmp_path), "--json", "--radio", "ble", "--nj-per-bit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["energy"]["a"]["joules_up"] == pytest.approx(174 * 8 * 2e-9)
    assert main(["ledger", str(tmp_path)]) == 0
    assert "counters differ by 30 bytes" in capsys.readouterr().out
    assert main(["ledger", str(tmp_path), "--radio", "x"]) == 2
    assert main(["ledger", str(tmp_path / "no")]) == 8
