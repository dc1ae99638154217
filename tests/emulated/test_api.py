"""The public API: `import quantfl` offers it, notebooks may call it, and the README's Python runs as it
stands.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest

import quantfl
from tests.support import DEMO_MODEL, ROOT, need_digits

pytestmark = pytest.mark.emulated
FLEET = {
    "run": {"rounds": 2},
    "model": {"path": str(DEMO_MODEL)},
    "fleet": {"emulate": "inproc", "boards": 3},
    "train": {"lr": 0.003, "momentum": 0.9},
}


def test_every_name_is_there_and_documented():
    for name in quantfl.__all__:
        assert getattr(quantfl, name).__doc__, name
        assert name in dir(quantfl)
    with pytest.raises(AttributeError):
        quantfl.nothing  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, quantfl; print(sorted(m for m in sys.modules if m in ('numpy', 'serial', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_federation_in_a_script_and_in_a_running_loop(tmp_path):
    need_digits()
    plain = quantfl.run(FLEET)

    async def notebook():
        return quantfl.run(FLEET, out=tmp_path / "run")

    inside = asyncio.run(notebook())
    assert [r["head"] for r in plain.history] == [r["head"] for r in inside.history]
    assert inside.accuracy == inside.history[-1]["accuracy"] and len(inside.history) == 3
    assert plain.history.curve("round") == [(0, 0), (1, 1), (2, 2)]
    more = quantfl.describe(FLEET)
    with pytest.raises(quantfl.RunError, match="already holds a run"):
        quantfl.run(more, out=tmp_path / "run")


def test_errors_come_out_of_a_running_loop():
    async def notebook():
        quantfl.run(FLEET | {"run": {"roundz": 2}})

    with pytest.raises(quantfl.UsageError, match="roundz"):
        asyncio.run(notebook())


def test_a_history_is_a_table():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    history = quantfl.History([{"round": 0, "accuracy": 0.5, "boards": {}}, {"round": 1, "accuracy": 0.75}])
    table = history.to_pandas()
    assert isinstance(table, pandas.DataFrame) and list(table["accuracy"]) == [0.5, 0.75]


def test_boards_of_ones_own():
    async def hello(url):
        device = quantfl.Device(url)
        try:
            await device.open()
            return await device.read_info()
        finally:
            await device.close()

    with quantfl.emulate(2, "inproc") as boards:
        assert all(b.alive for b in boards)
        infos = [asyncio.run(hello(b.url)) for b in boards]
    assert len({i.uid for i in infos}) == 2 and not any(b.alive for b in boards)
    assert isinstance(quantfl.discover(), list)


def test_a_package_is_made_and_opened(tmp_path):
    package = quantfl.convert(DEMO_MODEL, tmp_path / "p.tflite")
    assert (tmp_path / "p.tflite").read_bytes() == package.data and package.dims[-1] == 10
    with pytest.raises(quantfl.QuantflError):
        quantfl.convert(tmp_path / "absent.tflite")


def test_the_readme_python_runs(tmp_path, monkeypatch):
    need_digits()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 15
    monkeypatch.chdir(ROOT)
    exec(compile(code.replace("runs/readme", str(tmp_path / "run")), "README.md", "exec"), {})
