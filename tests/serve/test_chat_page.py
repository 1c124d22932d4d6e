"""The page in a real Chromium: it streams, stops, and shows no HTML of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from test_api import NAME, Model, serving
from tests.browser import Window, chromium, serious, started

from tidemill.models import NativeDecoder, open_model
from tidemill.serve.api_keys import ApiKey

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the path; set CHROMIUM to one"),
]


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Iterator[Model]:
    with open_model(model_path(NAME)) as file:
        yield file, NativeDecoder(file, threads=2, context=512, kv_tokens=2048)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, model: Model) -> Iterator[Page]:
    with serving(model) as (address, _):
        window = Window(browser, address)
        yield window.open("/")
        assert [text for text in window.complaints if "status of 400" not in text] == []
        window.context.close()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_an_answer_streams_and_can_be_stopped(page: Page) -> None:
    expect(page.get_by_role("heading", name=NAME).first).to_be_visible()
    ask(page, "<b>Count</b> to a hundred: 1, 2, 3,")
    answer = page.locator("article.assistant p")
    expect(answer).not_to_have_text("")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.locator("article.user p").inner_text().startswith("<b>Count</b>")
    assert page.locator("main b").count() == 0


def test_a_finished_answer_says_how_fast_it_was(page: Page) -> None:
    page.route(
        "**/chat/completions",
        lambda route: route.continue_(
            post_data=(route.request.post_data or "").replace(
                '"stream":true', '"stream":true,"max_tokens":5'
            )
        ),
    )
    ask(page, "Hello")
    expect(page.get_by_role("status")).to_contain_text("tokens")
    assert serious(page) == []


def test_a_refusal_is_shown_and_the_question_taken_back(page: Page) -> None:
    ask(page, "long " * 2000)
    expect(page.get_by_role("status")).to_contain_text("leaves no room in a context of 512")


def test_the_page_takes_nothing_from_elsewhere_and_needs_no_key(model: Model) -> None:
    with serving(model, api_keys=(ApiKey("secret"),)) as (address, _):
        answer = httpx.get(address)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "http" not in answer.text
