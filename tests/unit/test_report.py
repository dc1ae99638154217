"""Reports and comparisons: one file each, nothing loaded, the figures those of the run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantfl.cli.main import main
from quantfl.fleet.checkpoint import RunFolder
from quantfl.report.runs import read
from quantfl.report.svg import Curve, lines, matrix, powers, round_steps
from quantfl.report.words import scheme_in_words
from tests.support import demo_config, demo_toml


class Page(HTMLParser):
    """Checks that tags close in order; keeps text and what would be loaded."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.text, self.loaded = "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.loaded += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "path", "br", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    base = tmp_path_factory.mktemp("report")
    ours = demo_toml(base / "a.toml", emulate="inproc", boards=3, rounds=4)
    text = ours.read_text().replace('name = "t"', 'name = "<b>buckets"') + '[uplink]\ncodec = "bu"\n'
    text = text.replace("<b>buckets", "buckets") + '[downlink]\ncodec = "fp32"\n'
    (base / "b.toml").write_text(text)
    for name in ("a", "b"):
        assert main(["run", str(base / f"{name}.toml"), "--out", str(base / name)]) == 0
    return base / "a", base / "b"


def test_a_report_is_one_file_and_tells_the_run_s_figures(two, tmp_path):
    out = tmp_path / "r.html"
    assert main(["report", str(two[0]), "--html", str(out)]) == 0
    page = Page(out.read_text())
    assert page.loaded == []
    assert "url(" not in out.read_text() and "@import" not in out.read_text()
    summary = json.loads((two[0] / "summary.json").read_text())
    ledger = summary["ledger"]
    for figure in (
        f"{summary['accuracy']:.4f}",
        f"{ledger['up_total'] + ledger['down_total']:,}",
        f"{ledger['boards']['board-01']['down_total']:,}",
        summary["package_sha256"],
        "default codec",
        'emulate = "inproc"',
    ):
        assert figure in page.text, figure
    cell = r"<td>([\d.]+)</td>"
    rows = re.findall(rf'<tr><th scope="row">(\d)</th>{cell}{cell}{cell}</tr>', out.read_text())
    assert [r[0] for r in rows] == list("0123456789")
    assert sum(int(r[1]) for r in rows) == summary["test_samples"]
    right = sum(int(n) * float(after) for _, n, _, after in rows) / summary["test_samples"]
    assert right == pytest.approx(summary["accuracy"], abs=1e-3)  # classes and run agree


def test_a_report_of_a_run_whose_data_is_gone_says_so(two, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(two[0], copy)
    folder = RunFolder(copy)
    state = folder.load()
    state.config["data"]["name"] = "npz:/nowhere/mine.npz"
    folder.save(state)
    out = tmp_path / "r.html"
    assert main(["report", str(copy), "--html", str(out)]) == 0
    assert "Not shown: /nowhere/mine.npz: no such file" in Page(out.read_text()).text


def test_a_comparison(two, tmp_path, capsys):
    out = tmp_path / "c.html"
    assert main(["compare", *map(str, two), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["exchange"] for r in rows] == ["default codec", "64 buckets up, float32 down"]
    assert rows[0]["bytes_per_link"] * 3 < rows[1]["bytes_per_link"]
    assert all(r["bytes_to_target"] <= r["bytes_per_link"] for r in rows)
    assert main(["compare", *map(str, two), "--html", str(out), "--target", "1.0"]) == 0
    assert "not reached" in capsys.readouterr().out
    page = Page(out.read_text())
    assert page.loaded == [] and page.text.count("buckets") >= 4
    assert main(["compare", str(two[0]), str(two[0]), "--json"]) == 0
    assert main(["compare", str(tmp_path)]) == 8


def test_bytes_to_an_accuracy(two):
    run = read(two[0])
    curve = run.curve("accuracy", by_bytes=True)
    assert curve[0][0] == 0 and run.bytes_to(curve[0][1]) == 0 and run.bytes_to(1.1) is None
    best = max(a for _, a in curve)
    assert run.bytes_to(best) == next(b for b, a in curve if a == best)


def test_schemes_in_words():
    cases = [
        ({}, {}, "default codec"),
        ({"codec": "fp32"}, {"codec": "fp32"}, "float32 both ways"),
        ({"codec": "bu", "levels": 16}, {"codec": "fp32"}, "16 buckets up, float32 down"),
        ({"step": 4.0}, {}, "dead zone, step 4 up, default codec down"),
    ]
    for up, down, due in cases:
        assert scheme_in_words(demo_config(uplink=up, downlink=down).model_dump(mode="json")) == due


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
@example(879609.9999999999, 1e-06)
@settings(max_examples=500, deadline=None)
def test_ticks_are_round_and_inside(low, spread):
    high = low + spread
    ticks = round_steps(low, high)
    assert len(ticks) <= 7
    near = 1e-6 * spread + 4 * np.spacing(max(abs(low), abs(high)))  # what rounding may miss them by
    assert all(low - near <= t <= high + near for t in ticks) or not high > low


def test_ticks_of_a_logarithmic_axis():
    assert powers(30, 20_000) == [100.0, 1000.0, 10_000.0]
    assert len(powers(30, 90)) > 1


def test_charts_bear_anything():
    for points in ([], [(0.0, 1.0)], [(1.0, float("nan")), (2.0, 3.0)], [(-1.0, 2.0), (0.0, 2.0)]):
        for log_x in (False, True):
            Page(lines([Curve("a <b>", points)], title="t & u", x="x", y="y", log_x=log_x))
    band = lines([Curve("a", [(1, 1), (2, 2)], [(1, 0, 2), (2, 1, 3)])], title="t", x="x", y="y")
    assert 'class="band b0"' in band
    Page(matrix(np.eye(3, dtype=int).tolist(), ["<i>", "b", "c"], title="m"))
