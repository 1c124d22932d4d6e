"""Functions restored from the tiers: right answers, right bytes, and nothing but what is needed."""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.memory.touching import freeze

from tidemill.errors import InputError, MissingCapability
from tidemill.memory import PageServer, RemoteTier, Userfaultfd
from tidemill.systems.aquifer import CxlPool, GuestFailed, MicroVM, Snapshot, SnapshotFile, pack
from tidemill.systems.aquifer.agent import PROFILE_RESTORES, Agent, key_of
from tidemill.systems.aquifer.baselines import Packed, Published, strategies
from tidemill.systems.aquifer.recording import record
from tidemill.systems.aquifer.restore import Restored, cold_pages, hot_pages
from tidemill.systems.aquifer.snapshot import PAGE

from .stand_ins import LocalPool

HANDLER = """
import json
import tidemill_guest

notes = [bytes([i % 251 + 1]) * 4096 for i in range(400)]

def handle(request):
    wanted = json.loads(request)
    first, last = wanted["notes"]
    total = sum(notes[i][7] for i in range(first, last))
    scratch = [bytearray(b"x" * 4096) for _ in range(wanted.get("scratch", 0))]
    return json.dumps({"total": total, "scratch": len(scratch)}).encode()

tidemill_guest.serve(handle)
"""
KNOWN = [b'{"notes": [0, 40]}', b'{"notes": [0, 60]}']
OTHER = b'{"notes": [20, 390], "scratch": 50}'
NEAR = b'{"notes": [5, 30]}'


def expected(request: bytes) -> dict[str, int]:
    wanted = json.loads(request)
    total = sum(i % 251 + 1 for i in range(*wanted["notes"]))
    return {"total": total, "scratch": wanted.get("scratch", 0)}


class World:
    """One published function, two memory nodes and an agent."""

    def __init__(self, python: Path, folder: Path) -> None:
        code = folder / "handler.py"
        code.write_text(HANDLER)
        with MicroVM([python, code], memory="64M") as vm:
            self.snapshot: Snapshot = vm.snapshot()
        self.recordings = record(self.snapshot, KNOWN)
        path = pack(self.snapshot, [r.pages.tolist() for r in self.recordings], folder / "fn.aqs")
        self.maps = SnapshotFile.open(path)
        self.servers = [PageServer(f"unix:{folder}/node{i}", 1 << 28) for i in range(2)]
        self.tier = RemoteTier([server.address for server in self.servers], timeout_s=2)
        self.pool = LocalPool()
        self.agent = Agent(self.pool, self.tier, deadline_s=20)
        assert self.agent.publish("fn", self.maps) == 1

    def close(self) -> None:
        for server in self.servers:
            server.close()
        self.maps.close()


@pytest.fixture
def world(python: Path, tmp_path: Path) -> Iterator[World]:
    try:
        Userfaultfd().close()
    except MissingCapability as error:
        pytest.skip(str(error))
    made = World(python, tmp_path)
    yield made
    made.close()


def ask(vm: Restored | MicroVM, request: bytes) -> dict[str, int]:
    return json.loads(vm.invoke(request))


def test_a_recording_is_every_page_that_was_touched_in_its_order(world: World) -> None:
    for recording, request in zip(world.recordings, KNOWN, strict=True):
        assert json.loads(recording.answer) == expected(request)
        assert np.unique(recording.pages).size == recording.pages.size > 100
        assert (np.diff(recording.at_ns) >= 0).all()
    assert world.recordings[1].pages.size > world.recordings[0].pages.size


def test_a_restored_function_answers_as_one_that_was_never_snapshotted(world: World) -> None:
    for request in (*KNOWN, NEAR, OTHER):
        with world.agent.restore("fn") as restored:
            assert ask(restored, request) == expected(request)
    assert json.loads(world.agent.invoke("fn", OTHER)) == expected(OTHER)
    assert world.pool.out == 0


def test_hot_pages_are_there_before_it_runs_and_cold_ones_come_when_touched(world: World) -> None:
    with world.agent.restore("fn") as restored:
        assert restored.stats.hot_bytes == len(world.maps.hot)
        assert restored.stats.faults == {"zero": 0, "cold": 0, "hot": 0}
        assert ask(restored, NEAR) == expected(NEAR)
        assert ask(restored, OTHER) == expected(OTHER)
        stats = restored.stats
        assert stats.faults["hot"] == 0
        assert stats.faults["cold"] > 5
        assert 0 < stats.remote_bytes <= len(world.maps.cold)
    assert world.agent.publish("fn", world.maps) == 2


def test_nothing_is_loaded_but_hot_pages(world: World) -> None:
    """No eager load of everything: what is resident is the hot set, and zero pages of no bytes."""
    with world.agent.restore("fn") as restored:
        region = restored.vm.region
        pagemap = np.fromfile(
            "/proc/self/pagemap", np.uint64, region.size // PAGE, offset=region.address // PAGE * 8
        )
        present = np.flatnonzero(pagemap >> np.uint64(63))
    wanted = [*hot_pages(world.maps), *world.maps.hot_zero, *np.flatnonzero(world.maps.is_dense)]
    extra = np.setdiff1d(present, wanted)
    assert world.maps.dense.size
    assert extra.size <= 0.05 * len(world.maps.hot) / PAGE + 4


def test_memory_is_byte_for_byte_the_snapshot_s(world: World) -> None:
    with world.agent.restore("fn") as restored:
        view = restored.vm.region.view.reshape(-1, PAGE)
        image = np.zeros_like(view)
        image[world.snapshot.nonzero.astype(bool)] = world.snapshot.pages
        for page in [*hot_pages(world.maps).tolist(), *cold_pages(world.maps).tolist()[::7], 5000]:
            np.testing.assert_array_equal(view[page], image[page])


def test_all_ways_to_restore_give_the_same_answers(world: World, tmp_path: Path) -> None:
    segment = tmp_path / "segment"
    segment.mkdir()
    cold = world.tier.find(key_of(world.maps.uuid), len(world.maps.cold))
    whole = world.tier.publish(b"whole" + bytes(11), world.snapshot.pages)
    published = Published(
        world.snapshot,
        *[Packed(world.maps, lambda: world.pool.borrow("fn"), (world.tier, cold))] * 2,
        (world.tier, whole),
        tmp_path,
        segment,
    )
    for name, set_up in strategies(published).items():
        way = set_up()
        for request in (NEAR, OTHER):
            way.prepare()
            with way.restore() as restored:
                assert ask(restored, request) == expected(request), name


def test_the_cold_file_of_the_baseline_is_really_read_from_disk(
    world: World, tmp_path: Path
) -> None:
    from tidemill.systems.aquifer.baselines import Firecracker

    published = Published(
        world.snapshot,
        *[Packed(world.maps, lambda: world.pool.borrow("fn"), (world.tier, None))] * 2,  # type: ignore[arg-type]
        (world.tier, None),  # type: ignore[arg-type]
        tmp_path,
        tmp_path,
    )

    found: list[int] = []
    for is_warm in (False, True):
        way = Firecracker(published, is_warm=is_warm)
        way.prepare()
        found.append(cached_pages(way.file))
        with way.restore() as restored:
            assert ask(restored, NEAR) == expected(NEAR)
        found.append(cached_pages(way.file))
    cold_before, cold_after, warm_before, _ = found
    assert cold_before == 0
    assert len(world.recordings[0].pages) / 4 < cold_after < warm_before


def cached_pages(path: Path) -> int:
    """Pages of a file that the kernel keeps in memory."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        flat = np.frombuffer(mapping, np.uint8)
        known = np.zeros(flat.size // PAGE, np.uint8)
        libc = ctypes.CDLL(None)
        address, size = ctypes.c_void_p(flat.ctypes.data), ctypes.c_size_t(flat.size)
        assert libc.mincore(address, size, ctypes.c_void_p(known.ctypes.data)) == 0
        del flat
    return int((known & 1).sum())


def test_without_memory_nodes_hot_requests_are_answered_and_cold_ones_end_the_guest(
    world: World,
) -> None:
    hurried = Agent(world.pool, world.tier, deadline_s=1.5)
    with hurried.restore("fn") as restored:
        for server in world.servers:
            server.kill()
        assert ask(restored, KNOWN[0]) == expected(KNOWN[0])
        began = time.monotonic()
        with pytest.raises(GuestFailed, match="no server gives its pages"):
            restored.invoke(OTHER)
        assert time.monotonic() - began < 10
        with pytest.raises(GuestFailed):
            restored.invoke(NEAR)


def test_a_node_that_dies_under_way_is_replaced_by_the_other(world: World) -> None:
    with world.agent.restore("fn") as restored:
        freeze(world.servers[0].pid)
        answers: list[dict[str, int]] = []
        thread = threading.Thread(target=lambda: answers.append(ask(restored, OTHER)))
        thread.start()
        time.sleep(0.05)
        os.kill(world.servers[0].pid, signal.SIGKILL)
        thread.join()
        assert answers == [expected(OTHER)]
        assert restored.stats.failovers >= 1


def test_another_content_under_the_same_offsets_ends_the_guest(world: World) -> None:
    with world.agent.restore("fn") as restored:
        for replica in range(2):
            world.tier.native.put(replica, 0, np.full(len(world.maps.cold), 7, np.uint8))
        with pytest.raises(GuestFailed, match="not what was published"):
            restored.invoke(OTHER)


def test_many_clones_at_once(world: World) -> None:
    wrong: list[object] = []

    def clone(number: int) -> None:
        request = json.dumps({"notes": [number, number + 300]}).encode()
        with world.agent.restore("fn") as restored:
            if (answer := ask(restored, request)) != expected(request):
                wrong.append(answer)

    threads = [threading.Thread(target=clone, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert world.pool.out == 0


def test_a_restore_that_fails_leaves_nothing(world: World) -> None:
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208
    world.agent.restore("fn").close()
    middle = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    world.pool.published["fn"] = type(world.pool.published["fn"])(
        memoryview(bytes(PAGE)), world.maps, 1
    )
    with pytest.raises(ValueError, match="outside the pages"):
        world.agent.restore("fn")
    assert world.pool.out == 0
    after = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert after[0] == middle
    assert after[1] == before[1]


def test_a_snapshot_that_replaces_another_is_the_one_restored(world: World, tmp_path: Path) -> None:
    assert ask_once(world, NEAR) == expected(NEAR)
    with MicroVM.restore(world.snapshot) as vm:
        vm.invoke(OTHER)
        later = vm.snapshot()
    touched = [one.pages.tolist() for one in record(later, KNOWN[:1])]
    with SnapshotFile.open(pack(later, touched, tmp_path / "later.aqs")) as maps:
        assert world.agent.publish("fn", maps) == 2
        with world.agent.restore("fn") as restored:
            assert restored.stats.hot_bytes == len(maps.hot)
            assert ask(restored, OTHER) == expected(OTHER)


def test_cold_pages_of_what_is_replaced_stay_until_its_clones_are_gone(
    world: World, tmp_path: Path
) -> None:
    taken = (1 << 28) - world.tier.room()[0]
    assert taken == len(world.maps.cold)
    with world.agent.restore("fn") as old:
        with SnapshotFile.open(
            pack(world.snapshot, [KNOWN_PAGES], tmp_path / "later.aqs")
        ) as later:
            world.agent.publish("fn", later)
            cold = len(later.cold)
            with world.agent.restore("fn") as new:
                assert ask(new, OTHER) == ask(old, OTHER) == expected(OTHER)
        assert (1 << 28) - world.tier.room()[0] == taken + cold
    del old
    gc.collect()
    assert (1 << 28) - world.tier.room()[0] == cold


KNOWN_PAGES = list(range(100, 300))


def test_what_was_evicted_is_restored_from_the_nodes_and_comes_back(
    world: World, tmp_path: Path
) -> None:
    size = 8 * len(world.maps.pooled)  # one of eight chunks' neighbours: room for one of them
    path = CxlPool.create(tmp_path / "pool", size // 4, hosts=1)
    with CxlPool.attach(path, 0) as pool:
        agent = Agent(pool, world.tier, deadline_s=20)
        agent.publish("fn", world.maps)
        assert json.loads(agent.invoke("fn", NEAR)) == expected(NEAR)
        with SnapshotFile.open(
            pack(world.snapshot, [r.pages.tolist() for r in world.recordings], tmp_path / "b.aqs")
        ) as other:
            agent.publish("other", other)
            assert pool.names() == ["other"]
            for name in ("fn", "other"):
                with agent.restore(name) as restored:
                    assert ask(restored, OTHER) == expected(OTHER)
                    assert restored.stats.faults["hot"] == 0
            assert agent.fetch("fn").header == world.maps.header
            agent.publish("fn", world.maps)
            assert pool.names() == ["fn"]
            assert json.loads(agent.invoke("other", NEAR)) == expected(NEAR)
            with pytest.raises(InputError, match="not published"):
                agent.restore("nothing")


def test_a_function_whose_hot_pages_changed_is_recorded_anew(world: World) -> None:
    for _ in range(PROFILE_RESTORES):
        assert json.loads(world.agent.invoke("fn", OTHER)) == expected(OTHER)
    assert world.agent.outdated() == ["fn"]
    before = world.agent.stats["fn"].faults["cold"]
    assert world.agent.reprofile("fn", [OTHER]) == 2
    assert world.agent.outdated() == []
    assert json.loads(world.agent.invoke("fn", OTHER)) == expected(OTHER)
    assert world.agent.stats["fn"].faults["cold"] < before / 4


def test_the_rest_trickles_in_while_nobody_asks(world: World) -> None:
    with Agent(world.pool, world.tier, trickles=True, deadline_s=20).restore("fn") as restored:
        limit = time.monotonic() + 60
        while restored.stats.remote_bytes < len(world.maps.cold) and time.monotonic() < limit:
            time.sleep(0.01)
        for server in world.servers:
            server.kill()
        assert ask(restored, OTHER) == expected(OTHER)
        assert restored.stats.faults["cold"] == 0


def ask_once(world: World, request: bytes) -> dict[str, int]:
    return json.loads(world.agent.invoke("fn", request))


def test_two_hosts_share_a_pool_without_coherent_caches(world: World, tmp_path: Path) -> None:
    path = CxlPool.create(tmp_path / "pool", 64 << 20, hosts=2)
    with (
        CxlPool.attach(path, 0, incoherent=1) as ours,
        CxlPool.attach(path, 1, incoherent=2) as theirs,
    ):
        publisher, reader = Agent(ours, world.tier), Agent(theirs, world.tier)
        publisher.publish("fn", world.maps)
        assert json.loads(reader.invoke("fn", OTHER)) == expected(OTHER)
        assert reader.stats["fn"].faults["hot"] == 0
        with MicroVM.restore(world.snapshot) as vm:
            vm.invoke(OTHER)
            later = vm.snapshot()
        with SnapshotFile.open(pack(later, [[]], tmp_path / "later.aqs")) as maps:
            publisher.publish("fn", maps)
            assert json.loads(reader.invoke("fn", OTHER)) == expected(OTHER)
            assert reader.stats["fn"].hot_bytes == 0


def test_what_nobody_published_cannot_be_restored(world: World) -> None:
    with pytest.raises(InputError, match="not published"):
        world.agent.restore("other")
