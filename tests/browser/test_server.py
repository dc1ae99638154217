"""The live page without a browser: what its server answers, what its state says, and steering."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request

import pytest

from quantfl.cli.main import main
from quantfl.errors import RunError, UsageError
from quantfl.fleet.steering import Steering
from quantfl.link.ledger import Key, Ledger, Traffic
from quantfl.report.page.server import PageServer
from quantfl.report.page.state import FolderState, to_text
from tests.browser.page_state import filled
from tests.support import demo_toml, need_digits

pytest.importorskip("starlette", reason="Starlette is not installed (extra live)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra live)")


def asked(url: str, *, token: str | None = None, post: bool = False, host: str | None = None) -> int:
    request = urllib.request.Request(url, method="POST" if post else "GET")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_steering_needs_the_token_and_names_what_is_wrong():
    steering, state = Steering(), filled(2)
    with PageServer(state, port=0, steering=steering) as server:
        at = server.address
        assert asked(at) == 200 and asked(at + "assets/app.js") == 200
        assert asked(at + "assets/..%2fserver.py") == 404 and asked(at + "assets/none") == 404
        for token in (None, "", "wrong"):
            assert asked(at + "control/stop", token=token, post=True) == 401
        assert asked(at + f"control/stop?token={server.token}", post=True) == 401  # URLs are kept in logs
        assert not steering.stopping
        good = server.token
        assert asked(at + "control/pause", token=good, post=True) == 200 and steering.paused
        assert asked(at + "control/resume", token=good, post=True) == 200 and not steering.paused
        assert asked(at + "control/exclude?board=board-0001", token=good, post=True) == 200
        assert steering.excluded == {"board-0001"}
        assert asked(at + "control/exclude?board=nobody", token=good, post=True) == 400
        assert asked(at + "control/explode", token=good, post=True) == 400
        assert asked(at + "control/stop", token=good) == 405
        assert asked(at, host="evil.example") == 400  # a name of the internet that leads here
    with PageServer(state, port=0) as server:
        assert asked(server.address + "control/stop", token=server.token, post=True) == 409


def test_beyond_loopback_reading_needs_the_token_too():
    with PageServer(filled(2), host="0.0.0.0", port=0) as server:
        at = f"http://127.0.0.1:{server.port}/"
        assert asked(at + "traffic") == 401 and asked(at + "events") == 401
        assert asked(at + "traffic", token=server.token) == 200
        assert asked(at + "events", token=server.token) == 200
        assert asked(at + f"events?token={server.token}") == 200 and asked(at + "events?token=wrong") == 401
        assert asked(at + f"traffic?token={server.token}") == 401
        assert asked(at + f"control/stop?token={server.token}", post=True) == 401


def test_every_loopback_address_answers_to_its_own_name():
    try:
        server = PageServer(filled(1), host="127.0.0.2", port=0)
    except UsageError as error:  # a system with 127.0.0.1 alone
        pytest.skip(str(error))
    with server:
        assert server.address.startswith("http://127.0.0.2:")
        assert asked(server.address) == 200 and asked(server.address + "traffic") == 200
        assert asked(server.address, host="evil.example") == 400


def test_a_port_that_is_taken_is_one_line(capsys, tmp_path):
    with PageServer(filled(1), port=0) as server, pytest.raises(UsageError, match="choose another"):
        PageServer(filled(1), port=server.port)
    with pytest.raises(RunError, match="no run is in"):
        FolderState(tmp_path)
    assert main(["serve", str(tmp_path)]) == 8 and main(["watch", str(tmp_path)]) == 8
    assert capsys.readouterr().err.count("\n") == 2


def test_an_excluded_board_stays_out_and_too_many_cannot(tmp_path):
    steering = Steering()
    steering.exclude("a")
    steering.include("a")
    assert steering.excluded == frozenset()
    steering._most = 1
    steering.exclude("a")
    with pytest.raises(ValueError, match="min_boards"):
        steering.exclude("b")


def test_watch_shows_a_finished_run(capsys, tmp_path):
    need_digits()
    description = demo_toml(tmp_path / "f.toml", emulate="inproc", boards=3, rounds=3)
    assert main(["run", str(description), "--out", str(tmp_path / "r")]) == 0
    capsys.readouterr()
    assert main(["watch", str(tmp_path / "r"), "--once"]) == 0
    out = capsys.readouterr().out
    assert out.count("  round ") == 3 and "finished" in out and "board-02" in out
    state = FolderState(tmp_path / "r")
    everything = state.since(0)
    assert [r["round"] for r in everything["rounds"]] == [0, 1, 2, 3] and everything["run"]["ended"]
    assert state.since(everything["revision"])["boards"] == []
    moved = sum(b["up"] + b["down"] for b in everything["boards"])
    totals = state.history[-1]
    assert 0 < moved <= totals["up_bytes"] + totals["down_bytes"]
    assert set(state.bytes_of()["boards"]) == {"board-00", "board-01", "board-02"}


def test_two_pages_read_a_resumed_run_once(tmp_path):
    need_digits()
    folder = tmp_path / "r"
    description = demo_toml(tmp_path / "f.toml", emulate="inproc", boards=2, rounds=1)
    assert main(["run", str(description), "--out", str(folder)]) == 0
    state = FolderState(folder)
    assert state.since(0)["run"]["rounds_asked"] == 1 and state.since(0)["run"]["ended"]
    demo_toml(description, emulate="inproc", boards=2, rounds=3)
    assert main(["run", str(description), "--out", str(folder), "--resume"]) == 0
    both, load, replay = threading.Barrier(2), state.folder.load, state.replay

    def meet() -> None:
        """Let two threads that are in here at once go on together; one alone goes on a second later."""
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=1)

    def met_load():
        found = load()
        meet()
        return found

    def met_replay(record):
        meet()
        replay(record)

    state.folder.load, state.replay = met_load, met_replay
    pages = [threading.Thread(target=state.refresh) for _ in range(2)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    everything, alone = state.since(0), FolderState(folder).since(0)
    assert [r["round"] for r in everything["rounds"]] == [0, 1, 2, 3]
    moved = [{b["name"]: (b["up"], b["down"]) for b in found["boards"]} for found in (everything, alone)]
    assert moved[0] == moved[1]
    assert everything["run"]["rounds_asked"] == 3 and everything["run"]["ended"]


def test_a_page_gets_copies_of_the_facts_and_bytes_of_whole_rounds():
    state, ledger = filled(1), Ledger()
    before = state.since(0)["run"]
    state.set(phase="later")
    assert before["phase"] != "later" and state.since(0)["run"]["phase"] == "later"
    assert state.bytes_of()["boards"] == {}
    ledger.add(Key(1, "a", "up", "TRAIN"), Traffic(payload=5))
    state.follow(ledger, [])
    shown = state.bytes_of()
    at = shown["categories"].index("payload")
    assert shown["boards"]["a"]["up"][at] == 5
    ledger.add(Key(2, "a", "up", "TRAIN"), Traffic(payload=7))  # within a round: the page is told after it
    assert state.bytes_of() is shown and shown["boards"]["a"]["up"][at] == 5
    state._bytes_due = 0.0  # the pause after a count is over
    state.round_done({"round": 40})
    assert state.bytes_of()["boards"]["a"]["up"][at] == 12
    ledger.add(Key(3, "a", "up", "TRAIN"), Traffic(payload=1))
    state.end()
    assert state.bytes_of()["boards"]["a"]["up"][at] == 13 and state.since(0)["run"]["ended"]


def test_numbers_that_json_does_not_know_become_null():
    assert to_text({"a": [float("nan"), 1.5], "b": {"c": float("inf")}}) == '{"a":[null,1.5],"b":{"c":null}}'
