"""The live page in a headless browser: a run from start to end, a board that dies, steering, reconnection,
1,000 boards, and what a screen reader needs.

Needs Playwright, and its Chromium or one of the system's (`chromium`); skipped with the reason where there is
none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from quantfl import emulate
from quantfl.fleet.steering import Steering
from quantfl.report.page.server import PageServer
from quantfl.report.page.state import FolderState
from tests.browser.page_state import filled
from tests.support import DEMO_MODEL, need_board, need_digits

pytest.importorskip("starlette", reason="Starlette is not installed (extra live)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra live)")
WAIT = 120_000  # ms: a busy machine is slow, and nothing here is about speed
SHOTS = os.environ.get("QUANTFL_SHOTS")  # a folder: screenshots are kept there


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with api.sync_playwright() as p:
        try:
            found = p.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium to test with: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(WAIT)
    yield page
    page.close()
    assert wrong == []


def shot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def row_of(page, name: str):
    return page.locator("#space [role=row]", has=page.get_by_role("button", name=name, exact=True))


@pytest.mark.emulated
def test_a_run_from_start_to_end(page, tmp_path):
    need_board("native")
    need_digits()
    with emulate(3, "native") as boards:
        description = tmp_path / "f.toml"
        tables = "".join(
            f'[[fleet.board]]\nname = "{b.name}"\nurl = "{b.url}"\nsamples = "{b.samples_url}"\n'
            for b in boards
        )
        description.write_text(
            f'[run]\nname = "kitchen"\nrounds = 60000\ndeadline_s = 5\n[model]\npath = "{DEMO_MODEL}"\n'
            f'[train]\nlr = 0.003\n[start]\nhow = "none"\n{tables}'
        )
        command = [sys.executable, "-m", "quantfl.cli.main", "run", str(description)]
        command += ["--out", str(tmp_path / "r"), "--live", "--page-port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            url = re.search(r"http://127.0.0.1:\d+/#token=\S+", process.stdout.readline())[0]
            page.goto(url)
            page.wait_for_selector("#linetext:text-is('live')")
            page.wait_for_selector("#rounds tr >> nth=5")  # rounds come in
            assert page.inner_text("#title") == "kitchen"
            shot(page, "overview")
            page.click("#tab-fleet")
            boards[1].kill()
            row_of(page, "board-01").locator("text=failed").wait_for()
            shot(page, "fleet")
            page.click("#tab-log")
            page.wait_for_selector("#entries li:has-text('board-01')")
            page.click("#pause")
            page.wait_for_selector("#phase:has-text('paused')")
            page.click("#pause")
            page.wait_for_selector("#phase:not(:has-text('paused'))")
            page.click("#tab-fleet")
            row_of(page, "board-01").get_by_role("button").click()
            page.wait_for_selector("#boardbytes tr:has-text('payload')")
            page.click("#exclude")
            row_of(page, "board-01").locator("text=excluded").wait_for()
            shot(page, "board")
            page.once("dialog", lambda dialog: dialog.accept())
            page.click("#stop")
            out, _ = process.communicate(timeout=WAIT / 1000)
            assert process.returncode == 130 and "go on with: quantfl run" in out
            page.wait_for_selector("#dot.away")
        finally:
            process.kill()
            process.communicate()
    state = FolderState(tmp_path / "r")
    assert any(r.get("excluded") == ["board-01"] for r in state.history)


def test_a_thousand_boards_are_rows_in_view_only(page):
    state = filled(1000)
    with PageServer(state, port=0) as server:
        page.goto(server.address)
        page.click("#tab-fleet")
        page.wait_for_selector("#count:text-is('1,000 boards')")
        assert page.locator("#space [role=row]").count() < 60
        assert page.get_attribute("#table", "aria-rowcount") == "1001"
        page.eval_on_selector("#rows", "e => { e.scrollTop = e.scrollHeight; }")
        row_of(page, "board-0999").wait_for()
        state.board("board-0999", state="failed", reason="unplugged")
        row_of(page, "board-0999").locator("text=failed").wait_for()
        page.fill("#find", "failed")
        page.wait_for_selector("#count:text-is('1 of 1,000 boards')")
        shot(page, "thousand")
        # However often the state changes, the page is told at most four times a second.
        page.evaluate("() => { window.told = 0; const t = take; take = (c) => { window.told++; t(c); }; }")
        for i in range(2000):
            state.board(f"board-{i % 1000:04d}", seconds=0.1 * i)
        page.fill("#find", "board-0007")
        row_of(page, "board-0007").locator("text=100.70").wait_for()
        assert page.evaluate("() => window.told") < 40


def test_the_page_reconnects_after_the_server_was_away(page):
    state = filled(3)
    server = PageServer(state, port=0).start()
    page.goto(server.address)
    page.wait_for_selector("#linetext:text-is('live')")
    server.stop()
    page.wait_for_selector("#dot.away")
    state.board("board-late", state="ready")
    with PageServer(state, port=server.port):
        page.wait_for_selector("#linetext:text-is('live')")
        page.click("#tab-fleet")
        page.wait_for_selector("#count:text-is('4 boards')")


@pytest.mark.parametrize(("host", "with_token"), [("127.0.0.1", set()), ("0.0.0.0", {"/events"})])
def test_the_token_is_in_a_url_only_where_reading_needs_it(page, host, with_token):
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    steering = Steering()
    with PageServer(filled(2), host=host, port=0, steering=steering) as server:
        page.goto(server.url.replace(host, "127.0.0.1"))
        page.wait_for_selector("#linetext:text-is('live')")
        page.click("#tab-ledger")
        page.wait_for_selector("#ledgerhint:has-text('after the first round')")
        page.click("#pause")
        page.wait_for_selector("#phase:has-text('paused')")
        assert steering.paused
    sent = [u.partition("#")[0] for u in urls]  # what stands behind # stays in the browser
    assert {re.sub(r"^http://[^/]+|\?.*$", "", u) for u in sent if server.token in u} == with_token


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page.set_viewport_size({"width": width, "height": 740})
    page.emulate_media(color_scheme=scheme)
    with PageServer(filled(20), port=0, steering=Steering()) as server:
        page.goto(server.url)
        page.wait_for_selector("#rounds tr")
        for tab in ("overview", "fleet", "ledger", "log"):
            page.click(f"#tab-{tab}")
            if tab == "fleet":
                row_of(page, "board-0001").get_by_role("button").click()
                page.wait_for_selector("#boardname:text-is('board-0001')")
            found = [
                v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")
            ]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            shot(page, f"{tab}-{scheme}-{width}")
        assert page.inner_text("#title") == "filled <b>&amp;</b>"  # never taken for HTML
        assert "<script>" in page.inner_text("#entries")


def test_everything_can_be_reached_by_keys(page):
    with PageServer(filled(20), port=0, steering=Steering()) as server:
        page.goto(server.url)
        page.wait_for_selector("#rounds tr")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.className") == "skip"
        page.focus("#tab-overview")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("() => document.activeElement.id") == "tab-fleet" and page.is_visible("#table")
        page.get_by_role("button", name="board-0002", exact=True).focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#boardname:text-is('board-0002')")
        assert page.evaluate("() => document.activeElement.id") == "boardname"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Close
        assert page.is_hidden("#board")
        assert page.evaluate("() => document.activeElement.dataset.board") == "board-0002"
