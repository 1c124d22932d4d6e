"""Snapshots and handshakes that are almost right, by the thousand, given to their parsers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidemill.errors import TidemillError
from tidemill.systems.aquifer.aqs.pack import assemble
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.aqs.snapshot_header import ENTRY, HEAD, SECTIONS, crc32c
from tidemill.systems.aquifer.config import GuestLimits
from tidemill.systems.aquifer.handshake import parse_regions
from tidemill.systems.aquifer.snapshot import PAGE, Snapshot

_PAGES = 600
_SLOW_S = 5.0
_NUMBERS = (0, 1, 7, 8, 511, 512, PAGE - 1, PAGE, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 64) - 1)
_VALUES: list[object] = [*_NUMBERS, -1, 0.5, True, None, "", "4096", [], [[]], {"size": 1}]


@dataclass(frozen=True, slots=True)
class FuzzReport:
    """What parsers did with what they were given.

    Attributes:
        snapshots: `.aqs` files that were parsed, and ``accepted`` of them.
        handshakes: Firecracker messages that were parsed.
        crashes: inputs that did anything else than pass or raise an error of this house, in words.
    """

    seconds: float
    snapshots: int
    accepted: int
    handshakes: int
    crashes: tuple[str, ...]


def fuzz(seconds: float, seed: int = 0) -> FuzzReport:
    """Parse mutated snapshots and handshakes in turn for so long."""
    generator = random.Random(seed)
    whole = _whole(seed)
    crashes: list[str] = []
    snapshots = accepted = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        snapshots += 1
        damaged = _damaged(whole, generator)
        accepted += _survives(lambda data=damaged: _read_whole(data), crashes)
        message = _message(generator)
        _survives(lambda text=message: parse_regions(text, 4 << 20), crashes)
    return FuzzReport(seconds, snapshots, accepted, snapshots, tuple(crashes))


def _survives(parse: Callable[[], object], crashes: list[str]) -> bool:
    began = time.monotonic()
    try:
        parse()
    except TidemillError:
        return False
    except Exception as error:
        crashes.append(f"{type(error).__name__}: {error}")
        return False
    finally:
        if time.monotonic() - began > _SLOW_S:
            crashes.append(f"took {time.monotonic() - began:.1f} s")
    return True


def _whole(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    nonzero = rng.random(_PAGES) < 0.1
    pages = rng.integers(1, 256, (int(nonzero.sum()), PAGE), np.uint8)
    made = Snapshot(b"state", nonzero.astype(np.uint8), pages, ("/usr",), GuestLimits())
    touched = np.flatnonzero(rng.random(_PAGES) < 0.3).tolist()
    return b"".join(assemble(made, [touched], dense_pages=512))


def _read_whole(data: bytes) -> None:
    opened = SnapshotFile(memoryview(data), "fuzzed")
    opened.verify()
    if opened.has_cold:
        opened.snapshot()
    opened.page(opened.guest_pages - 1)


def _damaged(whole: bytes, generator: random.Random) -> bytes:
    data = bytearray(whole)
    sections = range(HEAD.size, HEAD.size + ENTRY.size * len(SECTIONS), 8)
    for _ in range(generator.randint(1, 4)):
        match generator.randrange(4):
            case 0:
                at = generator.choice([*range(0, HEAD.size - 7, 4), *sections])
                data[at : at + 8] = generator.choice(_NUMBERS).to_bytes(8, "little")
            case 1:
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            case 2:
                at = generator.randrange(PAGE, min(len(data), 4 * PAGE))
                data[at : at + 8] = generator.randbytes(8)
            case _:
                at, to = (generator.randrange(len(data) - 64) for _ in range(2))
                data[to : to + 64] = data[at : at + 64]
    if generator.random() < 0.1:
        del data[generator.randrange(len(data)) :]
    if generator.random() < 0.8:
        _make_checksums_right(data)
    return bytes(data)


def _make_checksums_right(data: bytearray) -> None:
    if len(data) < PAGE:
        return
    ats = [HEAD.size + i * ENTRY.size for i in range(len(SECTIONS))]
    starts = [int.from_bytes(data[at : at + 8], "little") for at in ats]
    hot = int.from_bytes(data[88:96], "little")
    for at, start, end in zip(ats, starts, [*starts[1:], hot], strict=True):
        if start < end <= len(data):
            data[at + 16 : at + 20] = crc32c(bytes(data[start:end])).to_bytes(4, "little")
    data[PAGE - 4 : PAGE] = crc32c(bytes(data[: PAGE - 4])).to_bytes(4, "little")


def _message(generator: random.Random) -> bytes:
    names = ("base_host_virt_addr", "size", "offset", "page_size", "page_size_kib", "else")
    regions: list[object] = []
    for _ in range(generator.randrange(4)):
        plain: dict[str, object] = dict(zip(names, (1 << 30, 2 << 20, 0, PAGE, PAGE), strict=False))
        for _ in range(generator.randrange(3)):
            plain[generator.choice(names)] = generator.choice(_VALUES)
        regions.append(plain if generator.random() < 0.9 else generator.choice(_VALUES))
    text = json.dumps(regions if generator.random() < 0.9 else generator.choice(_VALUES)).encode()
    if generator.random() < 0.3:
        at = generator.randrange(len(text) + 1)
        text = text[:at] + generator.randbytes(generator.randrange(8)) + text[at:]
    return text
