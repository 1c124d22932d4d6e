"""Where a host may put extents: its chunks of the segment, without what any slot still names."""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.systems.aquifer.cxl.layout import Extent, Layout
from tidemill.systems.aquifer.snapshot import PAGE


def free_ranges(layout: Layout, chunks: Iterable[int], used: Iterable[Extent]) -> list[Extent]:
    """The free ranges of these chunks, neighbours joined, in address order."""
    free: list[Extent] = []
    taken = sorted((extent.at, extent.at + extent.size) for extent in used if extent.size)
    for start, end in _joined(layout, chunks):
        at = start
        for begin, stop in taken:
            if stop <= at or begin >= end:
                continue
            if begin > at:
                free.append(Extent(at, begin - at))
            at = stop
        if at < end:
            free.append(Extent(at, end - at))
    return free


def best_fit(free: Iterable[Extent], size: int) -> Extent | None:
    """The start of the smallest free range that holds ``size`` bytes."""
    fitting = [extent for extent in free if extent.size >= size]
    if not fitting:
        return None
    return Extent(min(fitting, key=lambda extent: extent.size).at, size)


def whole_pages(size: int) -> int:
    """Bytes that an extent takes."""
    return -(-size // PAGE) * PAGE


def _joined(layout: Layout, chunks: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for chunk in sorted(chunks):
        place = layout.chunk(chunk)
        if ranges and ranges[-1][1] == place.at:
            ranges[-1] = (ranges[-1][0], place.at + place.size)
        else:
            ranges.append((place.at, place.at + place.size))
    return ranges
