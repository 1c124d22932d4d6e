"""``tidemill aquifer``: functions into microVMs, their snapshots into the pool and out of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tidemill.errors import ConfigError, InputError
from tidemill.memory import RemoteTier
from tidemill.systems.aquifer import (
    Agent,
    CxlPool,
    MicroVM,
    SnapshotFile,
    UffdServer,
    import_firecracker,
    pack,
    record,
)
from tidemill.systems.aquifer.agent import key_of, lending
from tidemill.systems.aquifer.aqs.snapshot_file import census
from tidemill.systems.aquifer.config import DENSE_PAGES, memory_bytes
from tidemill.systems.aquifer.cxl.cli import app as protocol
from tidemill.systems.aquifer.snapshot import PAGE
from tidemill.systems.aquifer.uffd_server import Served

app = typer.Typer(help="MicroVM snapshots in a pool of CXL and RDMA memory.", no_args_is_help=True)

SnapshotPath = Annotated[Path, typer.Argument(help="An .aqs file.")]
Output = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Nodes = Annotated[
    list[str], typer.Option("--rdma", help="Address of a memory node; more are replicas.")
]
PoolPath = Annotated[Path, typer.Argument(help="The pool's file.")]
PoolOption = Annotated[Path, typer.Option("--pool", help="The CXL pool's file.")]
Host = Annotated[int, typer.Option(help="Which host of the pool this process is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
pool_app = typer.Typer(help="CXL pools.", no_args_is_help=True)
app.add_typer(pool_app, name="pool")
app.registered_commands += protocol.registered_commands
_COMMAND = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_COMMAND)
def boot(
    command: Annotated[list[str], typer.Argument(help="Program and arguments, after `--`.")],
    *,
    out: Output,
    memory: Annotated[str, typer.Option(help="The guest's memory, 8M to 3G.")] = "256M",
    root: Annotated[list[str] | None, typer.Option(help="Folder that it may read.")] = None,
    as_json: AsJson = False,
) -> None:
    """Boot a program in a microVM, run it to its ready point and write its snapshot.

    All its pages are cold until `record` and `pack` have told which are hot.
    """
    began = time.perf_counter()
    with MicroVM(command, memory=memory, roots=root or ()) as vm:
        snapshot = vm.snapshot()
        for warning in vm.warnings:
            typer.echo(f"warning: {warning}", err=True)
    seconds = time.perf_counter() - began
    with SnapshotFile.open(pack(snapshot, [[]], out)) as made:
        _tell(census(made) | {"boot_s": round(seconds, 3)}, as_json)


@app.command(name="record")
def record_touched(
    snapshot: SnapshotPath,
    *,
    requests: Annotated[Path, typer.Option(help="One request a line.")],
    out: Output,
    as_json: AsJson = False,
) -> None:
    """Ask a snapshot each request with every page missing; write which pages it touches."""
    lines = [line for line in _read(requests).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{requests} holds no request; write one a line.")
    with SnapshotFile.open(snapshot) as opened:
        found = record(opened.snapshot(), lines)
    rows = [{"pages": one.pages.tolist(), "at_ns": one.at_ns.tolist()} for one in found]
    out.write_text(json.dumps(rows), encoding="utf-8")
    counts = [one.pages.size for one in found]
    _tell({"file": str(out), "recordings": len(found), "touched_pages": counts}, as_json)


@app.command(name="pack")
def pack_snapshot(
    snapshot: SnapshotPath,
    *,
    touched: Annotated[Path, typer.Option(help="What `record` wrote.")],
    out: Output,
    hot_threshold: Annotated[float, typer.Option(help="Share of recordings, in (0, 1].")] = 0.5,
    dense_pages: Annotated[
        int, typer.Option(help="Touched pages that get a block of 512 a huge page; 0: none.")
    ] = DENSE_PAGES,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot anew, hot pages apart from cold ones."""
    with SnapshotFile.open(snapshot) as opened:
        pack(opened.snapshot(), _recordings(touched), out, hot_threshold, dense_pages=dense_pages)
    with SnapshotFile.open(out) as made:
        _tell(census(made), as_json)


@app.command(name="import-firecracker")
def import_from_firecracker(
    *,
    mem: Annotated[Path, typer.Option(help="Firecracker's memory file.")],
    vmstate: Annotated[Path, typer.Option(help="Its state file.")],
    out: Output,
    base: Annotated[Path | None, typer.Option(help="What a diff was taken over.")] = None,
    touched: Annotated[Path | None, typer.Option(help="Pages touched, as of `record`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a snapshot of Firecracker, full or a diff over another."""
    image = import_firecracker(mem, vmstate, base=base)
    image.pack([[]] if touched is None else _recordings(touched), out)
    with SnapshotFile.open(out) as made:
        _tell(census(made), as_json)


@app.command()
def inspect(snapshot: SnapshotPath, *, as_json: AsJson = False) -> None:
    """Show what a packed snapshot holds: pages by class, runs, bytes by tier."""
    with SnapshotFile.open(snapshot) as opened:
        _tell(census(opened), as_json)


@app.command()
def pageserver(
    *,
    listen: Annotated[str, typer.Option(help="unix:/path or tcp:host:port.")],
    size: Annotated[str, typer.Option(help="Memory, such as 4G.")] = "1G",
) -> None:
    """Be a memory node: hold cold pages until interrupted."""
    from tidemill.memory.page_server import serve

    serve(listen, _size(size))


@pool_app.command("create")
def create_pool(
    path: PoolPath,
    *,
    size: Annotated[str, typer.Option(help="Memory, such as 2G.")] = "256M",
    hosts: Annotated[int, typer.Option(help="Hosts that may share it.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Make an empty CXL pool, as a file in /dev/shm for instance."""
    CxlPool.create(path, _size(size), hosts=hosts)
    with CxlPool.attach(path, 0) as pool:
        _tell(pool.facts(), as_json)


@pool_app.command("show")
def show_pool(path: PoolPath, *, host: Host = 0, as_json: AsJson = False) -> None:
    """Show a pool's sizes, and what is published by whom."""
    with CxlPool.attach(path, host) as pool:
        _tell(pool.facts(), as_json)


@app.command()
def publish(
    snapshot: SnapshotPath,
    *,
    pool: PoolOption,
    rdma: Nodes,
    name: Annotated[str, typer.Option(help="By default that of the file.")] = "",
    host: Host = 0,
    as_json: AsJson = False,
) -> None:
    """Put a snapshot's hot part into the pool and its cold pages on the memory nodes."""
    name = name or snapshot.stem
    with SnapshotFile.open(snapshot) as opened, CxlPool.attach(pool, host) as attached:
        epoch = Agent(attached, RemoteTier(rdma)).publish(name, opened)
        counted = census(opened)
    facts = {key: counted[key] for key in ("uuid", "cxl_bytes", "rdma_bytes")}
    _tell({"name": name, "epoch": epoch, **facts}, as_json)


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(help="What was published.")],
    *,
    request: Annotated[str, typer.Option(help="The request.")],
    pool: PoolOption,
    rdma: Nodes,
    host: Host = 1,
    as_json: AsJson = False,
) -> None:
    """Restore a published function, ask it once and print its answer."""
    with CxlPool.attach(pool, host) as attached:
        agent = Agent(attached, RemoteTier(rdma))
        began = time.perf_counter()
        answer = agent.invoke(name, request.encode())
        total_ms = (time.perf_counter() - began) * 1e3
        stats = asdict(agent.stats[name]) | {"total_ms": total_ms}
    if as_json:
        typer.echo(json.dumps({"answer": answer.decode(errors="replace"), **stats}))
        return
    typer.echo(answer)
    typer.echo(json.dumps(stats), err=True)


@app.command()
def uffd(
    name: Annotated[str, typer.Argument(help="What was published.")],
    *,
    socket: Annotated[Path, typer.Option(help="Where Firecracker connects.")],
    pool: PoolOption,
    rdma: Nodes,
    host: Host = 1,
) -> None:
    """Answer the page faults of Firecracker's guests until interrupted.

    Name the socket in ``PUT /snapshot/load``: ``"mem_backend": {"backend_type": "Uffd", …}``.
    """
    with CxlPool.attach(pool, host) as attached:
        with attached.borrow(name) as lease:
            maps = lease.maps
        remote = RemoteTier(rdma)
        extent = remote.find(key_of(maps.uuid), maps.header.cold * PAGE)
        served = Served(maps, lending(attached, name, maps.uuid), (remote, extent))
        with UffdServer(socket, served) as server:
            typer.echo(f"listening at {socket}", err=True)
            _tell_refusals(server)


def _tell_refusals(server: UffdServer) -> None:
    seen = 0
    try:
        while True:
            time.sleep(0.5)
            for text in server.refused[seen:]:
                typer.echo(f"refused: {text}", err=True)
            seen = len(server.refused)
    except KeyboardInterrupt:
        typer.echo(f"{len(server.guests)} guests served", err=True)


def _recordings(path: Path) -> list[list[int]]:
    """The pages of each recording, as `record` wrote them."""
    try:
        return [list(map(int, row["pages"])) for row in json.loads(_read(path))]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not what `tidemill aquifer record` writes") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _size(text: str) -> int:
    try:
        return memory_bytes(text)
    except ConfigError:
        digits = text.rstrip("GiB")
        if not digits.isdecimal() or not 1 <= int(digits) <= 1 << 16:
            raise ConfigError.of("size", text, "such as 512M or 4G") from None
        return int(digits) << 30


def _tell(facts: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        json.dump(facts, sys.stdout, default=str)
        typer.echo()
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        typer.echo(f"{name:<{width}}  {f'{shown:.4g}' if isinstance(shown, float) else shown}")
