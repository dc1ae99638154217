"""The boards' self-test: up to date, and it notices a kernel that computes wrongly."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys

import cbor2
import pytest

from quantfl.core import ffi, lib
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import DeviceError
from tests.support import ROOT

NN = ROOT / "firmware" / "lib" / "qfl_nn"
MAIN = """
#include <stdio.h>
#include "qfl_nn_selftest.h"
static _Alignas(16) unsigned char mem[QFL_NN_SELFTEST_BYTES];
int main(void)
{
    uint32_t first, failed = qfl_nn_selftest(mem, &first);
    printf("%u %u\\n", (unsigned)failed, (unsigned)first);
    return 0;
}
"""
#: A fault in each kernel: file, what stands there, what a broken compiler, core or flash might make of it.
FAULTS = [
    ("qfl_nn_conv.c", "x0 + op->k_w <= op->in_w", "x0 + op->k_w <= op->in_w + 1"),
    ("qfl_nn_depthwise.c", "y >= 0 && y < op->in_h", "y >= 0 && y <= op->in_h"),
    ("qfl_nn_depthwise.c", "a3 += (int32_t)p[3] * w[3]", "a3 += (int32_t)p[3] * w[2]"),
    ("qfl_nn_pool.c", "sum > 0 ? (sum + count / 2)", "sum > 0 ? (sum + count / 2 + 1)"),
    ("qfl_nn_pool.c", "if (q[x * c] > m)", "if (q[x * c] > m + 20)"),
    ("qfl_nn_pool.c", "(int32_t)n * op->src_zero", "(int32_t)(n - 1) * op->src_zero"),
    ("qfl_nn_pool.c", "(y + op->pad_t) * out_row", "(y + op->pad_t + 1) * out_row"),
    ("qfl_nn_elementwise.c", "requantise(u + v,", "requantise(u + v + 65536,"),
    (
        "qfl_nn_elementwise.c",
        "requantise(x[i] - op->src_zero, op->extra[0]",
        "requantise(x[i] - op->src_zero + 1, op->extra[0]",
    ),
    ("qfl_nn_softmax.c", "bits = 12 - zeros", "bits = 13 - zeros"),
    ("qfl_nn_elementwise.c", "table = op_weights(a) + 128", "table = op_weights(a) + 127"),
    ("qfl_nn_elementwise.c", "(slope[k] - op->src2_zero)", "(slope[k] - op->src2_zero + 1)"),
    ("qfl_nn_elementwise.c", "(take(&y) - op->src2_zero);", "(take(&y) - op->src2_zero + 1);"),
    (
        "qfl_nn_move.c",
        "a->arena + (uint32_t)piece[i].bias + run * n, n",
        "a->arena + (uint32_t)piece[i].bias + run * (n - 1), n",
    ),
    ("qfl_nn_move.c", "run * n, src, n", "run * (n - 1), src, n"),
    ("qfl_nn_move.c", "p2 += stride[2]", "p2 += stride[2] - 1"),
    ("qfl_nn_move.c", "column[x]) * c", "column[x] + 1) * c"),
    ("qfl_nn_transpose_conv.c", "at < k ||", "at <= k ||"),
    ("qfl_nn_internal.h", "(1 << 30)) >> 31", "0) >> 31"),
    ("qfl_nn_internal.h", "return x < low ? low : x > high", "return x <= low ? low + 1 : x > high"),
]


def run(folder, changed: tuple[str, str, str] | None = None) -> tuple[int, int]:
    """Failed cases and the first of them, of the engine built from its sources with one line changed."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) on this machine")
    for path in (NN / "src").iterdir():
        text = path.read_text()
        if changed and path.name == changed[0]:
            assert changed[1] in text, f"{changed[0]} no longer holds {changed[1]!r}: choose another fault"
            text = text.replace(changed[1], changed[2])
        (folder / path.name).write_text(text)
    (folder / "main.c").write_text(MAIN)
    includes = [
        f"-I{NN / 'include'}",
        f"-I{ROOT / 'firmware' / 'lib' / 'qfl_base' / 'include'}",
        f"-I{folder}",
    ]
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-w", *includes, *map(str, folder.glob("*.c")), "-o", folder / "t"],
        check=True,
    )
    failed, first = subprocess.run([folder / "t"], capture_output=True, text=True, check=True).stdout.split()
    return int(failed), int(first)


def test_vectors_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "tools" / "selftest_vectors.py", "--check"])
    assert done.returncode == 0, "run tools/selftest_vectors.py"


def test_a_sound_engine_passes(tmp_path):
    assert run(tmp_path) == (0, 0)


@pytest.mark.parametrize("fault", FAULTS, ids=[re.sub(r"\W+", "-", f"{f[0]} {f[1]}")[:60] for f in FAULTS])
def test_a_fault_in_a_kernel_is_noticed(fault, tmp_path):
    failed, first = run(tmp_path, fault)
    assert failed > 0 and 1 <= first <= lib.qfl_nn_selftest_count()


def test_operators_left_out_are_not_linked_and_pass(tmp_path):
    run(tmp_path)
    includes = [
        f"-I{NN / 'include'}",
        f"-I{ROOT / 'firmware' / 'lib' / 'qfl_base' / 'include'}",
        f"-I{tmp_path}",
    ]
    flags = ["-DQFL_NN_OPS=0x608", "-ffunction-sections", "-Wl,--gc-sections"]  # dense, reshape, softmax
    sources = map(str, tmp_path.glob("*.c"))
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-w", *flags, *includes, *sources, "-o", tmp_path / "small"], check=True
    )
    assert subprocess.run(
        [tmp_path / "small"], capture_output=True, text=True, check=True
    ).stdout.split() == ["0", "0"]
    symbols = subprocess.run(["nm", tmp_path / "small"], capture_output=True, text=True, check=True).stdout
    assert (
        "qfl_nn_fully_connected" in symbols
        and "qfl_nn_conv" not in symbols
        and "qfl_nn_depthwise" not in symbols
    )


def test_cases_fit_their_memory():
    memory = ffi.new("uint8_t[]", lib.QFL_NN_SELFTEST_BYTES + 16)
    start = memory + -int(ffi.cast("uintptr_t", memory)) % 16
    assert all(lib.qfl_nn_selftest_hash(i, start) for i in range(lib.qfl_nn_selftest_count()))


def test_the_host_refuses_a_board_that_fails(monkeypatch):
    """A board whose INFO says so; and the command."""

    async def go() -> None:
        device = Device(boards[0].url, name="board-00")
        await device.open()
        cases, failed, first = await device.selftest()
        assert cases == lib.qfl_nn_selftest_count() and (failed, first) == (0, 0)
        request = device.session.request

        async def failing(kind, body=b"", **options):
            answer = await request(kind, body, **options)
            return type(answer)(
                **{**answer.__dict__, "body": cbor2.dumps(cbor2.loads(answer.body) | {"selftest": 7})}
            )

        monkeypatch.setattr(device.session, "request", failing)
        with pytest.raises(DeviceError, match=r"board-00 fails its self-test .kernel case 7."):
            await device.read_info()
        await device.close()

    boards = boot_fleet("inproc", 1)
    try:
        asyncio.run(go())
    finally:
        close_all(boards)
