"""A library of many papers: lists and searches stay right, and how long they take is printed.

``TIDEMILL_TEST_PAPERS=100000 pytest -s tests/feed/test_scale.py`` gives the figures that count.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from statistics import quantiles

import pytest
from paper_builders import given_papers, raw

from tidemill.feed import Library
from tidemill.feed.doctor import examine
from tidemill.feed.raw import RawEntry
from tidemill.feed.sources import FirstPage

COUNT = int(os.environ.get("TIDEMILL_TEST_PAPERS", "2000"))
FIRST = date(2015, 1, 1)
WORDS = ("memory", "bandwidth", "quantization", "energy", "scheduler", "snapshot", "trustzone")
"""Of the first page's vocabulary: the most common ones stand in four of five synthetic papers."""


def synthetic(count: int) -> Iterator[RawEntry]:
    """Papers of 190 words drawn by their frequency in the first page, with a long tail."""
    rng = random.Random(1)
    words = Counter(
        word.lower()
        for entry in FirstPage().fetch(None)
        if isinstance(entry, RawEntry)
        for word in re.findall(r"[A-Za-z][A-Za-z-]+", entry.abstract)
    )
    tail = {f"{rng.choice('bdfgklmnprst')}{rng.randrange(36**4):x}": 0 for _ in range(30_000)}
    weights = [*words.values(), *(60 / (place + 5) for place in range(len(tail)))]
    cumulative = list(itertools.accumulate(weights))
    for number in range(count):
        drawn = rng.choices([*words, *tail], cum_weights=cumulative, k=190)
        speedup = rf" by \({number % 9}.{number % 7}\times\) over" * (number % 3 == 0)
        day = FIRST + timedelta(days=number * 4000 // count)
        yield raw(
            " ".join(drawn[:10]),
            " ".join(drawn[10:]) + speedup,
            arxiv_id=f"{day:%y%m}.{number % 100_000:05}",
            announced=day,
            authors=(f"Ada {number % 5000}", f"Kurt {number % 3000}"),
            subjects=("cs.LG",) if number % 2 else ("cs.DC", "cs.AR"),
            category="Serving" if number % 5 else "量化",
            why="synthetic",
        )


def told(name: str, ask: Callable[[], object], repeats: int = 40) -> str:
    spent: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        ask()
        spent.append(1000 * (time.perf_counter() - started))
    cuts = quantiles(spent, n=20)
    return f"{name}: median {cuts[9]:.1f} ms, 95 % {cuts[18]:.1f} ms"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_library_of_many_papers_lists_and_searches(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "papers.db"), systems=list)
    library.migrate()
    started = time.perf_counter()
    papers = synthetic(COUNT)
    while part := list(itertools.islice(papers, 1000)):
        library.take(given_papers(*part))
    spent = (time.perf_counter() - started) / COUNT
    rng = random.Random(2)
    last = COUNT // 20
    figures = [
        f"import: {1000 * spent:.2f} ms a paper",
        told("first page", library.page),
        told("any page", lambda: library.page(number=rng.randint(1, last))),
        told(
            "category", lambda: library.page(category="serving", number=rng.randint(1, last // 2))
        ),
        told("days", library.days),
        told("one word", lambda: library.search(rng.choice(WORDS))),
        told("two words", lambda: library.search(" ".join(rng.sample(WORDS, 2)))),
        told("phrase", lambda: library.search('"memory bandwidth"')),
        told("word in category", lambda: library.search(f"cat:serving {rng.choice(WORDS)}")),
        told("word since", lambda: library.search(f"after:2024 {rng.choice(WORDS)}")),
    ]
    print("", *figures, sep="\n  ")  # noqa: T201 - the figures are what it is run for
    assert library.page().total == COUNT
    assert library.page(number=last).entries[-1].announced == FIRST
    assert library.page(category="serving").total == COUNT * 4 // 5
    assert all(finding.ok for finding in examine(library))
    library.store.close()
