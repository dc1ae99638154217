"""The golden vectors of tests/vectors/codec.txt: in Python, in C under sanitizers, and in a decoder written
from docs/CODEC.md."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess

import numpy as np
import pytest

from quantfl.core.codec import Codec, CodecError, Form, decode, dz_quantise, dz_read, dz_value, dz_write
from tests.support import ROOT

FILE = ROOT / "tests" / "vectors" / "codec.txt"
LINES = [line.split(";") for line in FILE.read_text().splitlines() if not line.startswith("#")]
KINDS = {0: "fp32", 1: "bu", 2: "dz", 3: "bq"}


def floats(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), "<f4").astype(np.float32)


@pytest.mark.parametrize("fields", LINES, ids=[f[0] for f in LINES])
def test_python_makes_and_reads_the_vectors(fields):
    _, how, tensors, x, data, y = fields
    layout, data = tuple(int(n) for n in tensors.split(",")), bytes.fromhex(data)
    kind, *numbers = how.split()
    a, b, c = map(int, numbers)
    if kind == "spec":
        codec = Codec(
            KINDS[a], c or 64, bool(b & 0x10), bool(b & 0x20), c / 16 if a == 2 else 4.0, bool(b & 0x40)
        )
        assert codec.fields == (a, b, c) and codec.encode(floats(x), layout) == data
        agreed = 0
    else:
        form, agreed = Form(a, bool(b), c), a
        assert dz_write(dz_quantise(floats(x), a), form, layout) == data
        assert dz_read(data, layout, agreed)[1] == form
    assert decode(data, layout, agreed).tobytes() == floats(y).tobytes()
    with pytest.raises(CodecError):
        decode(data + b"\0", layout, agreed)


def test_c_makes_and_reads_the_vectors(tmp_path):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("neither gcc nor clang is installed")
    lib, program = ROOT / "firmware" / "lib", tmp_path / "vectors"
    command = [
        compiler,
        "-std=c11",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffp-contract=off",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-I{lib / 'qfl_codec' / 'include'}",
        f"-I{lib / 'qfl_base' / 'include'}",
        str(ROOT / "tests" / "c" / "vectors.c"),
        *map(str, (lib / "qfl_codec" / "src").glob("*.c")),
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find -lasan" in done.stderr or "libclang_rt" in done.stderr:
        pytest.skip("the compiler has no sanitizer runtime")
    assert done.returncode == 0, done.stderr
    run = subprocess.run([str(program), str(FILE)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{len(LINES)}\n", "")


# A decoder from docs/CODEC.md alone: no code is shared with the library.


class Bit:
    def __init__(self, p: int):
        self.p, self.n = p, 0


class Range:
    def __init__(self, data: bytes):
        self.data, self.at, self.range, self.code = data, 0, 0xFFFFFFFF, 0
        for _ in range(4):
            self.code = self.code << 8 | self.next()

    def next(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def shift(self) -> None:
        while self.range < 1 << 24:
            self.range = self.range << 8 & 0xFFFFFFFF
            self.code = (self.code << 8 | self.next()) & 0xFFFFFFFF

    def bit(self, b: Bit) -> int:
        split = (self.range >> 12) * (b.p >> 4)
        one = self.code >= split
        if one:
            self.code, self.range = self.code - split, self.range - split
        else:
            self.range = split
        rate = 1 + (b.n + 1) // 2
        if rate > 6:
            rate = 6
        else:
            b.n += 1
        b.p = b.p - (b.p >> rate) if one else b.p + (65535 - b.p >> rate)
        self.shift()
        return int(one)

    def raw(self) -> int:
        self.range >>= 1
        one = self.code >= self.range
        if one:
            self.code -= self.range
        self.shift()
        return int(one)


def by_the_book_dz(data: bytes, tensors: tuple[int, ...], agreed: int) -> list[float]:
    if len(data) == 1:
        return [0.0] * sum(tensors)
    code, body = (agreed, data[1:]) if data[0] & 15 == 4 else (data[1], data[2:])
    step = (4 + code % 4) * 2.0 ** (code // 4 - 40)
    d = Range(body)
    block = [Bit(p) for p in (57000, 41000, 45000, 29000, 49000, 33000, 29000, 13000)]
    starts = (
        57000,
        49000,
        49000,
        40000,
        55000,
        48000,
        48000,
        42000,
        55000,
        48000,
        48000,
        42000,
        50000,
        41000,
        41000,
        34000,
    )
    zero = [[Bit(p) for p in starts] for _ in range(2)]
    sign = [Bit(44000), Bit(52000), Bit(28000)]
    more = [[Bit(60000), Bit(54000)], [Bit(56000), Bit(48000)]]
    golomb = [Bit(32768) for _ in range(24)]
    out: list[float] = []
    for t, size in enumerate(tensors):
        row = tensors[t + 1] if t % 2 == 0 and t + 1 < len(tensors) and size % tensors[t + 1] == 0 else size
        columns: dict[int, list[int]] = {}  # symbols so far, by place modulo 256
        blocks: dict[int, list[int]] = {}
        s: list[int] = []
        for _ in range(size // row):
            here: list[int] = []
            flag = 0
            for at in range(0, row, 16):
                n, left = min(16, row - at), flag
                if row != size:
                    above = blocks.setdefault(at % 256, [0, 1])
                    flag = d.bit(block[left + 2 * above[-1] + 4 * above[-2]])
                    above.append(flag)
                for i in range(n):
                    up = [0, 0, *columns.setdefault((at + i) % 256, [])] if row != size else [0, 0]
                    near = [v != 0 for v in (up[-1], up[-2], *([0, 0, *here])[:-3:-1])]
                    symbol = 0
                    implied = row != size and i == n - 1 and not any(here[at:])
                    if (flag or row == size) and (
                        implied or d.bit(zero[t % 2][sum(v << k for k, v in enumerate(near))])
                    ):
                        last = next((v for v in reversed(up) if v != 0), 0)
                        negative = d.bit(sign[0 if last == 0 else 1 if last > 0 else 2])
                        units, magnitude = more[int(sum(near) > 1)], 1
                        while magnitude < 3 and d.bit(units[magnitude - 1]):
                            magnitude += 1
                        if magnitude == 3:
                            bits, v = 0, 1
                            while d.bit(golomb[bits]):
                                bits += 1
                            for _ in range(bits):
                                v = v << 1 | d.raw()
                            magnitude = 2 + v
                        symbol = -magnitude if negative else magnitude
                    here.append(symbol)
                    columns.setdefault((at + i) % 256, []).append(symbol)
            s += here
        out += [v * step for v in s]
    return out


def by_the_book_buckets(data: bytes, tensors: tuple[int, ...]) -> list[np.float32]:
    f32 = np.float32
    kind, per_tensor, means, coded, levels = (
        data[0] & 15,
        data[0] & 0x10,
        data[0] & 0x20,
        data[0] & 0x40,
        1 << data[1],
    )
    at, out = 2, []
    sizes = tensors if per_tensor else (sum(tensors),)
    for number, size in enumerate(sizes):
        lo, hi = (f32(v) for v in struct.unpack_from("<ff", data, at))
        at += 8
        if lo == hi:
            out += [lo] * size
            continue
        count = levels if means else levels - 1 if kind == 3 else 0
        table = [f32(v) for v in struct.unpack_from(f"<{count}f", data, at)]
        at += 4 * count
        if means:
            values = table
        elif kind == 3:
            edges = [lo, *table, hi]
            values = [a + (b - a) * f32(0.5) for a, b in itertools.pairwise(edges)]
        else:
            values = [lo + (f32(i) + f32(0.5)) * ((hi - lo) / f32(levels)) for i in range(levels)]
        if coded:
            length = len(data) - at
            if number + 1 < len(sizes):
                length, at = int.from_bytes(data[at : at + 4], "little"), at + 4
            d, tree = Range(data[at : at + length]), [Bit(32768) for _ in range(levels)]
            at += length
            for _ in range(size):
                node = 1
                while node < levels:
                    node = node << 1 | d.bit(tree[node])
                out.append(values[node - levels])
        else:
            length = (size * data[1] + 7) // 8
            packed = int.from_bytes(data[at : at + length], "little")
            at += length
            out += [values[packed >> data[1] * i & levels - 1] for i in range(size)]
    assert at == len(data)
    return out


@pytest.mark.parametrize("fields", LINES, ids=[f[0] for f in LINES])
def test_a_decoder_written_from_the_page_reads_the_vectors(fields):
    _, how, tensors, _, data, y = fields
    layout, data = tuple(int(n) for n in tensors.split(",")), bytes.fromhex(data)
    if data[0] & 15 in (2, 4):
        agreed = int(how.split()[1]) if how.startswith("dz") else 0
        assert np.array(by_the_book_dz(data, layout, agreed), np.float32).tobytes() == floats(y).tobytes()
    elif data[0] & 15 == 0:
        assert data[1:] == bytes.fromhex(y)
    else:
        assert np.array(by_the_book_buckets(data, layout), np.float32).tobytes() == floats(y).tobytes()


def test_numbers_on_the_page_are_the_ones_used():
    """Initial probabilities and vectors printed in docs/CODEC.md."""
    page = " ".join((ROOT / "docs" / "CODEC.md").read_text().split())
    block = "57000, 41000, 45000, 29000, 49000, 33000, 29000, 13000"
    zero = (
        "57000, 49000, 49000, 40000, 55000, 48000, 48000, 42000, 55000, 48000, 48000, 42000, 50000, 41000, "
        "41000, 34000"
    )
    for text in (block, zero, "44000, 52000, 28000", "60000, 54000", "56000, 48000"):
        assert text in page
    shown = 0
    for fields in LINES:
        if f"`{fields[4]}`" in page:
            shown += 1
    assert shown >= 5
    assert dz_value(160) == 4.0
