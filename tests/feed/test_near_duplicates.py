"""Papers with nearly the same abstract are linked, and never merged."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_builders import given_papers, raw

from tidemill.feed import Library
from tidemill.feed.index import NEAR_DUPLICATE, likeness, shingles

WORDS = [f"w{number}" for number in range(3000)]


def abstract(seed: int, length: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def changed(words: list[str], places: int) -> list[str]:
    """The text with ``places`` words replaced, each of which touches 5 shingles."""
    words = [*words]
    for place in range(places):
        words[10 + 25 * place] = f"other{place}"
    return words


def put(library: Library, number: int, words: list[str]) -> None:
    entry = raw(f"Title {number}", " ".join(words), arxiv_id=f"2606.{number:05}")
    library.take(given_papers(entry))


def near(library: Library, number: int) -> list[str]:
    return [entry.title for entry in library.near_duplicates(f"2606.{number:05}")]


def test_nearly_equal_abstracts_are_linked_both_ways_most_alike_first(library: Library) -> None:
    words = abstract(1)
    put(library, 1, words)
    put(library, 2, changed(words, 1))
    put(library, 3, [word.upper() + "," for word in words])
    put(library, 4, abstract(2))
    assert near(library, 1) == ["Title 3", "Title 2"]
    assert near(library, 2) == ["Title 1", "Title 3"]
    assert near(library, 4) == []
    assert library.page().total == 4


@pytest.mark.parametrize("places", range(6))
def test_the_line_is_drawn_at_the_likeness_of_their_shingles(library: Library, places: int) -> None:
    words = abstract(3)
    put(library, 1, words)
    put(library, 2, changed(words, places))
    alike = likeness(shingles(" ".join(words)), shingles(" ".join(changed(words, places))))
    assert bool(near(library, 1)) == (alike >= NEAR_DUPLICATE)
    assert (alike >= NEAR_DUPLICATE) == (places <= 1)


def test_links_follow_a_revision(library: Library) -> None:
    words = abstract(4)
    put(library, 1, words)
    put(library, 2, abstract(5))
    put(library, 2, words)
    assert near(library, 1) == ["Title 2"]
    put(library, 2, abstract(6))
    assert near(library, 1) == near(library, 2) == []


def test_han_characters_are_words(library: Library) -> None:
    text = "键值缓存量化与内存带宽在大模型推理系统中的权衡研究以及若干可复现的实验结果" * 3
    put(library, 1, [text])
    put(library, 2, [f"{text}。"])
    assert near(library, 1) == ["Title 2"]


def test_a_merged_paper_is_no_duplicate_of_itself(library: Library) -> None:
    entry = raw("A Title", " ".join(abstract(7)))
    library.take(given_papers(entry, raw(entry.title, entry.abstract, arxiv_id="2606.00001")))
    assert near(library, 1) == []
    library.split(entry.id)
    assert near(library, 1) == ["A Title"]


def test_many_papers_with_common_phrases_are_not_mistaken(library: Library) -> None:
    common = " ".join(abstract(8, 12))
    library.take(
        given_papers(
            *(
                raw(f"T{n}", f"{common} {' '.join(abstract(100 + n, 60))}", arxiv_id=f"2606.{n:05}")
                for n in range(60)
            )
        )
    )
    assert [near(library, number) for number in range(60)] == [[]] * 60


@given(st.text(max_size=80), st.text(max_size=80))
def test_likeness_is_symmetric_one_for_equals_and_within_bounds(one: str, other: str) -> None:
    a, b = shingles(one), shingles(other)
    assert likeness(a, b) == likeness(b, a)
    assert 0 <= likeness(a, b) <= likeness(a, a) == 1
