"""Processes that publish, borrow, revoke and hand over at random, and are killed at random.

Every hot page says which publication it belongs to, as does the state beside it; every host writes
down what it published and what it read. In the end each epoch of each slot must have been one
publication for all, no page of another may have been seen, and all space must be free again.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from tidemill.errors import CorruptFile, TidemillError
from tidemill.systems.aquifer.aqs.pack import assemble
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.config import GuestLimits
from tidemill.systems.aquifer.cxl.cxl_pool import CxlPool
from tidemill.systems.aquifer.cxl.layout import CHUNKS_PER_HOST
from tidemill.systems.aquifer.cxl.lease import Lease
from tidemill.systems.aquifer.snapshot import PAGE, Snapshot

_STAMP = struct.Struct("<QQ")
_NAMES = 3


@dataclass(frozen=True, slots=True)
class StressReport:
    """What happened.

    Attributes:
        kills: processes ended by SIGKILL, each followed by another for its host.
        published: publications that returned.
        borrowed: leases whose every page was compared.
        refused: requests that were answered with an error, by its class.
        violations: what must never be, in words; empty if all is well.
        reclaimed: whether all space was free at the end.
    """

    seconds: float
    kills: int
    published: int
    borrowed: int
    refused: dict[str, int]
    violations: tuple[str, ...]
    reclaimed: bool


def stress(
    seconds: float,
    *,
    hosts: int = 4,
    seed: int = 0,
    incoherent: bool = True,
    kill_every_s: float = 1.0,
    folder: str | Path = "/dev/shm",
) -> StressReport:
    """Run ``hosts`` processes over a new pool in ``folder`` and kill one now and then."""
    generator = random.Random(seed)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidemill-stress-") as where:
        path = CxlPool.create(Path(where) / "pool", 6 << 20, hosts=hosts, slots=5 * hosts)
        log, end = Path(where) / "log", time.time() + seconds

        def start(host: int) -> BaseProcess:
            chosen = generator.randrange(1 << 30)
            options = {"incoherent": incoherent, "log": str(log), "end": end}
            process = context.Process(target=_live, args=(str(path), host, chosen), kwargs=options)
            process.start()
            return process

        running = [start(host) for host in range(hosts)]
        kills = broken = 0
        while time.time() < end - kill_every_s:
            time.sleep(generator.uniform(0.2, 1.8) * kill_every_s)
            host = generator.randrange(hosts)
            was_killed, was_broken = _killed(running[host], end)
            kills, broken = kills + was_killed, broken + was_broken
            if generator.random() < 0.5:  # long enough to be fenced, sometimes
                time.sleep(generator.uniform(0, kill_every_s))
            running[host] = start(host)
        broken += sum(_ended(process) for process in running)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        reclaimed = _is_reclaimed(path, hosts)
    lines += ["BAD a process ended by itself"] * broken
    return _report(seconds, kills, lines, reclaimed)


def _killed(process: BaseProcess, end: float) -> tuple[bool, bool]:
    """Whether it was killed now, or had ended by itself before ``end`` or with an error."""
    was_running, is_early = process.is_alive(), time.time() < end
    if was_running and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    is_broken = not was_running and (is_early or process.exitcode != 0)
    process.close()
    return was_running, is_broken


def _ended(process: BaseProcess) -> bool:
    """Whether it ended with an error."""
    process.join()
    is_broken = process.exitcode != 0
    process.close()
    return is_broken


def _live(path: str, host: int, seed: int, *, incoherent: bool, log: str, end: float) -> None:
    """One host's process until ``end``."""
    generator = random.Random(seed)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def say(*words: object) -> None:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())

    pool = CxlPool.attach(path, host, incoherent=seed if incoherent else None)
    pool.deadline_s = 2.0
    acts: list[Callable[[CxlPool, random.Random, Callable[..., None]], None]] = [
        *([_borrow] * 8),
        *([_publish] * 4),
        *(_revoke, _hand_over, _lend),
    ]
    with pool:
        while time.time() < end:
            try:
                if generator.random() < 0.1:
                    pool.accept()
                    if host == 0:
                        for other in range(1, pool.layout.hosts):
                            pool.recover(other)
                generator.choice(acts)(pool, generator, say)
            except CorruptFile as error:
                say("BAD", host, repr(str(error)))
            except TidemillError as error:
                say("NO", type(error).__name__)


def _publish(pool: CxlPool, generator: random.Random, say: Callable[..., None]) -> None:
    name = f"h{pool.host}-{generator.randrange(_NAMES)}"
    nonce = generator.getrandbits(63)
    parts = assemble(_stamped(name, nonce, generator.randrange(8, 60)), [range(80)])
    say("TRY", name, nonce)
    pool.publish(name, SnapshotFile(memoryview(b"".join(parts)), name))
    say("PUT", name, nonce)


def _borrow(pool: CxlPool, generator: random.Random, say: Callable[..., None]) -> None:
    name = f"h{generator.randrange(pool.layout.hosts)}-{generator.randrange(_NAMES)}"
    with pool.borrow(name) as lease:
        if generator.random() < 0.2:
            time.sleep(generator.uniform(0, 0.01))
        nonce, wrong = _read(lease)
        if wrong or lease.name != name:
            say("BAD", pool.host, name, lease.name, lease.epoch, nonce, wrong)
        say("GOT", name, nonce, lease.borrowed.slot, lease.epoch)


def _read(lease: Lease) -> tuple[int, int]:
    """The publication that the state names, and how many hot pages are of another."""
    nonce, name = _STAMP.unpack(lease.maps.vmstate)
    lease.maps.verify()
    pages = np.frombuffer(lease.hot, np.uint64).reshape(-1, PAGE // 8)
    wrong = int(((pages[:, ::2] != nonce) | (pages[:, 1::2] != name)).any(axis=1).sum())
    return nonce, wrong + (name != _number(lease.name))


def _revoke(pool: CxlPool, generator: random.Random, _: Callable[..., None]) -> None:
    if names := pool.owned_names():
        pool.revoke(generator.choice(names))


def _hand_over(pool: CxlPool, generator: random.Random, _: Callable[..., None]) -> None:
    if names := pool.owned_names():
        to = (pool.host + generator.randrange(1, pool.layout.hosts)) % pool.layout.hosts
        pool.transfer(generator.choice(names), to)


def _lend(pool: CxlPool, generator: random.Random, _: Callable[..., None]) -> None:
    pool.lend_chunk((pool.host + generator.randrange(1, pool.layout.hosts)) % pool.layout.hosts)


def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "little")


def _stamped(name: str, nonce: int, pages: int) -> Snapshot:
    stamp = _STAMP.pack(nonce, _number(name))
    page = np.frombuffer(stamp * (PAGE // len(stamp)), np.uint8)
    nonzero = np.zeros(80, np.uint8)
    nonzero[:pages] = 1
    return Snapshot(stamp, nonzero, np.tile(page, (pages, 1)), (), GuestLimits())


def _is_reclaimed(path: Path, hosts: int) -> bool:
    """Whether, once each host has revoked what it owns, every chunk is free."""
    free = total = 0
    for _ in range(2):  # what is offered is accepted in the first round
        free = 0
        for host in range(hosts):
            with CxlPool.attach(path, host) as pool:
                pool.accept()
                if host == 0:
                    for other in range(1, hosts):
                        pool.recover(other)
                for name in pool.owned_names():
                    pool.revoke(name)
        for host in range(hosts):
            with CxlPool.attach(path, host) as pool:
                free += pool.free_bytes()
                total = hosts * CHUNKS_PER_HOST * pool.layout.chunk_bytes
    return free == total


def _report(seconds: float, kills: int, lines: list[str], reclaimed: bool) -> StressReport:
    kinds = Counter(line.split(" ", 1)[0] for line in lines)
    refused = Counter(line.split()[1] for line in lines if line.startswith("NO "))
    violations = [line for line in lines if line.startswith("BAD ")]
    tried = {line.removeprefix("TRY ") for line in lines if line.startswith("TRY ")}
    nonces: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if line.startswith("GOT "):
            _, name, nonce, slot_and_epoch = line.split(" ", 3)
            nonces[slot_and_epoch].add(nonce)
            if f"{name} {nonce}" not in tried:
                violations.append(f"{line}: never published")
    violations += [
        f"slot and epoch {place}: {len(found)} publications"
        for place, found in nonces.items()
        if len(found) > 1
    ]
    return StressReport(
        *(seconds, kills, kinds["PUT"], kinds["GOT"], dict(refused), tuple(violations), reclaimed)
    )
