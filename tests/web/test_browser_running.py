"""The Run button in a real browser, on a real server, with real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page
from site_process import SiteProcess
from tests.browser import PHONE, Window, chromium, serious, started

from tidemill.bench.store import Store
from tidemill.bench.wording import figure

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the path; set CHROMIUM to one"),
]
FIGURES = [0, -0.0, 1, 1234, 12345, -12345.6, 182_337.4, 2.3449, 1.8, 0.1 + 0.2, 0.00099999, 3.7e-5,
           -1e-5, 999_999.9, 123_456_789, 1e15, 2.5e17, -7]  # fmt: skip
THREE_MOVES = """new Promise((done) => {
    const seen = new Set();
    const bar = document.getElementById("bar");
    new MutationObserver(() => seen.add(bar.value).size >= 3 && done([...seen]))
        .observe(bar, { attributes: true });
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def window(browser: Browser, site: SiteProcess) -> Iterator[Callable[..., Window]]:
    windows: list[Window] = []

    def new(**options: object) -> Window:
        windows.append(Window(browser, site.url, **options))
        return windows[-1]

    yield new
    for one in windows:
        one.context.close()


def press_run(page: Page, **settings: str) -> str:
    """Fill in the form of the waterwheel and press Run; gives the run's id."""
    page.goto("/en/s/waterwheel")
    for name, value in settings.items():
        if name == "what":
            page.locator(f'input[value="{value}"]').check()
        else:
            page.locator(f"#f-{name}").fill(value)
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url("**/en/r/*")
    return page.url.rpartition("/")[2]


def state_is(page: Page, text: str) -> None:
    page.locator("#state", has_text=text).wait_for()


def points_of(page: Page) -> int:
    return len((page.locator("#curves polyline").get_attribute("points") or "").split())


def test_a_run_moves_survives_a_reload_and_lands_its_figures(
    window: Callable[..., Window], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    one = window()
    page = one.open("/en/")
    press_run(page, turns="24", seconds_per_turn="0.1", gate=str(gate), what="quick")
    moves = page.evaluate(THREE_MOVES)
    assert moves == sorted(moves)
    page.get_by_text("12 / 24 turns").wait_for()
    assert page.evaluate("(values) => values.map(round)", FIGURES) == [*map(figure, FIGURES)]
    points = points_of(page)
    assert points >= 3

    page.reload()
    assert points_of(page) >= points
    assert page.evaluate("document.getElementById('bar').value") == 0.5
    other = window(viewport=PHONE).open(page.url)
    assert points_of(other) >= points
    assert serious(page) == []
    assert other.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    gate.touch()
    for viewer in (page, other):
        state_is(viewer, "done")
        figures = viewer.locator("#results").inner_text().replace("\xa0", " ")
        assert "The wheel turned 24 times, forwards." in figures
        for value in ("2.31×", "2.12 – 2.50", "3%", "41 dB"):
            assert value in figures
        assert points_of(viewer) > points
    assert one.complaints == []
    assert serious(page) == []
    page.goto("/en/p/2606.00001")
    page.get_by_text("3 claims, none measured here yet").wait_for()  # at the default settings
    press_run(page, what="quick")
    state_is(page, "done")
    page.goto("/en/p/2606.00001")
    assert "system ✓ 1/3 claims hold here" in page.locator("body").inner_text()
    for summary in page.locator("summary").all():
        summary.click()
    assert serious(page) == []


def test_cancelling_ends_the_run_and_leaves_no_process(
    window: Callable[..., Window], site: SiteProcess, tmp_path: Path
) -> None:
    page = window().open("/en/")
    run_id = press_run(page, turns="1000", gate=str(tmp_path / "never"))
    page.locator("#curves polyline").wait_for(state="attached")
    store = Store(site.database)
    run = store.run(run_id)
    store.close()
    assert run is not None
    assert run.pid is not None
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    assert len(family) >= 2
    page.get_by_role("button", name="Cancel").click()
    state_is(page, "cancelled")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    page.get_by_role("link", name="Run again with these settings").click()
    assert page.locator("#f-turns").input_value() == "1000"


def test_an_open_page_goes_on_after_the_server_was_restarted(
    window: Callable[..., Window], site: SiteProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    page = window().open("/en/")
    press_run(page, turns="20", what="quick", gate=str(gate))
    page.get_by_text("10 / 20 turns").wait_for()
    site.stop()
    site.start()
    gate.touch()
    state_is(page, "done")
    assert "2.31×" in page.locator("#results").inner_text()


def test_a_mistake_in_the_form_is_said_where_it_was_made(
    window: Callable[..., Window], site: SiteProcess
) -> None:
    one = window(viewport=PHONE)
    page = one.open("/en/s/waterwheel")
    page.locator("#f-turns").fill("0")
    page.locator("#f-seconds_per_turn").fill("soon")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("turns=0 — must be in [1, 100000]").wait_for()
    wrong = page.locator('[aria-invalid="true"]')
    assert [wrong.nth(i).get_attribute("name") for i in range(wrong.count())] == [
        "turns",
        "seconds_per_turn",
    ]
    assert page.locator("#f-seconds_per_turn").input_value() == "soon"
    assert serious(page) == []
    page.locator(".language").click()
    page.wait_for_url("**/zh/s/waterwheel")


def test_the_first_system_runs_from_the_front_page(
    window: Callable[..., Window], site: SiteProcess
) -> None:
    page = window().open("/zh/")
    page.get_by_role("button", name="运行 cusbf").click()
    page.wait_for_url("**/zh/r/*")
    page.locator("#state", has_text="已完成").wait_for(timeout=60_000)
    assert page.locator(".headline").inner_text()
    assert page.locator(".facts dd").count() > 3
