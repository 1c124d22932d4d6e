"""Snapshots of microVMs in a hierarchical memory pool: the virtual machine monitor it stands on.

The paper (Aquifer, arXiv 2606.24079) keeps the snapshots of serverless functions in a pool that the
hosts of a pod share: hot pages in CXL memory, cold ones behind RDMA, zero pages nowhere, and
restores a function by copying its hot pages before it runs. What is here so far is the guest side:
unmodified x86-64 Linux programs in ring 3 of a KVM guest, their system calls served by a small
monitor, snapshots at the ready point, and clones whose memory comes from a copy, a file, or
whoever answers page faults.

    from tidemill.systems.aquifer import MicroVM
    with MicroVM(["/usr/bin/python3.11", "handler.py"], memory="256M") as vm:
        snapshot = vm.run_to_ready().snapshot()
    with MicroVM.restore(snapshot) as clone:
        answer = clone.invoke(b'{"n": 3}')
"""

from tidemill.systems.aquifer.capability import require_kvm
from tidemill.systems.aquifer.config import GuestLimits
from tidemill.systems.aquifer.cxl.cxl_pool import CxlPool
from tidemill.systems.aquifer.cxl.lease import Lease, StaleEpoch
from tidemill.systems.aquifer.firecracker import import_firecracker
from tidemill.systems.aquifer.microvm import GuestFailed, GuestTimeout, MicroVM
from tidemill.systems.aquifer.pack import pack
from tidemill.systems.aquifer.snapshot import GuestRegion, Snapshot
from tidemill.systems.aquifer.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.snapshot_header import MemoryRegion

__all__ = [
    "CxlPool",
    "GuestFailed",
    "GuestLimits",
    "GuestRegion",
    "GuestTimeout",
    "Lease",
    "MemoryRegion",
    "MicroVM",
    "Snapshot",
    "SnapshotFile",
    "StaleEpoch",
    "import_firecracker",
    "pack",
    "require_kvm",
]
