"""Whole runs: accuracy rises, the exported model scores the same; boards that die or lie; hosts that die."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from quantfl.core import lib
from quantfl.core.link import Link
from quantfl.emulation import best_kind, boot_fleet, close_all
from quantfl.errors import RunError
from quantfl.fleet import api
from quantfl.fleet.checkpoint import FORMAT, RunFolder
from quantfl.fleet.config import FleetTable
from quantfl.fleet.rounds import Silent
from tests.support import DEMO_MODEL, demo_config, demo_toml, need_board, need_digits

pytestmark = pytest.mark.emulated


@pytest.fixture(autouse=True)
def _digits():
    need_digits()


def test_eight_boards_learn_and_the_exported_model_scores_the_same(tmp_path):
    kind = best_kind()
    outcome = asyncio.run(
        api.run(demo_config(), base=DEMO_MODEL.parent, folder=tmp_path / "r", kind=kind, compare=True)
    )
    s = outcome.summary
    assert s["accuracy_before"] < 0.2
    assert s["accuracy"] > s["accuracy_before"] + 0.6
    assert abs(s["exported_accuracy"] - s["accuracy"]) <= 0.012
    assert s["counters_differ"] == {} and s["ledger"]["imbalances"] == []
    assert s["accuracy"] > s["fp32"]["accuracy"] - 0.02
    plain = s["fp32"]["rounds_up_total"] + s["fp32"]["rounds_down_total"]
    assert plain > 4 * (s["ledger"]["rounds_up_total"] + s["ledger"]["rounds_down_total"])
    folder = RunFolder(tmp_path / "r")
    lines = [json.loads(line) for line in folder.history.read_text().splitlines()]
    assert [r["round"] for r in lines] == list(range(31)) and 0.0 < lines[-1]["similarity"] < 1.0
    assert folder.plot.read_bytes()[:4] == b"\x89PNG"
    for board in s["ledger"]["boards"].values():
        # An emulator that the machine stalls for half a second is sent a frame again; that is all that may
        # be.
        assert board["up"]["noise"] == 0 and board["up"]["retransmission"] < 0.2 * board["up_total"]


def test_a_checkpoint_of_another_format_is_refused_in_a_line(tmp_path):
    asyncio.run(
        api.run(demo_config(run={"rounds": 1}), base=DEMO_MODEL.parent, folder=tmp_path, kind="inproc")
    )
    folder = RunFolder(tmp_path)
    assert folder.load().round == 1
    with np.load(folder.checkpoint) as z:
        arrays = {k: z[k] for k in z.files}
    meta = json.loads(bytes(arrays["meta"])) | {"format": 3}
    np.savez(folder.checkpoint, **(arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}))
    with pytest.raises(RunError, match=f"has format 3, this quantfl writes {FORMAT}; start the run anew"):
        folder.load()


def run_with_boards(boards, shards, tmp_path, *, on_round=None, **tables):
    """A run over boards that already exist, at their ports."""
    table = FleetTable(board=[{"url": b.url, "samples": b.samples_url, "name": b.name} for b in boards])
    config = demo_config(**({"run": {"rounds": 4, "deadline_s": 20.0}} | tables)).model_copy(
        update={"fleet": table}
    )

    class Watch(Silent):
        def phase(self, text):
            if on_round:
                on_round(text)

    return asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=tmp_path, progress=Watch()))


@pytest.mark.parametrize("kind", ["native", "qemu_m4"])
def test_a_board_killed_in_a_round_costs_only_its_own_contribution(kind, tmp_path):
    need_board(kind)
    boards = boot_fleet(kind, 3)
    try:

        def kill(text):
            if text.startswith("round 2"):
                threading.Timer(0.01, boards[1].kill).start()

        outcome = run_with_boards(boards, None, tmp_path / "r", on_round=kill)
    finally:
        close_all(boards)
    history = RunFolder(tmp_path / "r").load().history
    assert outcome.summary["rounds"] == 4
    assert all({"board-00", "board-02"} <= set(r["contributors"]) for r in history[1:])
    assert "board-01" in history[3]["failed"] and "board-01" in history[4]["failed"]
    assert all("\n" not in reason for r in history[1:] for reason in r["failed"].values())


class ByzantineClient(threading.Thread):
    """A board that speaks the link but answers `lie(kind, number, body)`; None: garbage bytes instead of
    frames."""

    def __init__(self, lie):
        super().__init__(daemon=True)
        import socket

        self.lie = lie
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self.listener.getsockname()[1]}"
        self.samples_url, self.name = None, "liar"
        self.start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        link, rng = Link(initiator=False, message_max=4096, frame_max=256), random.Random(1)
        client.settimeout(0.02)
        while True:
            try:
                data = client.recv(4096)
                if not data:
                    return
            except TimeoutError:
                data = b""
            except OSError:
                return
            if self.lie is None:
                data and client.sendall(rng.randbytes(200))
                continue
            now, at = int(time.monotonic() * 1000), 0
            while at < len(data):
                at += link.feed(data[at:], now)
                message = link.message()
                if message:
                    answer = self.lie(message[0], message[1], message[2:])
                    if answer is not None:
                        link.send(bytes((message[0] | 0x80, message[1])) + answer)
            out = link.pull(now)
            try:
                out and client.sendall(out)
            except OSError:
                return


def honest_until_train(delta: bytes):
    """Answers everything as a board would, but a TRAIN request with `delta`."""
    import cbor2

    held = {"sha": None, "want": None, "have": 0, "size": 0}

    def lie(kind, number, body):
        if kind == lib.QFL_MSG_INFO:
            info = dict.fromkeys(
                ("protocol", "ram", "flash", "arena", "store", "state", "reset", "lost", "uptime_ms"), 1
            )
            info |= {"firmware": "x", "board": "liar", "uid": b"u", "samples": 5, "capacity": 9}
            if held["sha"]:
                info |= {"package": held["sha"], "head": 1}
            return cbor2.dumps(info)
        if kind == lib.QFL_MSG_PUT_BEGIN:
            held["want"], held["size"] = body[5:37], int.from_bytes(body[1:5], "little")
            return bytes(4)
        if kind == lib.QFL_MSG_PUT_DATA:
            return None
        if kind == lib.QFL_MSG_PUT_END:
            held["sha"] = held["want"]
            return bytes(4)
        if kind == lib.QFL_MSG_TRAIN:
            return (5).to_bytes(2, "little") + bytes(3) + delta
        return bytes(16)

    return lie


NAN = b"\0" + np.full(1290, np.nan, np.float32).tobytes()
SHORT = bytes.fromhex("0106") + bytes(20)
LIES = {
    "noise": None,
    "nan": honest_until_train(NAN),
    "short": honest_until_train(SHORT),
    "empty": honest_until_train(b""),
    "silence": lambda kind, number, body: None,
    "nonsense": lambda kind, number, body: b"\0\xff\xff",
}


@pytest.mark.parametrize("name", LIES)
def test_a_board_that_answers_garbage_is_reported_and_left_out(name, tmp_path):
    need_board("native")
    boards = boot_fleet("native", 2)
    liar = ByzantineClient(LIES[name])
    try:
        run_with_boards([*boards, liar], None, tmp_path / "r", run={"rounds": 2, "deadline_s": 3.0})
    finally:
        close_all(boards)
        liar.listener.close()
    honest = boot_fleet("native", 2)
    try:
        run_with_boards([*honest], None, tmp_path / "clean", run={"rounds": 2, "deadline_s": 30.0})
    finally:
        close_all(honest)
    state = RunFolder(tmp_path / "r").load()
    for record in state.history[1:]:
        assert record["contributors"] == ["board-00", "board-01"]
        assert list(record["failed"]) == ["liar"] and "\n" not in record["failed"]["liar"]


def test_samples_are_kept_when_the_split_has_more_clients(tmp_path):
    """Client i's data depends on the size of the fleet, so runs are compared at equal size only."""
    config = demo_config(run={"rounds": 1}, fleet={"boards": 2})
    a = asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=None, kind="inproc")).summary
    b = asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=None, kind="inproc")).summary
    assert a["head"] == b["head"]


@pytest.mark.parametrize("way", ["bytes", "joules"])
def test_a_run_ends_when_its_budget_is_used_up(way, tmp_path):
    """The counters say so, not an estimate; what was learnt till then is exported, and resuming does not
    spend more."""
    bits_nj = 100.0
    limit = {
        "bytes": {"bytes_per_link": 2000},
        "joules": {"joules_per_link": 2000 * 8 * bits_nj * 1e-9, "nj_per_bit": bits_nj},
    }[way]
    config = demo_config(run={"rounds": 40}, fleet={"boards": 2}, budget=limit, uplink={"codec": "bu"})
    told: list[str] = []

    class Watch(Silent):
        def warn(self, text):
            told.append(text)

    async def run(resume: bool):
        return await api.run(
            config,
            base=DEMO_MODEL.parent,
            folder=tmp_path / "r",
            kind="inproc",
            progress=Watch(),
            resume=resume,
        )

    outcome = asyncio.run(run(False))
    history = RunFolder(tmp_path / "r").load().history
    last = history[-1]["round"]
    spent = [
        (r["up_bytes"] + r["down_bytes"] - history[0]["up_bytes"] - history[0]["down_bytes"]) / 2
        for r in history
    ]
    assert 1 <= last < 40 and spent[-2] < 2000 <= spent[-1]
    assert told == [f"the budget of 2,000 bytes per link is used up after round {last} of 40"]
    assert not outcome.interrupted and outcome.summary["rounds"] == last and outcome.summary["accuracy"] > 0.1
    told.clear()
    again = asyncio.run(run(True)).summary
    assert again["rounds"] == last and again["head"] == outcome.summary["head"]


@pytest.mark.parametrize("kind", ["native"])
def test_a_host_killed_at_any_time_resumes_to_the_same_bytes(kind, tmp_path):
    need_board(kind)
    # A board that is reset loses its residual, so a codec without one.
    toml = demo_toml(tmp_path / "f.toml", emulate=kind, boards=3, rounds=6, extra='[uplink]\ncodec = "bu"\n')
    command = [sys.executable, "-m", "quantfl.cli.main", "run", str(toml), "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path / "calm")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calm = RunFolder(tmp_path / "calm").load()
    out, rng, kills = tmp_path / "killed", random.Random(5), 0
    history = out / "history.jsonl"
    for attempt in range(40):
        resume = ["--resume"] if (out / "checkpoint.npz").exists() else []
        process = subprocess.Popen(
            [*command, "--out", str(out), *resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        lines = len(history.read_text().splitlines()) if history.exists() else 0
        while process.poll() is None and attempt < 5:
            now = len(history.read_text().splitlines()) if history.exists() else 0
            if (
                now > lines
            ):  # a round has just been checkpointed: kill right then, or a little into the next one
                time.sleep(rng.choice([0, 0.005, 0.02]))
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.001)
        error = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
    killed = RunFolder(out).load()
    assert kills >= 4 and killed.round == calm.round == 6
    assert killed.params.tobytes() == calm.params.tobytes()
    assert {k: v.tobytes() for k, v in killed.strategy.arrays.items()} == {
        k: v.tobytes() for k, v in calm.strategy.arrays.items()
    }
    assert (out / "model.tflite").read_bytes() == (tmp_path / "calm" / "model.tflite").read_bytes()
    deltas = [
        [[b["delta_sha256"] for b in r["boards"].values()] for r in s.history[1:]] for s in (calm, killed)
    ]
    assert deltas[0] == deltas[1]


def test_ctrl_c_ends_cleanly_and_resume_goes_on(tmp_path):
    need_board("native")
    toml = demo_toml(tmp_path / "f.toml", boards=2, rounds=400)
    command = [
        sys.executable,
        "-m",
        "quantfl.cli.main",
        "run",
        str(toml),
        "--out",
        str(tmp_path / "r"),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "r" / "history.jsonl"
    while process.poll() is None and (not history.exists() or len(history.read_text().splitlines()) < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    summary = json.loads(out)
    assert 3 <= summary["rounds"] < 400 and summary["rounds_asked"] == 400
    assert (tmp_path / "r" / "model.tflite").exists() and "Traceback" not in error
    assert RunFolder(tmp_path / "r").load().round == summary["rounds"]


def test_a_run_on_boards_at_ports_and_partial_participation(tmp_path):
    need_board("native")
    boards = boot_fleet("native", 4)
    try:
        run_with_boards(
            boards, None, tmp_path / "r", run={"rounds": 6, "participation": 0.5, "deadline_s": 20.0}
        )
    finally:
        close_all(boards)
    history = RunFolder(tmp_path / "r").load().history
    assert all(len(r["contributors"]) == 2 and not r["failed"] for r in history[1:])
    assert len({tuple(r["contributors"]) for r in history[1:]}) > 1


def test_a_board_reset_between_rounds_is_brought_back(tmp_path):
    """It loses head, samples and configuration, keeps its package, and is back with its next round."""
    need_board("qemu_m4")
    boards = boot_fleet("qemu_m4", 2)
    try:

        def reset(text):
            if text.startswith("round 2"):
                boards[0].reset()

        run_with_boards(boards, None, tmp_path / "r", on_round=reset, run={"rounds": 5, "deadline_s": 20.0})
    finally:
        close_all(boards)
    history = RunFolder(tmp_path / "r").load().history
    assert "board-00" in history[-1]["contributors"]


def test_boards_with_heads_of_their_own_and_one_that_is_reset(tmp_path):
    """Half of the boards a round, coarse updates; a board that was reset starts from the package's head
    again."""
    need_board("native")
    boards = boot_fleet("native", 4)
    try:

        def reset(text):
            if text.startswith("round 5"):
                boards[1].reset()

        own = {"codec": "dz", "step": 4.0, "dither": 0.6}
        outcome = run_with_boards(
            boards,
            None,
            tmp_path / "r",
            on_round=reset,
            downlink=own,
            run={"rounds": 14, "participation": 0.5, "deadline_s": 20.0},
        )
    finally:
        close_all(boards)
    state = RunFolder(tmp_path / "r").load()
    assert outcome.summary["accuracy"] > outcome.summary["accuracy_before"] + 0.3
    assert "board-01" in [name for r in state.history[7:] for name in r["contributors"]]
    assert sum(len(r["failed"]) for r in state.history[1:]) <= 1
