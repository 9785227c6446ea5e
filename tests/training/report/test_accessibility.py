"""The report in a browser: usable by keyboard and screen reader, on a screen and on a phone, with nothing loaded."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.report_inputs import JUDGED, complete, forecast_case, forecast_only, inputs_of
from training.report.contents import ReportInputs
from training.report.page import render

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def middling(case: dict[str, Any]) -> ReportInputs:
    """A published model with a good order and bad probabilities: the amber verdict."""
    sharp = case["probabilities"] ** 12
    published = dataclasses.replace(JUDGED, reasons=())
    return inputs_of(case | {"probabilities": sharp / sharp.sum(axis=1, keepdims=True)}, verdict=published)


REPORTS: dict[str, Callable[[dict[str, Any]], ReportInputs]] = {
    "complete": complete,
    "forecast only": forecast_only,
    "mixed verdict": middling,
    "model ahead": lambda case: inputs_of(case, verdict=dataclasses.replace(JUDGED, reasons=())),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser a process, with a profile of its own."""
    with sync_api.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module", params=REPORTS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(REPORTS[request.param](forecast_case(n=600))), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_no_fault(browser: Any, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.as_uri())
    loaded = [url for url in requests if not url.startswith("data:")]
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    violations = axe.Axe().run(page).response["violations"]
    page.close()
    assert [f"{v['id']}: {node['html'][:200]}" for v in violations for node in v["nodes"]] == []
    assert overflow == 0
    assert loaded == [report.as_uri()]
    assert errors == []


def test_wide_tables_scroll_by_keyboard(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(report.as_uri())
    regions = page.locator(".scroll")
    names = [regions.nth(k).get_attribute("aria-label") for k in range(regions.count())]
    assert len(set(names)) == len(names)
    widest = regions.nth(
        regions.evaluate_all("all => all.map(x => x.scrollWidth).reduce((m, w, i, l) => w > l[m] ? i : m, 0)")
    )
    widest.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("x => x.scrollLeft > 0", arg=widest.element_handle())
    page.close()
