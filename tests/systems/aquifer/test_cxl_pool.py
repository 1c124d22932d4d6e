"""Pools that hosts share: what is published is what is borrowed, and space comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import (
    ConfigError,
    InputError,
    OutOfPool,
    ProtocolError,
    ResourceError,
)
from tidemill.systems.aquifer import CxlPool, SnapshotFile, StaleEpoch, pack
from tidemill.systems.aquifer.aqs.pack import assemble
from tidemill.systems.aquifer.cxl.lease import Demand
from tidemill.systems.aquifer.snapshot import PAGE

from .images import image_of, snapshot_of
from .pools import MIB, is_of, packed

Hosts = Callable[..., CxlPool]


@pytest.fixture(params=["direct", "incoherent"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    """``hosts(1)`` attaches host 1 of a pool of 4 MiB for three."""
    path = CxlPool.create(tmp_path / "pool", 4 * MIB, hosts=3, slots=6)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ExitStack() as stack:

        def attach(host: int) -> CxlPool:
            seed = host if request.param == "incoherent" else None
            pool = stack.enter_context(CxlPool.attach(path, host, incoherent=seed))
            pool.deadline_s = 0.3
            return pool

        yield attach
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_one_host_publishes_others_borrow(hosts: Hosts) -> None:
    owner, reader = hosts(0), hosts(1)
    snapshot = packed(1)
    assert owner.publish("fn", snapshot) == 1
    with reader.borrow("fn") as lease:
        assert is_of(lease, 1)
        assert (lease.epoch, lease.name, lease.maps.vmstate) == (1, "fn", b"1")
        assert np.array_equal(lease.maps.hot_runs, snapshot.hot_runs)
        assert lease.maps.class_of(29) == "zero"
        with pytest.raises(InputError, match="cold pages are elsewhere"):
            lease.maps.cold  # noqa: B018 - a property that raises
    assert owner.publish("fn", packed(2)) == 2
    with reader.borrow("fn") as lease:
        assert (is_of(lease, 2), lease.epoch) == (True, 2)
    assert reader.names() == ["fn"]


def test_a_lease_keeps_its_extent_until_its_release(hosts: Hosts) -> None:
    owner, reader = hosts(0), hosts(1)
    owner.publish("fn", packed(1))
    lease = reader.borrow("fn")
    with pytest.raises(ResourceError, match=r"waited 0.3 s for host 1 to release slot 0"):
        owner.revoke("fn")
    assert is_of(lease, 1)
    with pytest.raises(StaleEpoch, match="replaced while it was borrowed"):
        reader.borrow("fn")
    assert reader.names() == []
    lease.release()
    lease.release()
    with pytest.raises(ValueError, match="released memoryview"):
        lease.hot[0]
    owner.publish("fn", packed(2))
    with reader.borrow("fn") as lease:
        assert is_of(lease, 2)


def test_two_leases_of_one_host_end_with_the_last(hosts: Hosts) -> None:
    owner, reader = hosts(0), hosts(1)
    owner.publish("fn", packed(1))
    with reader.borrow("fn"):
        with reader.borrow("fn") as second:
            assert is_of(second, 1)
        with pytest.raises(ResourceError, match="waited"):
            owner.revoke("fn")
    owner.publish("fn", packed(2))


def test_what_is_replaced_while_it_is_read_is_freed_by_and_by(hosts: Hosts) -> None:
    owner, reader = hosts(0), hosts(1)
    owner.publish("fn", packed(1))
    alone = owner.free_bytes()
    with reader.borrow("fn") as old:
        assert owner.publish("fn", packed(2)) == 2
        with reader.borrow("fn") as new:
            assert (is_of(old, 1), is_of(new, 2)) == (True, True)
        assert owner.free_bytes() < alone
    assert owner.free_bytes() == alone
    assert owner.publish("fn", packed(3)) == 3


def test_revoke_waits_for_a_reader_in_another_thread(hosts: Hosts) -> None:
    owner, reader = hosts(0), hosts(1)
    owner.deadline_s = 20
    owner.publish("fn", packed(1))
    lease = reader.borrow("fn")
    revoking = threading.Thread(target=owner.revoke, args=("fn",))
    revoking.start()
    revoking.join(0.2)
    assert revoking.is_alive()
    assert is_of(lease, 1)
    lease.release()
    revoking.join(20)
    assert not revoking.is_alive()
    with pytest.raises(InputError, match="not published; there is nothing"):
        reader.borrow("fn")


def test_revoke_waits_for_another_thread_of_its_own_process(hosts: Hosts) -> None:
    owner = hosts(0)
    owner.deadline_s = 20
    owner.publish("fn", packed(1))
    with owner.borrow("fn") as lease:
        revoking = threading.Thread(target=owner.revoke, args=("fn",))
        revoking.start()
        revoking.join(0.2)
        assert revoking.is_alive()
        assert is_of(lease, 1)
        assert lease.uuid == lease.maps.uuid
    revoking.join(20)
    assert owner.names() == []


def test_many_threads_of_two_hosts_restore_while_one_publishes(hosts: Hosts) -> None:
    owner, other = hosts(0), hosts(1)
    owner.deadline_s = other.deadline_s = 20
    owner.publish("fn", packed(0))
    wrong: list[object] = []

    def restore(pool: CxlPool) -> None:
        for _ in range(20):
            try:
                with pool.borrow("fn") as lease:
                    if not is_of(lease, int(lease.maps.vmstate)):
                        wrong.append(lease.epoch)
            except StaleEpoch:
                continue

    threads = [threading.Thread(target=restore, args=(pool,)) for pool in (owner, other) * 3]
    for thread in threads:
        thread.start()
    for seed in range(1, 6):
        owner.publish("fn", packed(seed))
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_snapshot_is_handed_over_with_its_readers(hosts: Hosts) -> None:
    first, second, third = hosts(0), hosts(1), hosts(2)
    first.publish("fn", packed(1))
    with third.borrow("fn") as lease:
        first.transfer("fn", 1)
        with pytest.raises(ProtocolError, match="host 1 owns it"):
            first.publish("fn", packed(2))
        assert second.accept() == ["fn"]
        assert second.accept() == []
        assert is_of(lease, 1)
        with pytest.raises(ResourceError, match="host 2 to release"):
            second.revoke("fn")
    free = first.free_bytes()
    second.publish("fn", packed(2))
    assert first.free_bytes() > free
    with first.borrow("fn") as lease:
        assert is_of(lease, 2)
    with pytest.raises(ProtocolError, match="host 1 owns it"):
        first.revoke("fn")
    with pytest.raises(InputError, match="host 0 has not published it"):
        first.revoke("none")


def test_a_full_pool_keeps_what_it_has(hosts: Hosts) -> None:
    owner = hosts(0)
    owner.publish("fn", packed(1))
    with pytest.raises(OutOfPool, match=r"host 0 has [\d,]+ free in one piece"):
        owner.publish("large", wide(2, 600), demand=Demand(0))
    with owner.borrow("fn") as lease:
        assert is_of(lease, 1)
    owner.publish("second", packed(2))
    with pytest.raises(OutOfPool, match="no free slot of the 6"):
        owner.publish("third", packed(3))
    with pytest.raises(ConfigError, match="name='' — must be 1-32 bytes"):
        owner.publish("", packed(3))
    with pytest.raises(ConfigError, match="1-32 bytes"):
        owner.publish("ü" * 17, packed(3))


def wide(seed: int, pages: int) -> SnapshotFile:
    nonzero = np.ones(pages, bool)
    parts = assemble(snapshot_of(image_of(nonzero, seed)), [range(pages)])
    return SnapshotFile(memoryview(b"".join(parts)), "wide")


def test_the_least_recently_restored_is_evicted_for_room(tmp_path: Path) -> None:
    path = CxlPool.create(tmp_path / "pool", 2 * MIB, hosts=1, slots=8)
    with CxlPool.attach(path, 0) as pool:
        for name in ("a", "b", "c"):
            pool.publish(name, wide(ord(name), 100))
        for name in ("b", "a", "c", "a"):
            pool.borrow(name).release()
        evicted: dict[str, bytes] = {}

        def keep(name: str, data: memoryview) -> None:
            evicted[name] = bytes(data)

        pool.publish("d", wide(ord("d"), 200), on_evict=keep)
        assert sorted(pool.names()) == ["a", "d"]
        assert list(evicted) == ["b", "c"]
        kept = SnapshotFile(memoryview(evicted["b"]), "b")
        assert bytes(kept.hot) == bytes(wide(ord("b"), 100).hot)


def test_a_snapshot_that_is_worth_less_evicts_nobody(tmp_path: Path) -> None:
    path = CxlPool.create(tmp_path / "pool", 2 * MIB, hosts=1, slots=8)
    with CxlPool.attach(path, 0) as pool:
        pool.publish("a", wide(1, 300))
        for _ in range(20):
            pool.borrow("a").release()
        with pytest.raises(OutOfPool, match="nothing worth less to evict"):
            pool.publish("b", wide(2, 300), demand=Demand(restores_per_s=0.001))
        assert pool.names() == ["a"]
        pool.publish("b", wide(2, 300), demand=Demand(restores_per_s=10_000))
        assert pool.names() == ["b"]


def test_a_chunk_is_lent_and_used(hosts: Hosts) -> None:
    first, second = hosts(0), hosts(1)
    before = first.free_bytes(), second.free_bytes()
    assert first.lend_chunk(1)
    second.accept()
    assert first.free_bytes() + second.free_bytes() == sum(before)
    assert second.free_bytes() == before[1] + first.layout.chunk_bytes
    for seed in range(2):
        second.publish(f"s{seed}", packed(seed))
    while first.lend_chunk(2):
        pass
    assert first.free_bytes() == 0


def test_a_host_is_one_process_at_a_time_and_comes_back_to_what_it_had(hosts: Hosts) -> None:
    owner = hosts(0)
    with pytest.raises(ResourceError, match="a running process is it; must be one process"):
        hosts(0)
    owner.publish("fn", packed(1))
    owner.close()
    owner.close()
    with pytest.raises(InputError, match="this end of the pool was closed"):
        owner.names()
    again = hosts(0)
    assert again.owned_names() == ["fn"]
    assert again.publish("fn", packed(2)) == 2


def test_a_dead_host_is_recovered_by_the_manager_only(hosts: Hosts) -> None:
    manager, other, third = hosts(0), hosts(1), hosts(2)
    other.publish("fn", packed(1))
    assert not manager.recover(1)
    with pytest.raises(ProtocolError, match="host 2 cannot fence host 1; host 0 does"):
        third.recover(1)
    other.close()
    assert manager.recover(1)
    assert manager.owned_names() == ["fn"]
    assert manager.publish("fn", packed(2)) == 2
    back = hosts(1)
    assert back.owned_names() == []
    with back.borrow("fn") as lease:
        assert is_of(lease, 2)


ANOTHER = """
import sys, time
from pathlib import Path
from tidemill.systems.aquifer import CxlPool, SnapshotFile
pool = CxlPool.attach(sys.argv[1], 1)
pool.publish("fn", SnapshotFile.open(sys.argv[2]))
lease = pool.borrow("fn")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_host_that_hangs_with_a_lease_is_fenced_and_recovered(
    hosts: Hosts, tmp_path: Path
) -> None:
    manager = hosts(0)
    packed_file = pack(snapshot_of(image_of(np.ones(9, bool), 5)), [range(9)], tmp_path / "a.aqs")
    command = [sys.executable, "-c", ANOTHER, manager.path, str(packed_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert not manager.recover(1)
        assert manager.recover(1, fence=True)
        assert process.wait(10) == -signal.SIGKILL
    assert manager.owned_names() == ["fn"]
    manager.revoke("fn")  # the dead host's lease is void
    assert manager.names() == []


def test_what_a_dead_host_was_revoking_is_not_overwritten_while_it_is_read(hosts: Hosts) -> None:
    manager, owner, reader = hosts(0), hosts(1), hosts(2)
    owner.publish("fn", packed(1))
    free = owner.free_bytes()
    with reader.borrow("fn") as lease:
        with pytest.raises(ResourceError, match="host 2 to release"):
            owner.revoke("fn")
        owner.close()
        assert manager.recover(1)
        assert manager.names() == []
        again = hosts(1)
        assert again.free_bytes() == free
        assert is_of(lease, 1)
    manager.accept()
    assert again.free_bytes() > free


def test_a_publication_that_fails_half_way_leaves_a_free_slot(
    hosts: Hosts,
) -> None:
    owner = hosts(0)
    free = owner.free_bytes()

    class Broken(SnapshotFile):
        pooled = property(lambda _: _Vanishing())  # type: ignore[assignment]

    class _Vanishing:
        def __len__(self) -> int:
            return 3 * PAGE

    broken = object.__new__(Broken)
    with pytest.raises((TypeError, ValueError)):
        owner.publish("fn", broken)
    assert (owner.names(), owner.free_bytes()) == ([], free)
    owner.publish("fn", packed(1))
