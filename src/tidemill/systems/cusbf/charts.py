"""Charts of the claims' details for documents: rates and errors over sizes, races, the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tidemill.bench import Measurement
from tidemill.bench.claim import Json

_FILTERS = {
    "super": "Super Bloom",
    "blocked4": "blocked Bloom, 4 bits",
    "blocked8": "blocked Bloom, 8 bits",
    "super_random_genome": "Super Bloom, random genome (formula)",
}


def charts(found: Mapping[str, Measurement]) -> dict[str, dict[str, Any]]:
    """Vega-Lite specifications by name, of those claims that were measured."""
    drawn = {
        "rates": ("insert-out-of-cache", _rates),
        "peers": ("insert-keyed", _peers),
        "errors": ("fpr-random-21", _errors),
        "sweep": ("pareto", _sweep),
    }
    return {name: draw(found) for name, (claim, draw) in drawn.items() if claim in found}


def _rates(found: Mapping[str, Measurement]) -> dict[str, Any]:
    from tidemill.bench.plots import Axis, Series, lines

    series: list[Series] = []
    for verb in ("insert", "query"):
        points = _rows(found[f"{verb}-out-of-cache"].detail["rates"])
        points.sort(key=lambda point: point["mib"])
        for key, name in (("super", "Super Bloom"), ("blocked", "blocked Bloom")):
            middle, low, high = zip(*(point[key] for point in points), strict=True)
            sizes = [point["mib"] for point in points]
            series.append(Series(f"{name}, {verb}", sizes, middle, low, high))
    return lines(
        series,
        title="Throughput by filter size, one thread",
        x=Axis("filter", "MiB", log=True),
        y=Axis("throughput", "Mk-mers/s", zero=True),
    )


def _peers(found: Mapping[str, Measurement]) -> dict[str, Any]:
    from tidemill.bench.plots import bars

    races = [
        cast("dict[str, list[Json]]", found[claim].detail["comparison"])["sides"]
        for claim in ("insert-keyed", "insert-scalar", "insert-cuckoo", "insert-rbloom")
        if claim in found
    ]
    sides: list[Json] = [races[0][0], *(race[1] for race in races)]
    title = "Insertion into a 256 MiB filter, one thread"
    return bars({"sides": sides}, title=title, unit="Mk-mers/s")


def _errors(found: Mapping[str, Measurement]) -> dict[str, Any]:
    from tidemill.bench.plots import Axis, Series, lines

    points = _rows(found["fpr-random-21"].detail["by_bits_per_kmer"])
    loads = [point["bits_per_kmer"] for point in points]
    return lines(
        [Series(name, loads, [point[key] for point in points]) for key, name in _FILTERS.items()],
        title="False-positive rate on random k-mers, E. coli K-12",
        x=Axis("bits per k-mer", log=True),
        y=Axis("false-positive rate", log=True),
    )


def _sweep(found: Mapping[str, Measurement]) -> dict[str, Any]:
    """The choices that no other one beats in both, and the paper's."""
    from tidemill.bench.plots import Axis, Series, lines

    points = [point for point in _rows(found["pareto"].detail["points"]) if point["fpr"] > 0]
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["fpr"], -point["mkmers_s"])):
        if not front or point["mkmers_s"] > front[-1]["mkmers_s"]:
            front.append(point)
    papers = [p for p in points if (p["s"], p["m"], p["hashes"]) == (28, 16, 4)]
    return lines(
        [
            Series(name, [p["fpr"] for p in some], [p["mkmers_s"] for p in some])
            for name, some in (("best choices of (s, m, H)", front), ("(28, 16, 4)", papers))
        ],
        title="Throughput against false positives, E. coli K-12",
        x=Axis("false-positive rate", log=True),
        y=Axis("insertion and query", "Mk-mers/s"),
    )


def _rows(value: Json) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", value)
