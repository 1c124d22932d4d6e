"""Pools that hosts share: what is published is what is borrowed, and space comes back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidemill.errors import (
    ConfigError,
    CorruptFile,
    InputError,
    OutOfPool,
    ProtocolError,
    ResourceError,
)
from tidemill.systems.aquifer import CxlPool, Lease, SnapshotFile, StaleEpoch
from tidemill.systems.aquifer.aqs.pack import assemble
from tidemill.systems.aquifer.cxl.lease import Demand
from tidemill.systems.aquifer.cxl.stress import stress
from tidemill.systems.aquifer.snapshot import PAGE

from .images import image_of, snapshot_of

MIB = 1 << 20
Hosts = Callable[..., CxlPool]


def packed(seed: int, hot_pages: int = 6) -> SnapshotFile:
    """A snapshot of 30 pages, some hot, some cold; other bytes for another seed."""
    nonzero = np.zeros(30, bool)
    nonzero[: hot_pages + 3] = True
    parts = assemble(snapshot_of(image_of(nonzero, seed), b"%d" % seed), [range(hot_pages)])
    return SnapshotFile(memoryview(b"".join(parts)), f"snapshot {seed}")


def is_of(lease: Lease, seed: int, hot_pages: int = 6) -> bool:
    lease.maps.verify()
    return bytes(lease.hot) == bytes(packed(seed, hot_pages).hot)


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


def test_a_pool_that_is_cut_while_mapped_is_an_error_and_no_signal(tmp_path: Path) -> None:
    path = CxlPool.create(tmp_path / "pool", 2 * MIB, hosts=2, slots=2)
    with CxlPool.attach(path, 0) as owner, CxlPool.attach(path, 1, incoherent=1) as reader:
        owner.publish("fn", packed(1))
        os.truncate(path, 0)
        for act in (owner.names, lambda: owner.publish("fn", packed(2)), reader.names):
            with pytest.raises(ResourceError, match="its file was cut to 0 bytes while mapped"):
                act()


def test_what_is_no_pool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    with pytest.raises(InputError, match="No such file"):
        CxlPool.attach(path, 0)
    path.write_bytes(b"AQCX")
    with pytest.raises(CorruptFile, match="shorter than its superblock"):
        CxlPool.attach(path, 0)
    path.write_bytes(bytes(2 * PAGE))
    with pytest.raises(CorruptFile, match="begins with"):
        CxlPool.attach(path, 0)
    with pytest.raises(InputError, match="File exists"):
        CxlPool.create(path, 2 * MIB)
    with pytest.raises(InputError, match="No such file"):
        CxlPool.create(tmp_path / "none" / "pool", 2 * MIB)
    for settings_, error in (
        ({"size": 1000}, "size=1000 — must be at least"),
        ({"size": MIB, "hosts": 0}, "hosts=0 — must be in 1-64"),
        ({"size": MIB, "slots": 5000}, "slots=5000"),
    ):
        with pytest.raises(ConfigError, match=error):
            CxlPool.create(tmp_path / "new", **settings_)
    path.unlink()
    CxlPool.create(path, 2 * MIB, hosts=2, slots=2)
    whole = path.read_bytes()
    for host in (-1, 2):
        with pytest.raises(ConfigError, match=r"host=.* — must be in 0-1"):
            CxlPool.attach(path, host)
    path.write_bytes(whole[:-PAGE])
    with pytest.raises(CorruptFile, match="bytes long instead of"):
        CxlPool.attach(path, 0)
    path.write_bytes(whole[:16] + b"\1" + whole[17:])
    with pytest.raises(CorruptFile, match="superblock is damaged"):
        CxlPool.attach(path, 0)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["pool"]


def test_a_pool_of_a_descriptor_cannot_be_cut(tmp_path: Path) -> None:
    fd = CxlPool.create_memfd(2 * MIB, hosts=2, slots=2)
    try:
        with CxlPool.attach(f"/proc/self/fd/{fd}", 0) as pool:
            pool.publish("fn", packed(1))
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            facts = pool.facts()
            assert facts["bytes"] == os.fstat(fd).st_size
            assert "fn" in str(facts["published"])
    finally:
        os.close(fd)


class Pool(RuleBasedStateMachine):
    """Three hosts with adversarial caches, against a dictionary of what is published by whom."""

    @initialize(seed=st.integers(0, 1 << 20))
    def begin(self, seed: int) -> None:
        fd = CxlPool.create_memfd(MIB, hosts=3, slots=6)
        self.path = f"/proc/self/fd/{fd}"
        self.fd, self.seed = fd, seed
        self.hosts = [CxlPool.attach(self.path, host, incoherent=seed + host) for host in range(3)]
        for host in self.hosts:
            host.deadline_s = 0.05
        self.model: dict[str, tuple[int, int]] = {}
        self.read_on: dict[str, int] = {}
        self.leases: list[tuple[Lease, str, int]] = []

    names = st.sampled_from(["a", "b", "c", "d"])
    any_host = st.integers(0, 2)

    @rule(host=any_host, name=names, seed=st.integers(0, 999))
    def publish(self, host: int, name: str, seed: int) -> None:
        owner = self.model.get(name, (self.read_on.get(name, host), 0))[0]
        if owner != host:
            try:
                self.hosts[host].publish(name, packed(seed))
            except ProtocolError:
                return
            assert name not in self.model
            self.model[name] = host, seed
        else:
            before = self.hosts[host].names()
            try:
                self.hosts[host].publish(name, packed(seed))
            except OutOfPool:
                assert self.hosts[host].names() == before
            except ResourceError:  # no slot to spare, and somebody reads on
                self.model.pop(name, None)
                self.read_on[name] = host
            else:
                self.model[name] = host, seed

    @rule(host=any_host, name=names)
    def borrow(self, host: int, name: str) -> None:
        if name not in self.model:
            with pytest.raises((InputError, StaleEpoch)):
                self.hosts[host].borrow(name)
            return
        self.leases.append((self.hosts[host].borrow(name), name, self.model[name][1]))

    @rule()
    def release(self) -> None:
        if self.leases:
            self.leases.pop(0)[0].release()

    @rule(name=names)
    def revoke(self, name: str) -> None:
        if name in self.model and not any(held == name for _, held, _ in self.leases):
            self.hosts[self.model.pop(name)[0]].revoke(name)

    @rule(name=names, to=any_host)
    def transfer(self, name: str, to: int) -> None:
        owner, seed = self.model.get(name, (to, 0))
        if owner != to:
            try:
                self.hosts[owner].transfer(name, to)
            except ResourceError:  # an older one of this name is still read
                return
            with suppress(StaleEpoch):
                self.hosts[owner].borrow(name).release()
            assert self.hosts[to].accept() == [name]
            self.model[name] = to, seed

    @rule(host=any_host)
    def restart(self, host: int) -> None:
        pool = self.hosts[host]
        pool.close()
        self.leases = [entry for entry in self.leases if not entry[0].is_released]
        self.hosts[host] = CxlPool.attach(self.path, host, incoherent=self.seed + 7 * host)
        self.hosts[host].deadline_s = 0.05

    @invariant()
    def every_lease_and_every_host_sees_what_was_published(self) -> None:
        for lease, _, seed in getattr(self, "leases", []):
            assert is_of(lease, seed)
        for host in getattr(self, "hosts", []):
            assert sorted(host.names()) == sorted(self.model)

    def teardown(self) -> None:
        for lease, _, _ in getattr(self, "leases", []):
            lease.release()
        for host in getattr(self, "hosts", []):
            for name in host.owned_names():
                host.revoke(name)
        if hasattr(self, "hosts"):
            free = sum(host.free_bytes() for host in self.hosts)
            layout = self.hosts[0].layout
            assert free == layout.chunks * layout.chunk_bytes
            for host in self.hosts:
                host.close()
            os.close(self.fd)


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("incoherent", [True, False])
def test_four_processes_killed_at_random_never_read_another_epoch(
    tmp_path: Path, incoherent: bool
) -> None:
    report = stress(6, incoherent=incoherent, seed=int(incoherent), folder=tmp_path)
    assert report.violations == ()
    assert report.kills > 0
    assert report.published > 0
    assert report.reclaimed
    assert list(tmp_path.iterdir()) == []
