"""From a snapshot and its recordings to an `.aqs` file: what is hot, and the file, atomically."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from uuid import UUID, uuid4

import numpy as np

from tidemill.errors import ConfigError, InputError, OutOfPool
from tidemill.systems.aquifer.aqs.cpu_features import features_here
from tidemill.systems.aquifer.aqs.page_classes import (
    BLOCK_PAGES,
    Bools,
    PageClasses,
    dense_blocks,
    in_blocks,
)
from tidemill.systems.aquifer.aqs.snapshot_header import (
    CHUNK_PAGES,
    SECTIONS,
    Header,
    MemoryRegion,
    check_regions,
    crc32c,
)
from tidemill.systems.aquifer.config import DENSE_PAGES
from tidemill.systems.aquifer.snapshot import PAGE, U8, Snapshot

_FULL = (errno.ENOSPC, errno.EDQUOT)


def often_touched(
    touched: Sequence[Sequence[int]], guest_pages: int, hot_threshold: float = 0.5
) -> Bools:
    """(guest_pages,) whether a page was touched in at least ``ceil(hot_threshold k)`` recordings.

    Args:
        touched: for each of the k recordings the pages that it touched, in any order.
        guest_pages: pages of the guest.
        hot_threshold: share of the recordings, in (0, 1].

    Raises:
        ConfigError: no recording, or a threshold out of range.
        InputError: a recording names a page that the guest does not have.
    """
    if not 0 < hot_threshold <= 1:
        raise ConfigError.of(
            "hot_threshold", hot_threshold, "in (0, 1]", "the share of recordings that touch a page"
        )
    if not touched:
        raise ConfigError.of("touched", touched, "at least one recording", "record some requests")
    counts = np.zeros(guest_pages, np.int64)
    for index, pages in enumerate(touched):
        distinct = np.unique(np.asarray(pages, np.int64))
        if distinct.size and not (distinct[0] >= 0 and distinct[-1] < guest_pages):
            raise InputError(
                f"recording {index} — touched page {int(distinct[-1])}; the guest has "
                f"{guest_pages}; record this snapshot, not another."
            )
        counts[distinct] += 1
    return counts >= max(1, math.ceil(hot_threshold * len(touched) - 1e-9))


def pack(
    snapshot: Snapshot,
    touched: Sequence[Sequence[int]],
    path: str | Path,
    hot_threshold: float = 0.5,
    *,
    dense_pages: int = DENSE_PAGES,
    regions: tuple[MemoryRegion, ...] | None = None,
    parent: UUID | None = None,
    vmm: str = "tidemill",
) -> Path:
    """Write a snapshot; whoever reads ``path`` meanwhile, or after a crash, finds old or new whole.

    Args:
        snapshot: its state and pages.
        touched: the pages that each recording touched; hot is what most of them did.
        path: the file.
        hot_threshold: share of the recordings that makes a page hot.
        dense_pages: so many such pages of a block of 512 make all its pages hot, and a restore
            gives it a huge page; 0 for none.
        regions: where its memory lies for the guest; by default one region from address 0 on.
        parent: the snapshot that this one was taken over, if it was a diff.
        vmm: whose ``state`` it is.

    Raises:
        ConfigError, InputError: as `often_touched`; regions at odds with the memory; no folder.
        OutOfPool: the disk is full; ``path`` is what it was.
    """
    parts = assemble(
        snapshot,
        touched,
        hot_threshold,
        dense_pages=dense_pages,
        regions=regions,
        parent=parent,
        vmm=vmm,
    )
    _write(Path(path), parts)
    return Path(path)


def assemble(
    snapshot: Snapshot,
    touched: Sequence[Sequence[int]],
    hot_threshold: float = 0.5,
    *,
    dense_pages: int = DENSE_PAGES,
    regions: tuple[MemoryRegion, ...] | None = None,
    parent: UUID | None = None,
    vmm: str = "tidemill",
) -> list[bytes | memoryview]:
    """The parts of the file that `pack` writes, in order."""
    guest_pages = snapshot.nonzero.size
    regions = regions or (MemoryRegion(0, guest_pages * PAGE, 0),)
    check_regions(regions, guest_pages * PAGE)
    if not 0 <= dense_pages <= BLOCK_PAGES:
        raise ConfigError.of("dense_pages", dense_pages, f"in 0-{BLOCK_PAGES}", "0: no huge pages")
    often = often_touched(touched, guest_pages, hot_threshold)
    dense = dense_blocks(often, dense_pages)
    nonzero = snapshot.nonzero.astype(bool)
    is_dense = in_blocks(dense, guest_pages)
    classes = PageClasses.of(nonzero, often | is_dense)
    is_hot = (often | is_dense)[nonzero]
    hot, cold = snapshot.pages[is_hot], snapshot.pages[~is_hot]
    settings = {"vmm": vmm, "roots": snapshot.roots, "limits": asdict(snapshot.limits)}
    contents = {
        "vmstate": snapshot.state,
        "settings": json.dumps(settings).encode(),
        "layout": np.array([(r.guest_address, r.size, r.offset) for r in regions], "<u8").tobytes(),
        "nonzero": classes.nonzero.tobytes(),
        "hot": classes.hot.tobytes(),
        "rank": classes.rank.tobytes(),
        "hot_runs": classes.hot_runs().tobytes(),
        "regions_to_register": classes.regions_to_register().tobytes(),
        "checksums": _checksums(classes, hot, cold),
        "hot_zero": np.flatnonzero(often & ~nonzero & ~is_dense).astype("<u4").tobytes(),
        "dense": dense.astype("<u4").tobytes(),
    }
    counts = guest_pages - len(hot) - len(cold), len(hot), len(cold)
    head = _with_sections(contents, guest_pages, counts, parent)
    return [*head, hot.reshape(-1).data, cold.reshape(-1).data]


def _checksums(classes: PageClasses, hot: U8, cold: U8) -> bytes:
    runs = classes.hot_runs().tolist()
    sums = [crc32c(hot[slot : slot + pages].reshape(-1)) for _, pages, slot in runs]
    sums += [
        crc32c(cold[at : at + CHUNK_PAGES].reshape(-1)) for at in range(0, len(cold), CHUNK_PAGES)
    ]
    return np.array(sums, "<u4").tobytes()


def _with_sections(
    contents: dict[str, bytes], guest_pages: int, counts: tuple[int, int, int], parent: UUID | None
) -> list[bytes]:
    """Header and sections, padded to 8 bytes and the last one to a page."""
    stored = [contents[name] + bytes(-len(contents[name]) % 8) for name in SECTIONS]
    stored[-1] += bytes(-sum(map(len, stored)) % PAGE)
    entries: dict[str, tuple[int, int, int]] = {}
    at = PAGE
    for name, section in zip(SECTIONS, stored, strict=True):
        entries[name] = (at, len(contents[name]), crc32c(section))
        at += len(section)
    _, hot, cold = counts
    ends = (at, at + hot * PAGE, at + (hot + cold) * PAGE)
    header = Header(guest_pages, *counts, features_here(), uuid4(), parent, *ends, entries)
    return [header.pack(), *stored]


def _write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    draft = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    try:
        with draft.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        size = sum(memoryview(part).nbytes for part in parts)
        kind = OutOfPool if error.errno in _FULL else InputError
        raise kind(
            f"{path} — cannot be written: {error.strerror}; must be in a writable folder with "
            f"{size:,} bytes free; what was there is untouched."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
