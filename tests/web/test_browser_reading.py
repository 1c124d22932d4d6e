"""Reading in a real browser: at a desk and on a phone, with and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from site_process import SiteProcess
from tests.browser import DESK, PHONE, Window, chromium, serious, started

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the path; set CHROMIUM to one"),
]
PAGES = (
    "/",
    "/c/systems",
    "/d/2026-06-23",
    "/p/2606.24417",
    "/p/2606.00001",
    "/s/waterwheel",
    "/claims",
    "/search?q=memory",
    "/about",
    "/nowhere",
)


FOCUSED = """(() => {
    const all = [...document.querySelectorAll("*")];
    const focused = document.activeElement;
    return [getComputedStyle(focused).outlineStyle, all.indexOf(focused)];
})()"""
"""How the outline of the focused element is drawn, and the element's place in the page."""

WORDS = """[...document.querySelectorAll("body *")]
    .filter((e) => !e.closest(SKIPPED) && !e.children.length)
    .map((e) => e.textContent.trim())
    .filter((text) => /[a-z\\u4e00-\\u9fff]/i.test(text))"""
"""The words of the interface: what stands in no element that matches SKIPPED."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    """One server for all tests of this file; none of them stops it."""
    process = SiteProcess(tmp_path_factory.mktemp("site"))
    process.start()
    yield process
    process.clear()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def window(browser: Browser, site: SiteProcess) -> Iterator[Callable[..., Window]]:
    """``window(**options)``; at the end no browser may have complained."""
    windows: list[Window] = []

    def new(**options: Any) -> Window:
        windows.append(Window(browser, site.url, **options))
        return windows[-1]

    yield new
    for one in windows:
        one.context.close()
    complaints = [text for one in windows for text in one.complaints]
    assert not [text for text in complaints if "404" not in text]


def seen(page: Page) -> str:
    return page.locator("body").inner_text()


def test_the_front_page_shows_math_and_links_not_their_source(
    window: Callable[..., Window],
) -> None:
    page = window().open("/")
    assert page.url.endswith("/zh/")
    text = seen(page)
    assert "每日文章" in text
    assert "20 篇文章 1 / 1 页" in text
    assert "\\(" not in text
    assert "10.4×" in "".join(text.split())
    link = page.locator('.abstract a[href*="LMSAdaptiveRegulator"]')
    assert link.count() == 1
    assert link.get_attribute("href") == "https://github.com/ss22ongithub/LMSAdaptiveRegulator"
    code = page.locator('.abstract a[href*="blockgtq"]')
    assert code.get_attribute("href") == "https://github.com/JIA-Lab-research/blockgtq"


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_page_scrolls_sideways_on_a_phone(window: Callable[..., Window], language: str) -> None:
    tab = window(viewport=PHONE).open(f"/{language}/")
    for path in PAGES:
        tab.goto(f"/{language}{path}")
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], path


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    window: Callable[..., Window], size: dict[str, int], scheme: str
) -> None:
    tab = window(viewport=size, color_scheme=scheme, reduced_motion="reduce").open("/zh/")
    for path in PAGES:
        tab.goto(f"/zh{path}" if size is PHONE else f"/en{path}")
        assert serious(tab) == [], path


def test_every_picture_has_a_size_and_arrives(window: Callable[..., Window]) -> None:
    tab = window().open("/zh/")
    for path in PAGES:
        tab.goto(f"/zh{path}")
        pictures = tab.evaluate(
            """Promise.all([...document.images].filter((i) => i.loading !== "lazy").map(
                 (i) => i.decode().then(() => [i.width, i.height, i.naturalWidth])))"""
        )
        assert all(all(numbers) for numbers in pictures), path


def test_the_keyboard_goes_through_the_page_in_its_order(window: Callable[..., Window]) -> None:
    tab = window().open("/en/s/waterwheel")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    visited: list[int] = []
    tab.keyboard.press("Tab")
    while tab.evaluate("document.activeElement !== document.body"):
        outline, place = tab.evaluate(FOCUSED)
        assert outline != "none"
        visited.append(place)
        tab.keyboard.press("Tab")
    assert len(visited) > 15
    assert visited == sorted(set(visited))


def test_the_skip_link_leads_past_the_masthead(window: Callable[..., Window]) -> None:
    tab = window().open("/en/")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('main') !== null")


def test_switching_the_language_changes_every_word_of_the_interface(
    window: Callable[..., Window],
) -> None:
    tab = window().open("/zh/p/2606.00001")
    before = set(tab.evaluate(WORDS.replace("SKIPPED", "'[lang=en], code, math'")))
    assert len(before) > 30
    tab.locator(".language").click()
    tab.wait_for_url("**/en/p/2606.00001")
    assert tab.evaluate("document.documentElement.lang") == "en"
    after = set(
        tab.evaluate(WORDS.replace("SKIPPED", "'[lang=zh-CN], .abstract, h1, q, code, math'"))
    )
    names = {"tidemill", "waterwheel", "BibTeX", "RIS", "JSON", "arXiv", "PDF"}
    assert {word for word in (before & after) - names if not word[0].isdigit()} == set()
    tab.goto("/")
    assert tab.url.endswith("/en/")


def test_without_javascript_one_can_read_turn_search_and_ask_for_a_run(
    window: Callable[..., Window],
) -> None:
    tab = window(java_script_enabled=False, locale="en-GB").open("/")
    tab.get_by_role("link", name="Search", exact=True).click()
    tab.get_by_role("searchbox").fill("minimizer")
    tab.get_by_role("searchbox").press("Enter")
    tab.get_by_role("link", name="cuSBF: A Minimizer").click()
    assert "Efficient genomic k-mer indexing" in seen(tab)
    tab.goto("/en/p/2606.00001")
    tab.get_by_role("button", name="Run waterwheel").click()
    tab.wait_for_url("**/en/r/*")
    tab.get_by_text("The wheel turned 12 times, forwards.").wait_for()  # it refreshes itself
    assert tab.locator("#state").inner_text() == "done"
    assert tab.locator(".copy:visible").count() == 0


def test_a_command_is_copied_by_its_button(window: Callable[..., Window]) -> None:
    one = window(permissions=["clipboard-read", "clipboard-write"])
    tab = one.open("/en/p/2606.24417")
    button = tab.get_by_role("button", name="Copy: Import")
    button.click()
    tab.get_by_text("Copied").wait_for()
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == "from tidemill.systems import cusbf"
