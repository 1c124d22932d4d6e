"""One host, a segment of pool memory, memory nodes, and functions published to them: for trials."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tidemill.bench import Context, Measurement, StandIn, Status
from tidemill.memory import CXL, RDMA, PageServer, RemoteTier
from tidemill.systems.aquifer.agent import Agent, key_of, lending
from tidemill.systems.aquifer.aqs.pack import pack
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.baselines import Packed, Published
from tidemill.systems.aquifer.config import DENSE_PAGES
from tidemill.systems.aquifer.cxl.cxl_pool import CxlPool
from tidemill.systems.aquifer.recording import Recording, record
from tidemill.systems.aquifer.snapshot import Snapshot
from tidemill.systems.aquifer.workloads import Function

SHARED_MEMORY = Path("/dev/shm")
_NODE_BYTES = 4 << 30
_POOL_BYTES = 512 << 20
_PLAIN = ".4k"

STAND_INS = (
    StandIn(
        "a CXL 2.0 multi-headed memory device",
        Status.EMULATED,
        f"shared memory of this host, its lines flushed as on one, never faster than {CXL}",
    ),
    StandIn(
        "memory nodes behind RDMA network cards",
        Status.EMULATED,
        f"a page server process over Unix sockets, never faster than {RDMA}",
    ),
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A function in the pod.

    Attributes:
        function: which.
        published: as every strategy finds it.
        recordings: of input A.
        answer: to input B, by a guest that was never snapshotted.
    """

    function: Function
    published: Published
    recordings: list[Recording]
    answer: bytes

    @property
    def maps(self) -> SnapshotFile:
        """Its packed snapshot."""
        return self.published.ours.maps


class Pod:
    """Use as a context manager: all of it goes with the block.

    Raises:
        ResourceError: the memory node does not start.
    """

    def __init__(self, hot_threshold: float = 0.5, dense_pages: int = DENSE_PAGES) -> None:
        self._hot_threshold, self._dense_pages = hot_threshold, dense_pages
        self._stack = ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stack.close)
            self.folder = self._folder(None)
            self.segment = self._folder(SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
            address = f"unix:{self.folder}/node"
            node = self._stack.enter_context(PageServer(address, _NODE_BYTES))
            self.remote = RemoteTier(node.address)
            path = CxlPool.create(self.segment / "pool", _POOL_BYTES, hosts=2)
            self.pool = self._stack.enter_context(CxlPool.attach(path, 0))
            self.agent = Agent(self.pool, self.remote)
            undo.pop_all()

    def _folder(self, where: Path | None) -> Path:
        made = Path(tempfile.mkdtemp(prefix="tidemill-aquifer-", dir=where))
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    def admit(self, function: Function) -> Tenant:
        """Boot a function, record it on input A, pack and publish it.

        Raises:
            MissingCapability: its guest cannot run here.
        """
        with function.boot() as vm:
            snapshot = vm.snapshot()
            answer = vm.invoke(function.measured())
        recordings = record(snapshot, function.recorded())
        touched = [one.pages.tolist() for one in recordings]
        ours = self._publish(function.name, snapshot, touched, self._dense_pages)
        plain = self._publish(f"{function.name}{_PLAIN}", snapshot, touched, 0)
        whole = self.remote.publish(_whole(ours.maps), snapshot.pages)
        published = Published(
            snapshot, ours, plain, (self.remote, whole), self.folder, self.segment
        )
        return Tenant(function, published, recordings, answer)

    def _publish(
        self, name: str, snapshot: Snapshot, touched: list[list[int]], dense_pages: int
    ) -> Packed:
        path = self.folder / f"{name}.aqs"
        pack(snapshot, touched, path, self._hot_threshold, dense_pages=dense_pages)
        maps = SnapshotFile.open(path)
        self._stack.callback(maps.close)
        self.agent.publish(name, maps)
        cold = self.remote.publish(key_of(maps.uuid), maps.cold)
        return Packed(maps, lending(self.pool, name, maps.uuid), (self.remote, cold))

    def dismiss(self, tenant: Tenant) -> None:
        """Give back what a function takes but its packed snapshot."""
        for path in tenant.published.files.values():
            path.unlink(missing_ok=True)
        for name in (tenant.function.name, f"{tenant.function.name}{_PLAIN}"):
            self.pool.revoke(name)
        published = tenant.published
        for maps in (published.ours.maps, published.plain.maps):
            self.remote.free(key_of(maps.uuid))
        self.remote.free(_whole(published.ours.maps))

    def close(self) -> None:
        """End the memory node and remove all files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole(maps: SnapshotFile) -> bytes:
    """What the extent of all its pages is called."""
    return bytes(byte ^ 0xFF for byte in key_of(maps.uuid))


def in_pod(
    trial: Callable[[Context, Pod], Iterable[Measurement]],
) -> Callable[[Context], Iterator[Measurement]]:
    """A trial that gets a pod of its own, with the threshold of the configuration."""

    def measure(context: Context) -> Iterator[Measurement]:
        with Pod(context.config.hot_threshold, context.config.dense_pages) as pod:
            yield from trial(context, pod)

    return measure
