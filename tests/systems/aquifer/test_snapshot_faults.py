"""Damaged `.aqs` files: refused, or every page as it was packed; never a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import CorruptFile, InputError
from tidemill.systems.aquifer import SnapshotFile, pack
from tidemill.systems.aquifer.aqs.snapshot_header import ENTRY, HEAD, SECTIONS, crc32c
from tidemill.systems.aquifer.snapshot import PAGE

from .images import random_guest, snapshot_of

IMAGE, TOUCHED = random_guest(500, 11)
fuzzed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.aqs"
    return pack(snapshot_of(IMAGE), TOUCHED, path).read_bytes()


def is_as_packed(path: Path, data: bytes, *, verify: bool) -> bool:
    """Whether it opens; what it then gives must be right."""
    path.write_bytes(data)
    try:
        opened = SnapshotFile.open(path, verify=verify)
    except InputError:
        return False
    with opened:
        for page in range(500):
            try:
                assert opened.page(page) == IMAGE[page].tobytes()
            except CorruptFile:
                assert not verify
        assert opened.vmstate == b"state of a processor"
    return True


@fuzzed
@given(st.data())
def test_flipped_bits_and_cuts_are_refused(tmp_path: Path, whole: bytes, data) -> None:
    damaged = bytearray(whole)
    where = st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 3 * PAGE))
    for at in data.draw(st.lists(where, max_size=4)):
        damaged[min(at, len(damaged) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole) - 1)))
    damaged = damaged[:cut]
    assert is_as_packed(tmp_path / "a.aqs", bytes(damaged), verify=True) == (damaged == whole)
    is_as_packed(tmp_path / "a.aqs", bytes(damaged), verify=False)


def resealed(damaged: bytearray) -> bytes:
    """All checksums of header and sections made right again, where they still lie in the file."""
    entries = [ENTRY.unpack_from(damaged, HEAD.size + i * ENTRY.size) for i in range(len(SECTIONS))]
    ends = [offset for offset, _, _ in entries[1:]] + [HEAD.unpack_from(damaged)[-3]]
    for index, ((offset, length, _), end) in enumerate(zip(entries, ends, strict=True)):
        ENTRY.pack_into(
            damaged, HEAD.size + index * 24, offset, length, crc32c(bytes(damaged[offset:end]))
        )
    damaged[PAGE - 4 : PAGE] = crc32c(bytes(damaged[: PAGE - 4])).to_bytes(4, "little")
    return bytes(damaged)


@fuzzed
@given(st.data())
def test_damage_with_checksums_made_right_never_crashes(tmp_path: Path, whole: bytes, data) -> None:
    damaged = bytearray(whole)
    places = st.one_of(st.integers(0, HEAD.size + 240), st.integers(PAGE, 3 * PAGE))
    for at in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.aqs"
    path.write_bytes(resealed(damaged))
    try:
        opened = SnapshotFile.open(path)
    except InputError:
        return
    with opened:
        for page in range(opened.guest_pages):
            try:
                assert len(opened.page(page)) == PAGE
            except CorruptFile:
                continue


def numbers_at(offset: int, value: int, size: int = 8) -> Callable[[bytearray], None]:
    def change(damaged: bytearray) -> None:
        damaged[offset : offset + size] = value.to_bytes(size, "little")

    return change


def in_section(name: str, change: Callable[[np.ndarray], None]) -> Callable[[bytearray], None]:
    def changed(damaged: bytearray) -> None:
        offset, length, _ = ENTRY.unpack_from(damaged, HEAD.size + SECTIONS.index(name) * 24)
        section = np.frombuffer(bytes(damaged[offset : offset + length]), np.uint8).copy()
        change(section)
        damaged[offset : offset + length] = section.tobytes()

    return changed


def increment(section: np.ndarray) -> None:
    section[0] ^= 1


def all_ones(section: np.ndarray) -> None:
    section[:] = 255


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (numbers_at(0, 0x30534151, 4), "does not begin as one; must be b'AQS1'"),
        (numbers_at(4, 2, 2), "version 2.*must be version 1.*read it with the tidemill that"),
        (numbers_at(6, 9, 2), "architecture 9"),
        (numbers_at(8, 16384, 4), "pages of 16384 bytes"),
        (numbers_at(16, 501), "do not fit"),
        (numbers_at(16, 1 << 60), "do not fit"),
        (numbers_at(88, 100), "do not fit"),
        (numbers_at(104, 1 << 40), "do not fit"),
        (numbers_at(112, 1 << 40), "section vmstate lies out of order;"),
        (numbers_at(120, 1 << 40), "section vmstate lies out of order;"),
        (in_section("settings", increment), "settings that cannot be read"),
        (in_section("layout", increment), "impossible layout"),
        (in_section("nonzero", increment), "hot_runs|rank|hot and zero|header"),
        (in_section("hot", all_ones), "hot and zero"),
        (in_section("rank", increment), "rank directory is at odds"),
        (in_section("hot_runs", increment), "section hot_runs is at odds"),
        (in_section("regions_to_register", increment), "section regions_to_register is at odds"),
        (in_section("checksums", increment), "hot run 0 is damaged"),
        (in_section("hot_zero", all_ones), "section hot_zero out of order or range"),
    ],
)
def test_what_contradicts_itself_is_named(
    tmp_path: Path, whole: bytes, change: Callable[[bytearray], None], error: str
) -> None:
    damaged = bytearray(whole)
    change(damaged)
    path = tmp_path / "a.aqs"
    if "out of order;" in error:  # a section that lies elsewhere keeps its checksum
        damaged[PAGE - 4 : PAGE] = crc32c(bytes(damaged[: PAGE - 4])).to_bytes(4, "little")
        path.write_bytes(damaged)
    else:
        path.write_bytes(resealed(damaged))
    with pytest.raises(CorruptFile, match=error):
        SnapshotFile.open(path)


def test_damage_under_a_checksum_is_named(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.aqs"
    for at, error in ((200, "header is damaged"), (PAGE, "section vmstate is damaged")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptFile, match=error):
            SnapshotFile.open(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"cold chunk \d+ is damaged"):
        SnapshotFile.open(path)


def test_what_cannot_be_opened_or_is_cut_at_its_cold_extent_is_refused(
    tmp_path: Path, whole: bytes
) -> None:
    with pytest.raises(InputError, match="No such file"):
        SnapshotFile.open(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        SnapshotFile.open(tmp_path)
    path = tmp_path / "a.aqs"
    path.write_bytes(b"")
    with pytest.raises(CorruptFile, match="0 bytes long"):
        SnapshotFile.open(path)
    path.write_bytes(whole)
    with SnapshotFile.open(path) as opened:
        pooled = bytes(opened.pooled)
    path.write_bytes(pooled)
    with pytest.raises(CorruptFile, match="without its cold extent"):
        SnapshotFile.open(path)
    prefix = SnapshotFile(memoryview(pooled), "the pool's part")
    with pytest.raises(InputError, match="cold pages are elsewhere"):
        prefix.cold  # noqa: B018 - a property that raises
    hot = next(page for page in range(500) if prefix.class_of(page) == "hot")
    assert prefix.page(hot) == IMAGE[hot].tobytes()
