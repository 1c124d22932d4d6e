"""Text, dates and identities: the small rules on which the library stands."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.feed.calendar import announcement_day, parse_date, parse_moment
from tidemill.feed.categories import slug
from tidemill.feed.identity import arxiv_id, normal_title, slug_of, title_key
from tidemill.feed.text import clean, decode_accents, join_han, language, plain_latex, split_han

anything = st.text(max_size=200)


@given(anything)
def test_clean_text_can_be_stored_shown_and_sent_on(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert clean(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    assert not set(cleaned) & {*map(chr, range(32)), "\u202e", "\ufffe", "\ue000"}


@given(st.text(st.sampled_from("\\\"'`^~=.cvuHk{} abeoiAS"), max_size=30))
def test_accents_are_decoded_from_any_text(text: str) -> None:
    assert len(decode_accents(text)) <= len(text)
    decode_accents(text, prose=True)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"G\"odel", "Gödel"), (r"G{\"o}del", "Gödel"), (r"G\"{o}del", "Gödel"),
        (r"{\v S}ef\v{c}\'ik", "Šefčík"), (r"\'{\i}nd", "índ"), (r"\c c", "ç"), (r"{\ss}", "ß"),
        (r"\O re", "Øre"), (r"\L{}ukasz", "Łukasz"), (r"Erd\H{o}s", "Erdős"), (r"\~n", "ñ"),
        (r"\"f", r"\"f"), (r"\vector", r"\vector"), ("plain", "plain"),
    ],
)  # fmt: skip
def test_latex_accents_become_letters(written: str, read: str) -> None:
    assert decode_accents(written) == read


def test_in_prose_an_address_keeps_its_tilde() -> None:
    assert decode_accents(r"Schr\"odinger http://x.edu/\~user", prose=True) == (
        r"Schrödinger http://x.edu/\~user"
    )


def test_prose_loses_latex_styles_and_escapes() -> None:
    assert plain_latex(r"\emph{10\%} of \textbf{A\_B} {C}") == "10% of A_B {C}"
    assert plain_latex(r"{C}\{D\}", keep_braces=False) == "C{D}"


@given(anything.map(clean))
def test_han_characters_are_words_of_their_own_and_join_again(text: str) -> None:
    assert join_han(" ".join(split_han(text).split())).replace(" ", "") == text.replace(" ", "")
    assert split_han("键值cache") == " 键  值 cache"
    assert join_han("键 值 cache 训 练") == "键值 cache 训练"


def test_a_text_is_chinese_if_much_of_it_is() -> None:
    assert language("键值缓存 KV cache 的量化方法研究") == "zh"
    assert language("KV cache (键值缓存) quantization for serving") == "en"
    assert language("1 + 1") == language("") == "en"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-06-23", date(2026, 6, 23)), ("2026/6/3", date(2026, 6, 3)),
        ("2026.06.23", date(2026, 6, 23)), ("2026年6月23日", date(2026, 6, 23)),
        ("2026-06", date(2026, 6, 1)), ("2026/06/23/", date(2026, 6, 23)),
        ("23 June 2026", date(2026, 6, 23)), ("June 23rd, 2026", date(2026, 6, 23)),
        ("Tue, 23 Jun 2026 23:00:00 -0400", date(2026, 6, 23)),
        ("2026-06-23T23:00:00-04:00", date(2026, 6, 23)), ("2024-02-29", date(2024, 2, 29)),
        ("1900-02-28", date(1900, 2, 28)), ("1900-02-29", None), ("2023-02-29", None),
        ("2026-13-01", None), ("0001-01-01", None), ("9999-12-31", None), ("23 Foo 2026", None),
        ("soon", None), ("", None), ("2026", None), ("20260623", None),
    ],
)  # fmt: skip
def test_a_date_is_read_in_every_way_it_is_written_or_not_at_all(
    text: str, day: date | None
) -> None:
    assert parse_date(text) == day


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-23T23:00:00-04:00", datetime(2026, 6, 24, 3, tzinfo=UTC)),
        ("2026-06-23T23:00:00Z", datetime(2026, 6, 23, 23, tzinfo=UTC)),
        ("2026-06-23 23:00", datetime(2026, 6, 23, 23, tzinfo=UTC)),
        ("Tue, 23 Jun 2026 23:00:00 -0400", datetime(2026, 6, 24, 3, tzinfo=UTC)),
        ("Mon, 2 Apr 2007 19:18:42 GMT", datetime(2007, 4, 2, 19, 18, 42, tzinfo=UTC)),
        ("2026-06-23", datetime(2026, 6, 23, tzinfo=UTC)),
        ("2026-06-23T25:00:00Z", None), ("Tue, 99 Jun 2026 23:00:00 -0400", None),
        ("0001-01-01T00:00:00+14:00", None), ("9999-12-31T23:59:59-14:00", None),
        ("at 12:30", None), ("", None),
    ],
)  # fmt: skip
def test_a_moment_is_read_in_utc(text: str, moment: datetime | None) -> None:
    assert parse_moment(text) == moment


@given(anything | st.from_regex(r"\A[0-9]{1,5}[-/][0-9]{1,3}[-/][0-9]{1,3}( [0-9:]{1,9})?\Z"))
def test_no_text_is_too_strange_for_a_date(text: str) -> None:
    parse_date(text)
    moment = parse_moment(text)
    assert moment is None or moment.tzinfo is UTC


@pytest.mark.parametrize(
    ("submitted", "announced"),
    [
        ("2026-06-22T17:59:59Z", date(2026, 6, 23)),  # Monday, 13:59:59 in New York
        ("2026-06-22T18:00:00Z", date(2026, 6, 24)),  # Monday, 14:00
        ("2026-06-25T17:00:00Z", date(2026, 6, 26)),  # Thursday before the deadline
        ("2026-06-25T19:00:00Z", date(2026, 6, 29)),  # Thursday after it: announced on Sunday
        ("2026-06-26T17:00:00Z", date(2026, 6, 29)),  # Friday before it: on Sunday too
        ("2026-06-26T19:00:00Z", date(2026, 6, 30)),  # Friday after it: on Monday
        ("2026-06-27T12:00:00Z", date(2026, 6, 30)),  # Saturday
        ("2026-06-28T23:00:00Z", date(2026, 6, 30)),  # Sunday
        ("2026-01-05T18:30:00Z", date(2026, 1, 6)),  # in winter it is 13:30 there
        ("2026-01-05T19:00:00Z", date(2026, 1, 7)),
        ("2024-02-28T20:00:00Z", date(2024, 3, 1)),  # over a leap day
        ("2026-03-08T06:59:59Z", date(2026, 3, 10)),  # the night in which the clock moves on
    ],
)
def test_arxiv_announces_from_sunday_to_thursday_what_came_before_14_in_new_york(
    submitted: str, announced: date
) -> None:
    moment = parse_moment(submitted)
    assert moment is not None
    assert announcement_day(moment) == announced


@given(st.datetimes(datetime(1991, 8, 14), datetime(2190, 1, 1), timezones=st.just(UTC)))
def test_an_announcement_is_on_a_weekday_and_within_five_days(submitted: datetime) -> None:
    day = announcement_day(submitted)
    assert day.weekday() < 5
    assert 0 <= (day - submitted.date()).days <= 5


@pytest.mark.parametrize(
    "spelling",
    [
        "2606.24417", "arXiv:2606.24417", "arxiv: 2606.24417v3", "oai:arXiv.org:2606.24417",
        "http://arxiv.org/abs/2606.24417", "https://www.arxiv.org/pdf/2606.24417v2.pdf",
        "https://arxiv.org/pdf/2606.24417v1", "https://export.arxiv.org/abs/2606.24417?context=cs",
        "https://arxiv.org/html/2606.24417v1/", "arxiv.org/abs/2606.24417#x",
        "https://doi.org/10.48550/arXiv.2606.24417", "10.48550/ARXIV.2606.24417", " 2606.24417 ",
    ],
)  # fmt: skip
def test_one_arxiv_paper_has_one_id_in_all_its_spellings(spelling: str) -> None:
    found = arxiv_id(spelling)
    assert found is not None
    assert found[0] == "2606.24417"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hep-th/9901001v2", ("hep-th/9901001", 2)), ("math.GT/0309136", ("math/0309136", None)),
        ("0704.0001", ("0704.0001", None)), ("2613.24417", None), ("2600.24417", None),
        ("2606.244", None), ("2606.244170", None), ("x2606.24417", None), ("", None),
        ("https://evil.example/arxiv.org/abs/2606.24417", None),
        ("https://arxiv.org.evil.example/abs/2606.24417", None), ("10.1000/2606.24417", None),
    ],
)  # fmt: skip
def test_what_is_no_arxiv_id_is_not_taken_for_one(
    text: str, found: tuple[str, int | None] | None
) -> None:
    assert arxiv_id(text) == found


@given(anything)
def test_any_text_has_a_normal_title(text: str) -> None:
    normal = normal_title(text)
    assert normal.isalnum() or not normal
    assert normal_title(normal) == normal
    assert len(title_key(text)) == 40


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("RoPE-Aware Bit Allocation", "rope aware  bit   allocation."),
        (r"\textbf{Fast} $\mathcal{O}(n)$", "Fast O(n)"),
        ("ﬁne ＡＢＣ ①", "fine abc 1"),
        ("STRASSE straße", "strasse strasse"),
        (r"10.4\times faster", "10.4× faster"),
    ],
)
def test_titles_are_equal_if_their_letters_and_digits_are(one: str, other: str) -> None:
    assert title_key(one) == title_key(other)


def test_titles_differ_by_a_letter_or_digit() -> None:
    assert len({title_key(text) for text in ("A 1", "A 2", "B 1", "键 1", "值 1")}) == 5


@pytest.mark.parametrize(
    ("paper_id", "expected"),
    [
        ("arxiv:2606.24417", "2606.24417"),
        ("arxiv:math/0309136", "math_0309136"),
        ("title:0f", "t-0f"),
    ],
)
def test_a_slug_can_stand_in_a_url(paper_id: str, expected: str) -> None:
    assert slug_of(paper_id) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Serving", "serving"),
        ("Training & parallelism", "training-parallelism"),
        ("3D / 生成", "3d"),
    ],
)
def test_a_category_is_named_in_urls_by_its_latin_words(name: str, expected: str) -> None:
    assert slug(name) == expected
    assert slug("能耗").startswith("c-")
    assert slug("能耗") != slug("量化")


def test_a_moment_without_zone_is_refused_where_it_would_be_guessed() -> None:
    from tidemill.bench.tables import UtcDateTime

    with pytest.raises(ConfigError):
        UtcDateTime().process_bind_param(datetime(2026, 6, 23), None)  # type: ignore[arg-type]
