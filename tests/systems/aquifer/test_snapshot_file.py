"""Packed snapshots: every page comes back, classes and slots agree with a slow count."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import pairwise
from math import ceil
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import ConfigError, CorruptFile, InputError, MissingCapability
from tidemill.systems.aquifer import MemoryRegion, SnapshotFile, import_firecracker, pack
from tidemill.systems.aquifer.aqs.cpu_features import features_here, names_of, require_features
from tidemill.systems.aquifer.aqs.pack import often_touched
from tidemill.systems.aquifer.aqs.snapshot_file import census
from tidemill.systems.aquifer.snapshot import PAGE

from .images import guests, image_of, random_guest, snapshot_of

over_one_folder = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@over_one_folder
@given(guest=guests)
def test_every_page_class_and_slot_is_what_a_slow_count_says(tmp_path: Path, guest) -> None:
    image, touched = guest
    often = {p for p in range(len(image)) if sum(p in pages for pages in touched) >= 2}
    path = pack(snapshot_of(image), touched, tmp_path / "a.aqs", dense_pages=0)
    with SnapshotFile.open(path) as opened:
        slots = {"hot": 0, "cold": 0}
        for page, content in enumerate(image):
            kind = "zero" if not content.any() else "hot" if page in often else "cold"
            assert opened.class_of(page) == kind
            assert opened.page(page) == content.tobytes()
            if kind != "zero":
                assert opened.slot_of(page) == slots[kind]
                extent = opened.hot if kind == "hot" else opened.cold
                assert extent[slots[kind] * PAGE :][:PAGE] == content.tobytes()
                slots[kind] += 1
        assert opened.hot_zero.tolist() == sorted(p for p in often if not image[p].any())
        covered = [p for start, n, _ in opened.hot_runs.tolist() for p in range(start, start + n)]
        assert [opened.slot_of(p) for p in covered] == list(range(slots["hot"]))


@over_one_folder
@given(guest=guests)
def test_registered_regions_cover_all_but_gaps_of_more_than_8_zero_pages(
    tmp_path: Path, guest
) -> None:
    image, touched = guest
    with SnapshotFile.open(pack(snapshot_of(image), touched, tmp_path / "a.aqs")) as opened:
        regions = opened.regions_to_register.tolist()
    covered = np.zeros(len(image), bool)
    for start, pages in regions:
        assert image[start].any()
        assert image[start + pages - 1].any()
        covered[start : start + pages] = True
    assert not image[~covered].any()
    for (start, pages), (after, _) in pairwise(regions):
        assert after - (start + pages) > 8
    inside = "".join("1" if content.any() else "0" for content in image[covered])
    assert "0" * 9 not in inside


@over_one_folder
@given(guest=guests, least=st.integers(1, 300))
def test_all_that_a_dense_block_holds_is_hot(tmp_path: Path, guest, least: int) -> None:
    image, touched = guest
    often = [sum(p in pages for pages in touched) >= 2 for p in range(len(image))]
    path = pack(snapshot_of(image), touched, tmp_path / "a.aqs", dense_pages=least)
    with SnapshotFile.open(path) as opened:
        dense = [b for b in range(len(image) // 512) if sum(often[b * 512 :][:512]) >= least]
        assert opened.dense.tolist() == dense
        for page, content in enumerate(image):
            is_hot = content.any() and (often[page] or page // 512 in dense)
            assert (opened.class_of(page) == "hot") == is_hot
        assert not np.isin(opened.hot_zero // 512, dense).any()


def test_a_packed_snapshot_gives_back_the_snapshot(tmp_path: Path) -> None:
    image, touched = random_guest(700, 3)
    packed = snapshot_of(image)
    with SnapshotFile.open(pack(packed, touched, tmp_path / "a.aqs")) as opened:
        again = opened.snapshot()
        assert (opened.cpu_features, opened.parent) == (features_here(), None)
        assert opened.regions == (MemoryRegion(0, 700 * PAGE, 0),)
    assert np.array_equal(again.nonzero, packed.nonzero)
    assert np.array_equal(again.pages, packed.pages)
    assert (again.state, again.roots, again.limits) == (packed.state, packed.roots, packed.limits)


def test_zero_pages_take_no_space_and_a_census_adds_up(tmp_path: Path) -> None:
    nonzero = np.zeros(4096, bool)
    nonzero[100:120] = True
    path = pack(
        snapshot_of(image_of(nonzero)), [range(105, 115), range(5)], tmp_path / "a.aqs", 0.5
    )
    with SnapshotFile.open(path) as opened:
        found = census(opened)
    assert (found["zero_pages"], found["hot_pages"], found["cold_pages"]) == (4076, 10, 10)
    assert (found["hot_runs"], found["hot_zero_pages"], found["regions_to_register"]) == (1, 5, 1)
    assert found["cxl_bytes"] + found["rdma_bytes"] == path.stat().st_size < 25 * PAGE


def test_guests_without_hot_or_without_any_page(tmp_path: Path) -> None:
    image = np.zeros((70, PAGE), np.uint8)
    for _ in range(2):
        with SnapshotFile.open(pack(snapshot_of(image), [[]], tmp_path / "a.aqs")) as opened:
            assert opened.hot_runs.shape == (0, 3)
            assert [opened.page(i) for i in (0, 69)] == [image[0].tobytes(), image[69].tobytes()]
        image[69, 4000] = 1
    with pytest.raises(InputError, match="0-69"):
        opened.class_of(70)
    with pytest.raises(InputError, match="it is zero"):
        opened.slot_of(0)


@given(
    touched=st.lists(st.lists(st.integers(0, 19)), min_size=1, max_size=9),
    tenths=st.integers(1, 10),
)
def test_hot_is_what_enough_recordings_touch(touched: list[list[int]], tenths: int) -> None:
    wanted = ceil(Fraction(tenths, 10) * len(touched))
    found = often_touched(touched, 20, tenths / 10)
    assert found.tolist() == [sum(p in pages for pages in touched) >= wanted for p in range(20)]


def test_recordings_of_another_guest_and_thresholds_out_of_range_are_refused() -> None:
    for pages in ([20], [-1]):
        with pytest.raises(InputError, match="the guest has 20"):
            often_touched([[3], pages], 20)
    for threshold in (0, 1.01, float("nan")):
        with pytest.raises(ConfigError, match=r"hot_threshold=.*\(0, 1\]"):
            often_touched([[3]], 20, threshold)
    with pytest.raises(ConfigError, match="at least one recording"):
        often_touched([], 20)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    image, touched = random_guest(40, 1)
    with pytest.raises(InputError, match="cannot be written"):
        pack(snapshot_of(image), touched, tmp_path / "no folder" / "a.aqs")
    path = pack(snapshot_of(image), touched, tmp_path / "a.aqs")
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        pack(snapshot_of(image), touched, tmp_path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.aqs"]


def test_an_open_file_survives_its_replacement(tmp_path: Path) -> None:
    (first, touched), (second, _) = random_guest(300, 1), random_guest(300, 2)
    with SnapshotFile.open(pack(snapshot_of(first), touched, tmp_path / "a.aqs")) as opened:
        pack(snapshot_of(second), touched, tmp_path / "a.aqs")
        assert all(opened.page(i) == first[i].tobytes() for i in range(300))


def test_features_that_this_processor_lacks_are_named() -> None:
    require_features(features_here(), "a.aqs")
    with pytest.raises(MissingCapability, match="may use bit 63, which this processor lacks"):
        require_features(features_here() | 1 << 63, "a.aqs")
    assert "popcnt" in names_of(features_here())


def write_sparse(path: Path, image: np.ndarray, written: np.ndarray) -> Path:
    with path.open("wb") as file:
        for page in np.flatnonzero(written).tolist():
            file.seek(page * PAGE)
            file.write(image[page].tobytes())
        file.truncate(len(image) * PAGE)
    return path


def test_a_full_memory_file_of_firecracker_is_imported(tmp_path: Path) -> None:
    image, touched = random_guest(2100, 5)
    memory = write_sparse(tmp_path / "mem", image, image.any(axis=1) | (np.arange(2100) % 64 == 0))
    (tmp_path / "state").write_bytes(b"bincode")
    found = import_firecracker(memory, tmp_path / "state")
    with SnapshotFile.open(found.pack(touched, tmp_path / "fc.aqs")) as opened:
        assert (opened.vmm, opened.vmstate, opened.parent) == ("firecracker", b"bincode", None)
        assert all(opened.page(i) == image[i].tobytes() for i in range(2100))


@pytest.mark.parametrize("base", ["mem", "base.aqs"])
def test_a_diff_is_laid_over_its_base(tmp_path: Path, base: str) -> None:
    (under, touched), (over, _) = random_guest(900, 6), random_guest(900, 7)
    written = np.random.default_rng(8).random(900) < 0.4
    (tmp_path / "state").write_bytes(b"1")
    write_sparse(tmp_path / "mem", under, under.any(axis=1))
    pack(snapshot_of(under), touched, tmp_path / "base.aqs")
    diff = write_sparse(tmp_path / "diff", over, written)
    found = import_firecracker(diff, tmp_path / "state", base=tmp_path / base)
    if diff.stat().st_blocks * 512 >= 900 * PAGE:
        pytest.skip("this file system has no holes")
    merged = np.where(written[:, None], over, under)
    with SnapshotFile.open(found.pack(touched, tmp_path / "fc.aqs")) as opened:
        assert all(opened.page(i) == merged[i].tobytes() for i in range(900))
        parent: UUID | None = None
        if base == "base.aqs":
            with SnapshotFile.open(tmp_path / base) as packed:
                parent = packed.uuid
        assert opened.parent == parent


def test_memory_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state, memory = tmp_path / "state", tmp_path / "mem"
    state.write_bytes(b"1")
    memory.write_bytes(bytes(4 * PAGE + 1))
    with pytest.raises(CorruptFile, match="16385 bytes long; must be whole pages"):
        import_firecracker(memory, state)
    memory.write_bytes(bytes(4 * PAGE))
    (tmp_path / "base").write_bytes(bytes(5 * PAGE))
    with pytest.raises(CorruptFile, match="20480 bytes of memory; must be 16384"):
        import_firecracker(memory, state, base=tmp_path / "base")
    for broken in (
        [(0, 3 * PAGE, 0)],
        [(0, 5 * PAGE, 0)],
        [(0, 100, 0), (PAGE, 4 * PAGE - 100, 100)],
        [(0, 2 * PAGE, 0), (PAGE, 2 * PAGE, 2 * PAGE)],
        [(0, 2 * PAGE, 0), (4 * PAGE, 2 * PAGE, 0)],
    ):
        with pytest.raises(CorruptFile, match="regions"):
            import_firecracker(memory, state, regions=tuple(MemoryRegion(*r) for r in broken))
    split = (MemoryRegion(0, PAGE, 0), MemoryRegion(1 << 32, 3 * PAGE, PAGE))
    path = import_firecracker(memory, state, regions=split).pack([[0]], tmp_path / "a.aqs")
    with SnapshotFile.open(path) as opened:
        assert opened.regions == split
    memory.write_bytes(b"")
    os.truncate(memory, (3 << 30) + PAGE)
    with pytest.raises(ConfigError, match="given for more than 3 GiB"):
        import_firecracker(memory, state)
    with pytest.raises(InputError, match="No such file"):
        import_firecracker(tmp_path / "none", state)
