"""Traces: what was on the wire is in the file, in pcapng that others read."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.cli.main import main
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import RunError, UsageError
from quantfl.link import trace
from tests.support import DEMO_MODEL, ROOT


def traced_hello(path, *, push: bool = False):
    async def go():
        device = Device(boards[0].url, name="board-00")
        await device.open()
        await device.read_info()
        if push:
            from quantfl.package.convert import convert

            await device.push(convert(DEMO_MODEL).package)
        counters = device.counters()
        await device.close()
        return counters

    boards = boot_fleet("inproc", 1)
    try:
        with trace.tracing(path):
            return asyncio.run(go())
    finally:
        close_all(boards)


def test_every_byte_on_the_wire_is_in_the_trace(tmp_path):
    counters = traced_hello(tmp_path / "t.pcapng", push=True)
    frames = list(trace.read(tmp_path / "t.pcapng"))
    assert sum(f.bytes for f in frames if f.direction == trace.SENT) == counters.tx_bytes
    assert sum(f.bytes for f in frames if f.direction == trace.RECEIVED) == counters.rx_bytes
    assert [f.type for f in frames[:2]] == ["SYN", "SYNACK"]
    kinds = [f.kind for f in frames if f.kind]
    assert kinds[:2] == ["INFO", "INFO answer"] and "PUT_DATA" in kinds
    assert (
        sum(f.payload for f in frames if f.type == "DATA" and f.direction == trace.SENT)
        == counters.tx_payload
    )
    assert all(a.time <= b.time for a, b in itertools.pairwise(frames))


def test_the_command(tmp_path, capsys):
    traced_hello(tmp_path / "t.pcapng")
    assert main(["trace", str(tmp_path / "t.pcapng")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "SYN" in lines[0] and "→" in lines[0] and "inproc://" in lines[0] and "SYNACK" in lines[1]
    assert main(["trace", str(tmp_path / "t.pcapng"), "--type", "DATA", "--limit", "1", "--json"]) == 0
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert row["type"] == "DATA" and row["kind"] == "INFO" and row["direction"] == "sent"
    assert (
        main(["trace", str(tmp_path / "absent")]) == 2
        and main(["trace", str(tmp_path / "t.pcapng"), "--type", "X"]) == 2
    )
    (tmp_path / "no").write_bytes(b"nothing of the kind, but long enough")
    assert main(["trace", str(tmp_path / "no")]) == 2
    assert "no trace of quantfl" in capsys.readouterr().err


def test_noise_and_a_file_cut_off(tmp_path):
    path = tmp_path / "t.pcapng"
    writer = trace.TraceWriter(path)
    tap = writer.tap("socket://x:1")
    tap.take(trace.RECEIVED, b"rst:0x1 (POWERON_RESET),boot:0x13\r\n\0")
    tap.take(trace.SENT, bytes.fromhex("0205010709 01b2f307a8"))
    tap.take(trace.SENT, bytes.fromhex("00"))
    writer.close()
    noise, data = trace.read(path)
    assert noise.type == "noise" and "POWERON" in noise.detail and noise.direction == trace.RECEIVED
    assert data.type == "DATA" and data.fin and data.kind == "STATUS"
    whole = path.read_bytes()
    for cut in range(28, len(whole)):
        path.write_bytes(whole[:cut])
        assert len(list(trace.read(path))) <= 1 + (cut == len(whole))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_anything_can_be_decoded(piece):
    frame = trace.decode(0.0, "x", trace.SENT, piece, {})
    assert frame.bytes == len(piece) and frame.line(0.0) and "\n" not in frame.line(0.0)


def dissected(path, *fields: str) -> list[str]:
    """Lines of what Wireshark's command line says of a trace with our dissector."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (Debian: tshark)")
    script = ROOT / "tools" / "wireshark" / "quantfl.lua"
    more = [word for field in fields for word in ("-e", f"quantfl.{field}")]
    command = ["tshark", "-X", f"lua_script:{script}", "-r", str(path), "-T", "fields", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_wireshark_reads_every_frame(tmp_path):
    traced_hello(tmp_path / "t.pcapng")
    types = dissected(tmp_path / "t.pcapng", "type")
    assert types[:2] == ["2", "3"] and len(types) == len(list(trace.read(tmp_path / "t.pcapng")))


def test_blocks_by_the_draft(tmp_path):
    traced_hello(tmp_path / "t.pcapng")
    count = len(list(trace.read(tmp_path / "t.pcapng")))
    data, at, kinds = (tmp_path / "t.pcapng").read_bytes(), 0, []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0 and struct.unpack_from("<I", data, at + size - 4)[0] == size
        kinds.append(kind)
        at += size
    assert kinds[0] == 0x0A0D0D0A and kinds.count(6) == count and kinds.count(1) == 1


def test_a_trace_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--trace"), trace.tracing(tmp_path / "no" / "folder" / "t"):
        pass


def traced_words(path):
    writer = trace.TraceWriter(path)
    tap = writer.tap("x")
    tap.take(trace.SENT, documented("ACK 1, are you there?"))
    tap.take(trace.RECEIVED, documented("ACK 1, busy for at most 4000 ms"))
    tap.take(trace.RECEIVED, b"free heap: 81 KiB\r\n" + documented("ACK of it"))
    writer.close()
    return path


def test_words_of_acknowledgements_and_frames_behind_text(tmp_path):
    asks, busy, noise, ack = trace.read(traced_words(tmp_path / "t.pcapng"))
    assert (asks.type, asks.ack, asks.detail) == ("ACK", 1, "are you there?")
    assert busy.detail == "busy for at most 4000 ms"
    assert noise.type == "noise" and "free heap" in noise.detail and noise.bytes == 19
    assert (ack.type, ack.ack, ack.bytes) == ("ACK", 1, len(documented("ACK of it")))


def test_wireshark_tells_the_words_of_acknowledgements(tmp_path):
    assert " ".join(dissected(traced_words(tmp_path / "t.pcapng"), "word", "busy_ms")).split() == [
        "1",
        "2",
        "4000",
    ]


def documented(name: str) -> bytes:
    """A vector of docs/PROTOCOL.md."""
    lines = (ROOT / "docs" / "PROTOCOL.md").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(f"| {name} |"))
    return bytes.fromhex(line.split("`")[1].replace(" ", ""))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_trace_that_cannot_be_written_ends_nothing_else():
    done = []

    def traced() -> None:
        with trace.tracing(Path("/dev/full")):
            tap = trace.tap_of("socket://127.0.0.1:1")
            for _ in range(3):
                tap.take(trace.RECEIVED, b"\1\2\3\0")
            done.append(1)

    with pytest.raises(RunError, match="ends early") as error:
        traced()
    assert done and error.value.exit_code == 8 and "\n" not in str(error.value)
