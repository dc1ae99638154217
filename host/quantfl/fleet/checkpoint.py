"""A run's folder and its checkpoint: written after every round, so a run killed at any moment resumes.

A checkpoint holds the newest records of the history, and says how much of history.jsonl comes before them;
they are appended to it afterwards. So what a checkpoint costs does not grow with the rounds.

Layout of the folder: FLEET.toml (the description as given), package.tflite, checkpoint.npz, ledger.sqlite,
history.jsonl (one line per round), model.tflite, summary.json, accuracy.png.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import RunError
from quantfl.fleet import ledger_store
from quantfl.link.ledger import Ledger
from quantfl.strategy.base import Snapshot

FORMAT = 7
WHOLE_HISTORY = 6  # the format that held the history itself; it is still read


#: What reading a damaged archive raises, in numpy, zipfile, zlib and json.
DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, IndexError, SyntaxError),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` in one step: after a crash it is the old content or the new, never a part.

    RunError when it cannot be written: the old content stays, and no temporary file is left.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        try:
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}; make room or choose another folder"
        ) from None


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut. Does nothing on Windows."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems do not know fsync of a folder
            os.fsync(handle)
    finally:
        os.close(handle)


@dataclass
class State:
    """All that a run needs to go on after `round`. strategy: whatever the strategy keeps, the global head
    among it. admission: what is known of the boards from earlier rounds."""

    round: int
    package_sha256: str
    config: dict[str, Any]
    strategy: Snapshot = field(default_factory=Snapshot)
    history: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    admission: Snapshot = field(default_factory=Snapshot)

    @property
    def params(self) -> np.ndarray:
        """The global head, float32 [params]. RunError: the strategy keeps none under this name."""
        head = self.strategy.part("head").arrays.get("params")
        if head is None:
            raise RunError("the checkpoint holds no global head")
        return head


class RunFolder:
    """Paths of a run. `create` makes the folder; an existing run is only ever resumed, never overwritten."""

    def __init__(self, path: Path):
        self.path = path
        self._written: tuple[int, int] | None = None  # records and bytes of the history that are on disk

    def __getattr__(self, name: str) -> Path:
        names = {
            "description": "FLEET.toml",
            "origin": "origin.json",
            "package": "package.tflite",
            "checkpoint": "checkpoint.npz",
            "history": "history.jsonl",
            "ledger": "ledger.sqlite",
            "model": "model.tflite",
            "summary": "summary.json",
            "plot": "accuracy.png",
        }
        if name in names:
            return self.path / names[name]
        raise AttributeError(name)

    def save_origin(self, base: Path) -> None:
        """Keep the folder that relative paths of the description start from, so that the copy can be used
        too.
        """
        write_atomic(self.origin, json.dumps({"base": str(base.resolve())}).encode())

    @property
    def base(self) -> Path:
        """The folder that relative paths of the description start from; the run's own where it is not
        known.
        """
        try:
            found = Path(json.loads(self.origin.read_bytes())["base"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.path
        return found if found.is_dir() else self.path

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot make the run's folder: {error.strerror}") from None

    def required(self, *parts: str) -> RunFolder:
        """This folder, if a run is in it. parts: files that suffice, as `ledger`; none: the checkpoint.

        RunError: none is, and where runs are that may be meant.
        """
        if any(getattr(self, part).exists() for part in parts or ("checkpoint",)):
            return self
        if not self.path.exists():
            what = f"{self.path}: no such folder"
        elif not self.path.is_dir():
            what = f"{self.path} is a file"
        else:
            what = f"no run is in {self.path}"
        below = [str(path) for path in self.runs_below()]
        more = f" and {len(below) - 4} more" if len(below) > 4 else ""
        hint = (
            f"runs are in {', '.join(below[:4])}{more}" if below else "`quantfl run` prints where it writes"
        )
        raise RunError(f"{what}; name the folder of a run: {hint}")

    def runs_below(self) -> list[Path]:
        """Folders of runs one and two levels below this one."""
        try:
            return sorted(
                p.parent for depth in ("*", "*/*") for p in self.path.glob(f"{depth}/checkpoint.npz")
            )
        except OSError:
            return []

    @property
    def exists(self) -> bool:
        return self.checkpoint.exists()

    def save(self, state: State) -> None:
        """Ledger, checkpoint and history, in this order; the checkpoint decides on resume, the ledger keeps
        all that moved. RunError: one cannot be written; the last checkpoint still counts."""
        ledger_store.save(self.ledger, state.ledger)
        records, size = self._written or (0, 0)
        new = state.history[records:]
        buffer = io.BytesIO()
        meta = {
            "format": FORMAT,
            "round": state.round,
            "package_sha256": state.package_sha256,
            "config": state.config,
            "strategy": dict(state.strategy.values),
            "history": {"records": records, "bytes": size, "new": new},
            "admission": dict(state.admission.values),
        }
        arrays: dict[str, Any] = {f"strategy/{k}": v for k, v in state.strategy.arrays.items()}
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        np.savez(buffer, **arrays)
        write_atomic(self.checkpoint, buffer.getvalue())
        self._append(records, size, new)

    def _append(self, records: int, size: int, new: list[dict[str, Any]]) -> None:
        """Append what the checkpoint holds to the history, behind its first `size` bytes."""
        lines = "".join(json.dumps(r) + "\n" for r in new).encode()
        if size == 0:
            write_atomic(self.history, lines)
        else:
            try:
                with open(self.history, "r+b") as f:
                    if f.seek(0, os.SEEK_END) < size:
                        raise OSError("it has become shorter")
                    f.truncate(size)  # a host that died may have begun to append the same
                    f.seek(size)
                    f.write(lines)
                    f.flush()
                    os.fsync(f.fileno())
            except OSError as error:
                raise RunError(
                    f"{self.history}: cannot be written: {error.strerror or error}; make room or choose "
                    "another folder"
                ) from None
        self._written = records + len(new), size + len(lines)

    def _read_history(self, counted: dict[str, Any]) -> list[dict[str, Any]]:
        """All records up to a checkpoint. RunError: they are not all there."""
        try:
            records, size, new = int(counted["records"]), int(counted["bytes"]), counted["new"]
            lines: list[bytes] = []
            if size:
                with open(self.history, "rb") as f:
                    lines = f.read(size).splitlines()
            found = [*(json.loads(line) for line in lines), *new]
            if len(lines) != records or not all(isinstance(r, dict) for r in found):
                raise ValueError(f"{len(lines)} of {records} records")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"[:200]
            raise RunError(f"{self.history} is damaged ({why}); start the run anew") from None
        self._written = records, size
        return found

    def load(self) -> State:
        """The last checkpoint. RunError when there is none or it cannot be read."""
        try:
            with np.load(self.checkpoint, allow_pickle=False) as z:
                meta = json.loads(bytes(z["meta"]))
                arrays = {
                    k.removeprefix("strategy/"): z[k].copy() for k in z.files if k.startswith("strategy/")
                }
        except FileNotFoundError:
            raise RunError(f"{self.path} holds no checkpoint: start the run without --resume") from None
        except DAMAGE as error:
            why = f"{type(error).__name__}: {error}"[:200]
            raise RunError(f"{self.checkpoint} cannot be read ({why}); start the run anew") from None
        if not isinstance(meta, dict):
            raise RunError(f"{self.checkpoint} is damaged; start the run anew")
        whole = meta.get("format") == WHOLE_HISTORY
        if meta.get("format") != FORMAT and not whole:
            raise RunError(
                f"{self.checkpoint} has format {meta['format']}, this quantfl writes {FORMAT}; start the "
                "run anew"
            )
        meta.setdefault("admission", {})  # older runs of this format kept none
        kinds = {"round": int, "package_sha256": str, "history": list if whole else dict}
        kinds |= dict.fromkeys(("config", "strategy", "admission"), dict)
        wrong = [key for key, kind in kinds.items() if not isinstance(meta.get(key), kind)]
        if wrong:
            raise RunError(f"{self.checkpoint} is damaged: it lacks {wrong[0]}; start the run anew")
        snapshot, ledger = Snapshot(arrays, meta["strategy"]), ledger_store.load(self.ledger)
        past = meta["history"] if whole else self._read_history(meta["history"])
        admission = Snapshot(values=meta["admission"])
        return State(meta["round"], meta["package_sha256"], meta["config"], snapshot, past, ledger, admission)
