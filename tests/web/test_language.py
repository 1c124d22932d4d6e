"""The interface speaks two languages, all of it."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import get_args

import pytest

import tidemill.web
from tidemill.bench import Budget, Status, Verdict
from tidemill.bench.store import OutcomeKind, RunKind, RunState
from tidemill.web.language import catalogue, negotiate
from tidemill.web.running import CHOICES

FOLDER = Path(tidemill.web.__file__).parent
ZH, EN = catalogue("zh"), catalogue("en")
FAMILIES = {
    "status": [str(status) for status in Status],
    "verdict": [*map(str, Verdict), "none"],
    "budget": [str(budget) for budget in Budget],
    "state": [str(state) for state in RunState],
    "kind": list(get_args(RunKind)),
    "outcome": [*get_args(OutcomeKind), "running"],
    "what": list(CHOICES),
    "machine": ["cpu", "cores", "memory", "kernel", "compiler", "native_level", "python", "code"],
    "board": ["status", "verdict", "system"],
    "about": [*(str(status) for status in Status), *map(str, Verdict)],
    "claims": ["statement", "paper", "here", "status", "holds", "how", "target"],
}
"""Keys that are put together where they are used: family, then every member there is."""


def test_both_catalogues_have_the_same_keys_and_none_is_empty() -> None:
    assert set(ZH.entries) == set(EN.entries)
    for forms in (*ZH.entries.values(), *EN.entries.values()):
        assert all(form.strip() for form in forms)


def test_both_catalogues_fill_in_the_same_fields() -> None:
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, forms in EN.entries.items():
        wanted = {name for form in forms for name in fields(form)}
        assert wanted == {name for form in ZH.entries[key] for name in fields(form)}, key


def test_every_key_that_is_used_exists_and_every_key_is_used() -> None:
    templates = "".join(path.read_text() for path in FOLDER.glob("templates/*.html"))
    code = "".join(path.read_text() for path in FOLDER.glob("*.py"))
    used = set(re.findall(r"""\bt\(['"]([a-z_. +]+)['"]\s*[,)]""", templates + code))
    used |= set(re.findall(r"\('(nav\.[a-z]+)'", templates))
    used |= {f"refused.{key}" for key in re.findall(r'Refused\(\s*\w+, "(\w+)"', code)}
    used |= {f"refused.{key}" for key in re.findall(r'\d{3}: "(\w+)"', code)}
    used |= {"refused.home", "refused.back"}
    used |= {f"{family}.{member}" for family, members in FAMILIES.items() for member in members}
    assert used == set(EN.entries)


def test_each_language_is_written_in_its_own_script() -> None:
    han = re.compile("[\u4e00-\u9fff]")
    same = {key for key in EN.entries if EN.entries[key][0] == ZH.entries[key][0]}
    assert same == {"machine.python"}
    english_with_han = {key for key, forms in EN.entries.items() if han.search("".join(forms))}
    assert english_with_han == {"language.other"}


def test_the_plural_follows_the_number_in_english_only() -> None:
    assert EN("count", n=1, page=1, pages=1).startswith("1 article,")
    assert EN("count", n=65, page=1, pages=4) == "65 articles, page 1 of 4"
    assert ZH("count", n=65, page=1, pages=4) == "65 篇文章 1 / 4 页"


@pytest.mark.parametrize(
    ("cookie", "accept", "language"),
    [
        ("en", "zh-CN", "en"),
        ("xx", "zh-TW,zh;q=0.9", "zh"),
        (None, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        (None, "zh;q=0.4,en;q=0.8", "en"),
        (None, "fr-FR,fr;q=0.9,zh;q=0.2", "zh"),
        (None, "fr-FR,de", "en"),
        (None, "", "zh"),
        (None, "en;q=0,zh;q=0", "en"),
        (None, "en;q=high;;,,=,zh", "zh"),
    ],
)
def test_the_cookie_comes_before_what_the_browser_asks_for(
    cookie: str | None, accept: str, language: str
) -> None:
    assert negotiate(cookie, accept) == language
