"""A page saved from a browser: what a reader saw, and nothing of what he did not."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_builders import ABSTRACT, one

from tidemill.feed.entry import Refusal
from tidemill.feed.formats import parse
from tidemill.feed.formats.digest_page import lines_of, parse_page
from tidemill.feed.formats.saved_html import html_lines
from tidemill.feed.raw import RawEntry

FRAME = (
    "<!doctype html><html><head><title>{}</title><style>p{{}}</style></head><body>{}</body></html>"
)


def seen(html: str) -> list[str]:
    return [line.text for line in html_lines(html) if line.text]


def told(found: RawEntry | Refusal) -> dict[str, object]:
    assert isinstance(found, RawEntry)
    return found.to_json()


def entry(title: str = "A Title", dated: str = "arXiv 2026-06-23", abstract: str = ABSTRACT) -> str:
    return f"<article><h2>{title}</h2><p><span>{dated}</span></p><p>{abstract}</p></article>"


def test_the_seed_saved_as_html_reads_like_its_text(seed: Path) -> None:
    text = seed.read_text(encoding="utf-8")
    blocks = [f"<div>{escape(line)}</div>" for line in text.split("\n") if line]
    saved = parse(FRAME.format("每日文章", "\n".join(blocks)).encode())
    page = parse_page(lines_of(text))
    assert page is not None
    assert [told(found) for found in saved] == [told(found) for found in page.found]


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("<p>a<p>b", ["a", "b"]),
        ("a<br>b<BR/>c", ["a", "b", "c"]),
        ("<p>a <b>b</b>\n <i>c</i></p>", ["a b c"]),
        ("<p>1 &lt; 2 &amp;&#x4e2d;&nbsp;x</p>", ["1 < 2 &中 x"]),
        ("<p>a</p><script>if (a<b) alert('<p>no</p>')</script><p>b", ["a", "b"]),
        (
            "<p>a</p><style>p{}</style><noscript>no</noscript><template>no</template><p>b",
            ["a", "b"],
        ),
        ("<p>a</p><svg><svg></svg><text>no</text></svg><p>b", ["a", "b"]),
        ("<p>a<!-- <p>no</p> -->b</p>", ["ab"]),
        ("<p title='a>b'>x</p><p title=\"it's\">y</p>", ["x", "y"]),
        ("<p>a<span aria-hidden=true>no<span>no</span></span>b<img aria-hidden='true'>c", ["abc"]),
        ("<table><tr><td>a<td>b</table>", ["a", "b"]),
        ("x < y and 1<2", ["x < y and 1<2"]),
        ("<p>a</p", ["a"]),
        ("<p>a<b title='never closed", ["a"]),
        ("<p>a<!-- never closed", ["a"]),
        ("<textarea>no", []),
        ("", []),
    ],
)
def test_blocks_are_lines_and_what_is_not_seen_is_left_out(html: str, lines: list[str]) -> None:
    assert seen(html) == lines


def test_rendered_katex_turns_back_into_its_latex() -> None:
    tex = '<annotation encoding="application/x-tex">10.4\\times</annotation>'
    html = (
        '<p>is <span class="katex"><span class="katex-mathml"><math><semantics><mn>10.4</mn>'
        f'{tex}</semantics></math></span><span class="katex-html" aria-hidden="true">'
        "<span>10.4</span>×</span></span> fast</p>"
    )
    assert seen(html) == [r"is \(10.4\times\) fast"]
    assert seen("<p><math><mn>10.4</mn><mo>&times;</mo></math> fast</p>") == ["10.4× fast"]
    other = '<math><mi>x</mi><annotation encoding="text/plain">no</annotation></math>'
    assert seen(f"<p>{other}</p>") == ["xno"]


def test_addresses_behind_title_and_abstract_give_identity_and_links() -> None:
    linked = entry(
        '<a href="https://arxiv.org/abs/2606.24417v2">A Title</a>',
        abstract=f'{ABSTRACT} <a href="https://code.example/x?a=1&amp;b=2">code</a>',
    )
    found = one(FRAME.format("", linked))
    assert (found.id, found.version) == ("arxiv:2606.24417", 2)
    assert found.links == ("https://code.example/x?a=1&b=2",)
    around = entry().replace("<h2>", '<a href="https://arxiv.org/abs/2606.24417"><h2>')
    assert one(f"<html>{around.replace('</h2>', '</h2></a>')}").id == "arxiv:2606.24417"


def test_an_address_of_one_entry_is_not_that_of_the_next() -> None:
    html = FRAME.format(
        "",
        entry("First", abstract=f'{ABSTRACT}<a href="https://arxiv.org/abs/2606.00001"><img></a>')
        + entry("Second"),
    )
    assert not [found for found in map(told, parse(html.encode())) if "arxiv_id" in found]


def test_an_xhtml_page_is_a_page_and_not_xml() -> None:
    head = (
        '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x"><html>'
    )
    assert one(f"{head}<body>{entry()}</body></html>").title == "A Title"


@pytest.mark.parametrize(
    "bomb",
    [
        "<", "<!--", "<a ", "<!", "</", "<a b='", "&#", "<?", "<![CDATA[", "<script>", "</script",
        "<a x=", "<a b=\"'", "x<br>", "<math>", "<svg>", "<div>", "<a " + "x" * 50, "<a href=q>x",
        "= '",
    ],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_hostile_markup_takes_time_linear_in_its_length(bomb: str) -> None:
    # the standard library's html.parser would need hours for some of these
    assert len(html_lines("<p>" + bomb * 30_000)) <= 30_001


@given(st.text(st.sampled_from("<>/!-='\"& abpx\n"), max_size=80))
def test_no_markup_is_too_strange_to_be_read(html: str) -> None:
    assert all(line.text == " ".join(line.text.split()) for line in html_lines(html))
