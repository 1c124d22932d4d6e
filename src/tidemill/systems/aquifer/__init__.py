"""Snapshots of microVMs in a hierarchical pool of CXL and RDMA memory.

The paper (Aquifer, arXiv 2606.24079) keeps the snapshots of serverless functions in a pool that the
hosts of a pod share: the hot working set in CXL memory, cold pages behind RDMA, zero pages nowhere.
A function is restored by copying its hot pages into fresh memory before it runs; cold pages follow
as they are touched. The paper reports 2.2x over Firecracker end to end and 1.1x over the next best.
Here guests are real: unmodified x86-64 Linux programs, CPython with NumPy among them, in ring 3 of
a KVM guest, their system calls served by a small monitor, their page faults by a handler without
the GIL. CXL is shared memory and RDMA a page server, neither faster than the link would be.

    from tidemill.systems.aquifer import Agent, MicroVM, SnapshotFile, pack, record
    with MicroVM(["/usr/bin/python3.11", "handler.py"], memory="256M") as vm:
        snapshot = vm.run_to_ready().snapshot()
    touched = [one.pages for one in record(snapshot, [b'{"n": 1}', b'{"n": 2}'])]
    agent.publish("fn", SnapshotFile.open(pack(snapshot, touched, "fn.aqs")))
    answer = agent.invoke("fn", b'{"n": 3}')  # agent = Agent(pool, RemoteTier("unix:/run/aq.sock"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.bench import Context, Paper, Report, Requirement, System, Text
from tidemill.systems.aquifer.agent import Agent
from tidemill.systems.aquifer.aqs.pack import pack
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.aqs.snapshot_header import MemoryRegion
from tidemill.systems.aquifer.capability import missing, require_kvm
from tidemill.systems.aquifer.claims import CLAIMS
from tidemill.systems.aquifer.config import AquiferConfig, GuestLimits
from tidemill.systems.aquifer.cxl.cxl_pool import CxlPool
from tidemill.systems.aquifer.cxl.lease import Lease, StaleEpoch
from tidemill.systems.aquifer.firecracker import import_firecracker
from tidemill.systems.aquifer.microvm import GuestFailed, GuestTimeout, MicroVM
from tidemill.systems.aquifer.recording import Recording, record
from tidemill.systems.aquifer.restore import Restored, RestoreStats
from tidemill.systems.aquifer.snapshot import GuestRegion, MachineState, Snapshot
from tidemill.systems.aquifer.uffd_server import UffdServer

if TYPE_CHECKING:
    import typer

__all__ = [
    "SYSTEM",
    "Agent",
    "AquiferConfig",
    "CxlPool",
    "GuestFailed",
    "GuestLimits",
    "GuestRegion",
    "GuestTimeout",
    "Lease",
    "MachineState",
    "MemoryRegion",
    "MicroVM",
    "Recording",
    "RestoreStats",
    "Restored",
    "Snapshot",
    "SnapshotFile",
    "StaleEpoch",
    "UffdServer",
    "import_firecracker",
    "pack",
    "record",
    "require_kvm",
]


def _run(context: Context) -> Report:
    from tidemill.systems.aquifer.run import run

    return run(context)


def _cli() -> typer.Typer:
    from tidemill.systems.aquifer.cli import app

    return app


SYSTEM = System(
    name="aquifer",
    paper=Paper.beside(__file__),
    summary=Text(
        en="Real microVMs restored in milliseconds from a pool of CXL and RDMA memory, and a "
        "page-fault handler for Firecracker.",
        zh="真实的微型虚拟机在数毫秒内从 CXL 与 RDMA 内存池恢复,并为 Firecracker 提供缺页处理。",
    ),
    config=AquiferConfig,
    run=_run,
    claims=CLAIMS,
    requires=(Requirement("KVM and userfaultfd", missing),),
    cli=_cli,
)
