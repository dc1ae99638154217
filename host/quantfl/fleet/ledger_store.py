"""The ledger in SQLite, `ledger.sqlite` in a run's folder: one transaction per round, before the checkpoint
of that round.

A host that dies between the two repeats the round; what the first attempt moved stays counted, for it did
move. What moved after the last transaction is asked of the boards, whose counters go on while no host is
there (quantfl.link.ledger.unseen).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path

from quantfl.core.link import Counters
from quantfl.errors import RunError
from quantfl.link.ledger import Carried, Key, Ledger, Note, Traffic

VERSION = 2
APPLICATION = 0x51464C31  # "QFL1"
_COLUMNS = tuple(f.name for f in fields(Traffic))
_values = attrgetter(*_COLUMNS)
_SCHEMA = f"""
CREATE TABLE traffic (
    round INTEGER NOT NULL, link TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('up', 'down')), kind TEXT NOT NULL,
    {", ".join(f"{c} INTEGER NOT NULL" for c in _COLUMNS)},
    PRIMARY KEY (round, link, direction, kind)
) WITHOUT ROWID;
CREATE TABLE carried (
    round INTEGER NOT NULL, link TEXT NOT NULL, direction TEXT NOT NULL, layer TEXT NOT NULL,
    bytes INTEGER NOT NULL, modelled INTEGER NOT NULL, PRIMARY KEY (round, link, direction, layer)
) WITHOUT ROWID;
CREATE TABLE note (
    number INTEGER PRIMARY KEY, round INTEGER NOT NULL, link TEXT NOT NULL, text TEXT NOT NULL,
    explained INTEGER NOT NULL
);
CREATE TABLE link (
    name TEXT PRIMARY KEY, radio TEXT, samples INTEGER NOT NULL DEFAULT 0, counters TEXT, boot INTEGER
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


@contextlib.contextmanager
def _opened(path: Path, *, make: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection in one transaction, committed at the end. make: a file without our tables gets them."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as db:
            version, application = (
                db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("user_version", "application_id")
            )
            if (version, application) != (0, 0) and (version, application) != (VERSION, APPLICATION):
                raise RunError(
                    f"{path} is no ledger of version {VERSION} (it says {version}); read it with the "
                    "quantfl that wrote it"
                )
            if version == 0 and not make:
                raise RunError(f"{path} is empty or cut short; the run's bytes are lost, start the run anew")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if version == 0:
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # damaged bytes within SQLite's own messages
        raise RunError(f"{path}: {error}") from None


def save(path: Path, ledger: Ledger) -> None:
    """Store what has changed since the last save, all or nothing. RunError when the file cannot be
    written."""
    with _opened(path) as db:
        keys = sorted(ledger.changed)
        db.executemany(
            f"INSERT OR REPLACE INTO traffic VALUES ({','.join('?' * (4 + len(_COLUMNS)))})",
            [(*k, *_values(ledger.rows[k])) for k in keys if k in ledger.rows],
        )
        db.executemany(
            "INSERT OR REPLACE INTO carried VALUES (?,?,?,?,?,?)",
            [(*k, *ledger.carried[k]) for k in keys if k in ledger.carried],
        )
        db.executemany(
            "INSERT OR REPLACE INTO note VALUES (?,?,?,?,?)",
            [(i, *n) for i, n in enumerate(ledger.notes) if i >= ledger.notes_stored],
        )
        for name in sorted(ledger.links_changed):
            peer = ledger.peers.get(name)
            db.execute(
                "INSERT OR REPLACE INTO link VALUES (?,?,?,?,?)",
                (
                    name,
                    ledger.radios.get(name),
                    ledger.samples.get(name, 0),
                    None if peer is None else json.dumps(asdict(peer[0])),
                    None if peer is None else peer[1],
                ),
            )
    ledger.stored()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Rows that are not what `save` writes become one RunError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}); start the run anew") from None


def load(path: Path) -> Ledger:
    """A run's ledger. RunError when there is none or it cannot be read."""
    if not path.exists():
        raise RunError(f"{path} is missing: the run's bytes are not known any more; start the run anew")
    ledger = Ledger()
    with _opened(path, make=False) as db, _readable(path):
        for row in db.execute("SELECT * FROM traffic"):
            ledger.add(Key(*row[:4]), Traffic(*row[4:]))
        for row in db.execute("SELECT * FROM carried"):
            ledger.carried[Key(*row[:4])] = Carried(row[4], bool(row[5]))
        for _, round_, link, text, explained in db.execute("SELECT * FROM note ORDER BY number"):
            ledger.notes.append(Note(round_, link, text, bool(explained)))
        for name, radio, samples, counters, boot in db.execute("SELECT * FROM link"):
            if radio is not None:
                ledger.radios[name] = radio
            if samples:
                ledger.samples[name] = samples
            if counters is not None:
                ledger.peers[name] = Counters(**json.loads(counters)), boot
    ledger.stored()
    return ledger
