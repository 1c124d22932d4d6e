"""Foreign text becomes safe HTML: math is math, prices are prices, and nothing runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.feed.formats import parse
from tidemill.feed.markup import MARK, UNMARK, mathml, render, render_snippet
from tidemill.feed.raw import RawEntry
from tidemill.feed.spans import Address, Math, Prose, spans
from tidemill.feed.text import clean

TAGS = {
    "a", "code", "mark", "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover",
    "mpadded", "mphantom", "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle",
    "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
FORBIDDEN = {"style", "class", "id", "src", "srcset", "action", "xlink:href", "formaction"}


class Reader(HTMLParser):
    """What a browser would make of it: text, elements, addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        given_attributes = dict(attrs)
        assert not {name for name in given_attributes if name.startswith("on")}
        assert not FORBIDDEN & given_attributes.keys()
        if "href" in given_attributes:
            assert tag == "a"
            assert given_attributes["rel"] == "nofollow noopener"
            self.links.append(given_attributes["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment got through: {data}")

    def handle_decl(self, decl: str) -> None:
        pytest.fail(f"a declaration got through: {decl}")

    def handle_pi(self, data: str) -> None:
        pytest.fail(f"an instruction got through: {data}")


def read(html: str) -> Reader:
    """Parse it and check that nothing but the allowed is in it."""
    reader = Reader(html)
    assert set(reader.tags) <= TAGS
    assert not reader.open
    assert all(urlsplit(link).scheme in ("http", "https") for link in reader.links)
    return reader


def kinds(text: str) -> list[str]:
    """The math in a text, and nothing else."""
    return [part.tex for part in spans(text) if isinstance(part, Math)]


def test_no_delimiter_of_the_seed_is_left_and_its_links_work(seed: Path) -> None:
    found = {e.title[:8]: e for e in parse(seed.read_bytes()) if isinstance(e, RawEntry)}
    pages = {name: read(render(entry.abstract)) for name, entry in found.items()}
    assert len(pages) == 20
    assert not [name for name, page in pages.items() if re.search(r"\\[()]|\$", page.text)]
    times = [number for page in pages.values() for number in re.findall(r"[\d.]+×", page.text)]
    assert times == ["10.4×", "1.55×", "2.21×", "1.15×", "1.56×"]
    assert pages["LMS-AR: "].links == ["https://github.com/ss22ongithub/LMSAdaptiveRegulator"]
    assert pages["RoPE-Awa"].links == ["https://github.com/JIA-Lab-research/blockgtq"]
    assert pages["RoPE-Awa"].text.endswith("blockgtq.")


@pytest.mark.parametrize(
    ("text", "math"),
    [
        (r"is \(10.4\times\) faster", [r"10.4\times"]),
        (r"\[x^2\] and $$y$$", ["x^2", "y"]),
        (r"$2\times$ and $k$-mer, the $n$th, $\sim$2x, $3n$, $O(n \log n)$.",
         [r"2\times", "k", "n", r"\sim", "3n", r"O(n \log n)"]),
        (r"$\text{for all } x$, $1.5 \text{ TB}$", [r"\text{for all } x", r"1.5 \text{ TB}"]),
        ("costs $5 and $10, US$100 and US$200, $5-$10, $1,000", []),
        ("$5 million, or $10 per $100 and 5$ or 10$", []),
        ("between $5 and 10$ per day", []),
        ("$HOME/bin:$PATH and $ x $", []),
        (r"\$5 and \$x\$", []),
        ("$" + "x" * 200 + "$", ["x" * 200]),
        ("$" + "x" * 201 + "$", []),
        (r"unbalanced $x and \(y", []),
        (r"\(\)", []),
        (r"$a\$b$", [r"a\$b"]),
    ],
)  # fmt: skip
def test_math_is_told_from_prices_and_shells(text: str, math: list[str]) -> None:
    assert kinds(text) == math


@pytest.mark.parametrize(
    ("text", "url", "rest"),
    [
        ("see https://a.example/x.", "https://a.example/x", "see @."),
        ("(https://a.example/x).", "https://a.example/x", "(@)."),
        ("[https://a.example/x]", "https://a.example/x", "[@]"),
        ("https://a.example/x_(y)", "https://a.example/x_(y)", "@"),
        ("https://a.example/x?a=1&b=2;", "https://a.example/x?a=1&b=2", "@;"),
        ("见https://a.example/x,好", "https://a.example/x", "见@,好"),
        ("<https://a.example/x>", "https://a.example/x", "<@>"),
        ("HTTP://A.EXAMPLE/X!", "HTTP://A.EXAMPLE/X", "@!"),
        (r"http://a.example/\~u\_v", "http://a.example/~u_v", "@"),
        (r"\url{https://a.example/x}.", "https://a.example/x", "@."),
        (r"\href{https://a.example/x}{https://a.example/x}", "https://a.example/x", "@"),
        (r"\(\href{https://a.example/x}{https://a.example/x}\).", "https://a.example/x", "@."),
        (r"$\url{https://a.example/x}$", "https://a.example/x", None),
    ],
)
def test_addresses_become_links_without_the_marks_of_the_sentence(
    text: str, url: str, rest: str | None
) -> None:
    page = read(render(text))
    if rest is None:  # a link within dollars is no use of LaTeX anybody makes
        assert len(page.links) <= 1
    else:
        assert page.links == [url]
        assert page.text == rest.replace("@", url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\href{javascript:alert(1)}{click} me", "click me"),
        (r"\url{data:text/html,x}", "data:text/html,x"),
        (r"\href{https://}{x}", "x"),
        (r"\href{file:///etc/passwd}{x}", "x"),
        (r"\href{https://a.example}", r"\href{https://a.example}"),
        (r"\hrefx{https://a.example}{y}", None),
        ("javascript:alert(1) ftp://a.example mailto:a@b.example", None),
    ],
)
def test_only_http_is_a_link(text: str, shown: str | None) -> None:
    page = read(render(text))
    assert not [link for link in page.links if not link.startswith("https://a.example")]
    assert shown is None or page.text == shown


def test_one_broken_formula_hides_nothing_but_is_shown_as_it_was_written() -> None:
    page = read(render(r"before \(\undefinedmacro{x}\) between \(x^2\) after \(\frac\)"))
    assert page.tags.count("code") == 2
    assert page.tags.count("math") == 1
    assert page.text == r"before \undefinedmacro{x} between x2 after \frac"


@pytest.mark.parametrize(
    "tex",
    [
        r"\undefinedmacro", r"\frac", "}{", "{" * 900, r"\sqrt{" * 500, r"x^x^x", r"\left(",
        r"\begin{matrix}a", r"\text{<b>}", r"\text{a & b}", "_" * 1000, "", r"\unknown{a}\times",
    ],
)  # fmt: skip
def test_math_that_cannot_be_converted_whole_is_not_converted(tex: str) -> None:
    assert mathml(tex) is None
    assert read(render(f"a \\({tex}\\) b")).text.startswith("a ")


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"10.4\times", "10.4×"), (r"\mathcal{O}(n \log n)", "𝒪(nlogn)"), (r"\frac{a}{b}", "ab"),
        (r"\mathbb{R}^{d}", "ℝd"), (r"\alpha \le \beta", "α≤β"), (r"50\%", "50%"),
        (r"\ensuremath{x}", "x"), (r"\arg\max", "argmax"), (r"\num{5}", "5"),
        (r"\begin{matrix}a&b\\c&d\end{matrix}", "abcd"), (r"\left(\frac ab\right)", "(ab)"),
        (r"\bm{x}\boldsymbol{y}", "xy"), (r"\sqrt[3]{x}", "x3"),
        (r"\operatorname{softmax}", "softmax"),
    ],
)  # fmt: skip
def test_ordinary_formulas_are_converted(tex: str, text: str) -> None:
    assert read(render(f"\\({tex}\\)")).text.replace("\xa0", " ") == text


ATTACKS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>", "<iframe srcdoc='<script>1</script>'>", "<!--", "]]>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table>",
    "<math><a xlink:href=javascript:alert(1)>x</a></math>", "<style>*{}</style>", "</p><script>",
    "<math href='javascript:alert(1)'>x</math>", "\"><script>alert(1)</script>", "'onmouseover='x",
    r"\(<script>alert(1)</script>\)", r"\(\text{<script>alert(1)</script>}\)",
    r"\(\href{javascript:alert(1)}{x}\)", r"\(y \href{javascript:alert(1)}{x}\)",
    r"\(\style{background:url(javascript:1)}{x}\)", r"\(\class{x\" onmouseover=\"alert(1)}{y}\)",
    r"\(\color{red\" onmouseover=\"alert(1)}{y}\)", r"\(\text{</mtext></math><script>1</script>}\)",
    r"$<img/src=x onerror=alert(1)>$", r"\href{https://x.example/\" onclick=\"alert(1)}{y}",
    'https://x.example/"onmouseover="alert(1)', "https://x.example/'><script>alert(1)</script>",
    r"\href{https://x.example}{<script>alert(1)</script>}", "https://x.example/<script>",
    r"\url{https://x.example/<svg/onload=alert(1)>}", "&lt;script&gt;", "&#60;script&#62;",
    "\x00<\x00script>",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_inert(attack: str) -> None:
    for text in (attack, f"Fast {attack} and \\({attack}\\) and ${attack}$"):
        page = read(render(clean(text)))
        assert "script" not in page.tags
        read(render_snippet(f"{MARK}{clean(text)}{UNMARK}"))


def test_escaped_text_reads_as_it_was_written() -> None:
    assert render("a < b & c > d, \"x\" 'y'") == "a &lt; b &amp; c &gt; d, \"x\" 'y'"
    assert read(render(r"\emph{A} \textbf{B} 10\% \& \texttt{a\_b}")).text == "A B 10% & a_b"


pieces = st.lists(
    st.sampled_from(
        [*ATTACKS, "\\(", "\\)", "$", "$$", "\\[", "\\]", "{", "}", "\\", "^", "_", "x", "1", " ",
         "&", "\\frac", "\\text{", "\\left(", "\\href{", "}{", "https://a.example/", "<", ">", '"',
         "键", "\\begin{matrix}", "\\\\", "\\color{"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(pieces | st.text(max_size=120))
def test_whatever_goes_in_what_comes_out_is_clean(text: str) -> None:
    cleaned = clean(text)
    read(render(cleaned))
    read(render_snippet(f"…{cleaned[:5]}{MARK}{cleaned[5:20]}{UNMARK}{cleaned[20:]}"))


@given(pieces | st.text(max_size=200))
def test_spans_lose_no_prose(text: str) -> None:
    found = list(spans(text))
    prose = [part.text for part in found if isinstance(part, Prose)]
    assert sum(map(len, prose)) <= len(text)
    if (
        all(isinstance(part, Prose) for part in found)
        and "\\href" not in text
        and "\\url" not in text
    ):
        assert "".join(prose) == text
    assert all(part.url.lower().startswith("http") for part in found if isinstance(part, Address))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "bomb",
    ["\\(", "$", "$a ", "\\href{", "http://", "{", "\\href{{a}", "$\\", "\\url{{{", "\\[x", "$$a",
     "\\(x\\)", "https://a.example/)", "\\href{a}{", "\\(\\sqrt{", "a "],
)  # fmt: skip
def test_hostile_text_takes_little_time(bomb: str) -> None:
    read(render((bomb * 20_000)[:20_000]))


def test_a_snippet_marks_hits_and_joins_han_again() -> None:
    hits = f"键 {MARK}值{UNMARK} {MARK}cache{UNMARK}"
    cut = f"…04\\times\\) of {hits} \\(10.4\\times\\) http://a.{MARK}b{UNMARK}/c"
    assert render_snippet(cut) == (
        "…04\\times of 键<mark>值</mark> <mark>cache</mark> "
        '<math display="inline"><mrow><mn>10.4</mn><mo>×</mo></mrow></math> '
        '<a href="http://a.b/c" rel="nofollow noopener">http://a.b/c</a>'
    )
    assert render_snippet(f"\\({MARK}x{UNMARK}^2\\)").count("mark") == 0
