"""Firecracker's hand-over of page faults: from another process, and in every wrong form."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import MissingCapability, ProtocolError
from tidemill.memory import GuestRange, Userfaultfd
from tidemill.systems.aquifer.agent import key_of
from tidemill.systems.aquifer.handshake import announce, parse_regions, receive_handshake
from tidemill.systems.aquifer.microvm import MicroVM
from tidemill.systems.aquifer.snapshot import PAGE
from tidemill.systems.aquifer.uffd_server import Served, UffdServer, located

from .test_restore import NEAR, OTHER, World, ask, expected, world

__all__ = ["world"]
MIB = 1 << 20
FOREIGN = """
import sys, json
from tidemill.systems.aquifer import SnapshotFile, MicroVM
from tidemill.systems.aquifer.handshake import announce
from tidemill.systems.aquifer.restore import machine_of

supply, goodbye = announce(sys.argv[2])
with SnapshotFile.open(sys.argv[1]) as maps:
    vm = MicroVM.restore(machine_of(maps), supply=supply)
vm.on_close(goodbye)
with vm:
    for line in sys.stdin:
        print(vm.invoke(line.strip().encode()).decode(), flush=True)
"""


def region(**other: object) -> dict[str, object]:
    plain = {"base_host_virt_addr": 1 << 30, "size": 4 * MIB, "offset": 0, "page_size": PAGE}
    return {**plain, **other}


def served(world: World) -> Served:
    extent = world.tier.find(key_of(world.maps.uuid), len(world.maps.cold))
    return Served(world.maps, lambda: world.pool.borrow("fn"), (world.tier, extent))


def foreign(world: World, socket_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FOREIGN, world.maps.name, str(socket_path)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_another_process_s_guest_is_served_through_firecracker_s_handshake(
    world: World, tmp_path: Path
) -> None:
    with UffdServer(tmp_path / "uffd", served(world), deadline_s=20) as server:
        child = foreign(world, tmp_path / "uffd")
        assert child.stdin is not None
        assert child.stdout is not None
        for request in (NEAR, OTHER):
            child.stdin.write(request.decode() + "\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline()) == expected(request)
        (guest,) = server.guests
        assert guest.pid == child.pid
        assert guest.handler.counts["local"] == 0
        assert guest.handler.counts["remote"] > 0
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert not server.refused


def test_a_guest_whose_pages_are_lost_is_killed_not_left_to_hang(
    world: World, tmp_path: Path
) -> None:
    with UffdServer(tmp_path / "uffd", served(world), deadline_s=1.5):
        child = foreign(world, tmp_path / "uffd")
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(NEAR.decode() + "\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == expected(NEAR)
        for server in world.servers:
            server.kill()
        child.stdin.write(OTHER.decode() + "\n")
        child.stdin.flush()
        child.wait(60)
        assert child.returncode == -signal.SIGKILL
        child.communicate()


def test_our_own_monitor_speaks_the_same_handshake(world: World, tmp_path: Path) -> None:
    with UffdServer(tmp_path / "uffd", served(world), deadline_s=20) as server:
        supply, goodbye = announce(tmp_path / "uffd")
        vm = MicroVM.restore(world.snapshot.machine, supply=supply)
        vm.on_close(goodbye)
        with vm:
            assert ask(vm, OTHER) == expected(OTHER)
        assert not server.refused


def test_nobody_listening_is_said(world: World, tmp_path: Path) -> None:
    supply, _ = announce(tmp_path / "nobody")
    with pytest.raises(MissingCapability, match="aquifer uffd"):
        MicroVM.restore(world.snapshot.machine, supply=supply)


def test_regions_are_those_that_firecracker_sends() -> None:
    two = [region(), region(offset=4 * MIB, base_host_virt_addr=1 << 31, size=2 * MIB)]
    assert parse_regions(json.dumps(two[::-1]).encode(), 6 * MIB) == [
        GuestRange(1 << 31, 2 * MIB, 4 * MIB // PAGE),
        GuestRange(1 << 30, 4 * MIB, 0),
    ]
    old = region(page_size_kib=2 * MIB)
    del old["page_size"]
    assert parse_regions(json.dumps([old]).encode(), 4 * MIB)[0].page_bytes == 2 * MIB


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"hello", "not JSON"),
        (b"{}", "list of 1 to 64"),
        (b"[]", "list of 1 to 64"),
        (b"[7]", "must have base_host_virt_addr"),
        (json.dumps([region(size="4M")]).encode(), "numbers of bytes"),
        (json.dumps([region(offset=-1)]).encode(), "numbers of bytes"),
        (json.dumps([region(size=True)]).encode(), "numbers of bytes"),
        (json.dumps([region(page_size=12288)]).encode(), "page_size=12288"),
        (json.dumps([region(size=4 * MIB + 1)]).encode(), "whole pages"),
        (json.dumps([region(base_host_virt_addr=77)]).encode(), "whole pages"),
        (json.dumps([region(size=0)]).encode(), "whole pages"),
        (json.dumps([region(), region()]).encode(), "neither overlap nor leave a gap"),
        (json.dumps([region(offset=8 * MIB)]).encode(), "neither overlap nor leave a gap"),
        (json.dumps([region(size=2 * MIB)]).encode(), "the snapshot has"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_handshake_that_is_none_is_refused(message: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        parse_regions(message, 4 * MIB)


def test_the_descriptor_may_come_late_but_must_come() -> None:
    message = json.dumps([region()]).encode()
    try:
        faults = Userfaultfd()
    except MissingCapability as error:
        pytest.skip(str(error))
    with faults:
        here, there = socket.socketpair()
        with here, there:
            there.send(message)
            time.sleep(0.02)
            faults.send(there, b" ")
            got, ranges = receive_handshake(here, 4 * MIB)
            got.close()
            assert ranges == [GuestRange(1 << 30, 4 * MIB)]
        here, there = socket.socketpair()
        with here:
            with there:
                there.send(message)
            with pytest.raises(ProtocolError, match="no userfaultfd"):
                receive_handshake(here, 4 * MIB)


def test_a_bad_handshake_is_noted_and_the_next_guest_served(world: World, tmp_path: Path) -> None:
    with UffdServer(tmp_path / "uffd", served(world), deadline_s=20) as server:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "uffd"))
            peer.send(b"hello")
        supply, goodbye = announce(tmp_path / "uffd")
        vm = MicroVM.restore(world.snapshot.machine, supply=supply)
        vm.on_close(goodbye)
        with vm:
            assert ask(vm, NEAR) == expected(NEAR)
        assert len(server.refused) == 1
    assert not (tmp_path / "uffd").exists()


def test_runs_are_cut_where_regions_are() -> None:
    ranges = [GuestRange(1 << 20, 4 * PAGE), GuestRange(1 << 30, 4 * PAGE, 4)]
    runs = np.array([[2, 4, 10], [7, 1, 14]], np.uint64)
    assert located(runs, ranges) == [
        ((1 << 20) + 2 * PAGE, 2, 10),
        (1 << 30, 2, 12),
        ((1 << 30) + 3 * PAGE, 1, 14),
    ]
