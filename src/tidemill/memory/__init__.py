"""Tiers of memory behind one protocol: links and their times, page faults, memory of other nodes.

It owns how a page gets from where it lies to where it is touched: userfaultfd (real), page servers
with one-sided reads (RDMA, emulated by sockets) and the time that a link would have taken. Its law:
a page that is asked for is installed as it was published, or whoever waits for it is ended. It
knows nothing about snapshots, virtual machines or what a page means.
"""

from tidemill.memory.checksums import crc32c, crc32c_of_chunks
from tidemill.memory.fault_handler import FaultHandler, GuestRange, PageSource
from tidemill.memory.link import CXL, RDMA, Link, LinkClock
from tidemill.memory.page_server import PageServer
from tidemill.memory.remote import RemoteExtent, RemoteHold, RemoteTier
from tidemill.memory.tier import Tier, TierKind
from tidemill.memory.userfaultfd import FaultEvent, Userfaultfd

__all__ = [
    "CXL",
    "RDMA",
    "FaultEvent",
    "FaultHandler",
    "GuestRange",
    "Link",
    "LinkClock",
    "PageServer",
    "PageSource",
    "RemoteExtent",
    "RemoteHold",
    "RemoteTier",
    "Tier",
    "TierKind",
    "Userfaultfd",
    "crc32c",
    "crc32c_of_chunks",
]
