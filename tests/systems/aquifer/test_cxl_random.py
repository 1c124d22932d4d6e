"""Random use of a pool: three hosts against a model, and processes that are killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidemill.errors import InputError, OutOfPool, ProtocolError, ResourceError
from tidemill.systems.aquifer import CxlPool, Lease, StaleEpoch
from tidemill.systems.aquifer.cxl.stress import stress

from .pools import MIB, is_of, packed


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
