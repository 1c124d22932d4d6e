"""What is put on a memory node can be read from it, by anybody, or an error says why not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import numpy as np
import pytest

from tidemill.errors import (
    ConfigError,
    CorruptFile,
    InputError,
    OutOfPool,
    ResourceError,
)
from tidemill.memory import PageServer, RemoteTier, crc32c, crc32c_of_chunks

from .touching import Serve, freeze

KEY = bytes(range(16))
RNG = np.random.default_rng(20260623)


def some(size: int) -> np.ndarray:
    return RNG.integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("address", [None, "tcp:127.0.0.1:0"])
def test_an_extent_is_read_back_by_another_host(serve: Serve, address: str | None) -> None:
    server = serve(1 << 24, address)
    data = some(9_000_001)
    RemoteTier(server.address).publish(KEY, data)
    other = RemoteTier(server.address)
    extent = other.find(KEY, data.size)
    np.testing.assert_array_equal(other.read(extent, 0, data.size, crc=crc32c(data)), data)
    np.testing.assert_array_equal(other.read(extent, 4097, 100), data[4097:4197])


def test_extents_keep_apart_and_room_comes_back(serve: Serve) -> None:
    tier = RemoteTier(serve(1 << 20).address)
    parts = [some(size) for size in (5000, 1, 300_000, 8192)]
    extents = [tier.publish(bytes([i] * 16), part) for i, part in enumerate(parts)]
    tier.free(bytes([2] * 16))
    extents[2] = tier.publish(bytes([9] * 16), parts[2][::-1])
    parts[2] = parts[2][::-1]
    for extent, part in zip(extents, parts, strict=True):
        np.testing.assert_array_equal(tier.read(extent, 0, extent.size), part)
    for key in (0, 1, 9, 3):
        tier.free(bytes([key] * 16))
    assert tier.room() == [1 << 20]


def test_what_is_held_stays_until_the_last_holder_lets_go(serve: Serve) -> None:
    tier = RemoteTier([serve(1 << 20).address, serve(1 << 20).address])
    data = some(300_000)
    tier.publish(KEY, data)
    first, second = tier.hold(KEY), tier.hold(KEY)
    tier.free(KEY)
    with pytest.raises(ResourceError, match="has extent"):
        tier.hold(KEY)
    tier.publish(KEY, some(5000))  # the name is free, the bytes are not
    first.close()
    np.testing.assert_array_equal(tier.read(second.extent(data.size), 0, data.size), data)
    second.close()
    tier.free(KEY)
    limit = time.monotonic() + 20
    while tier.room() != [1 << 20] * 2 and time.monotonic() < limit:
        time.sleep(0.001)
    assert tier.room() == [1 << 20] * 2


def test_what_one_node_of_two_holds_is_published_and_found(serve: Serve) -> None:
    first, second = serve(), serve()
    tier = RemoteTier([first.address, second.address])
    first.kill()
    data = some(9000)
    tier.publish(KEY, data)
    extent = tier.hold(KEY).extent(data.size)
    assert extent.bases[0] == 1 << 63
    np.testing.assert_array_equal(tier.read(extent, 0, data.size), data)
    second.kill()
    with pytest.raises(ResourceError, match="is it running"):
        tier.publish(b"x" * 16, data)


def test_a_full_node_refuses_and_keeps_what_it_has(serve: Serve) -> None:
    tier = RemoteTier(serve(1 << 20).address)
    data = some(1 << 19)
    extent = tier.publish(KEY, data)
    with pytest.raises(OutOfPool, match="free"):
        tier.publish(b"x" * 16, some(1 << 20))
    np.testing.assert_array_equal(tier.read(extent, 0, data.size), data)


def test_an_extent_is_not_found_before_it_is_complete(serve: Serve) -> None:
    tier = RemoteTier(serve().address)
    tier.native.ask(0, 3, KEY, 4096)
    with pytest.raises(ResourceError, match="has extent"):
        tier.find(KEY, 4096)
    assert tier.publish(KEY, some(4096)).bases == (0,)


def test_a_key_names_one_content(serve: Serve) -> None:
    tier = RemoteTier(serve().address)
    first = tier.publish(KEY, some(4096))
    assert tier.publish(KEY, some(4096)) == first
    with pytest.raises(InputError, match="names an extent"):
        tier.publish(KEY, some(4097))


def test_what_lies_outside_is_refused(serve: Serve) -> None:
    tier = RemoteTier(serve().address)
    extent = tier.publish(KEY, some(4096))
    with pytest.raises(InputError, match="extent of 4096"):
        tier.read(extent, 4000, 97)
    with pytest.raises(OSError, match="unix"):
        tier.native.get(0, 1 << 40, np.empty(16, np.uint8))
    np.testing.assert_array_equal(tier.read(extent, 0, 8), tier.read(extent, 0, 8))


def test_other_bytes_than_were_published_are_found_out(serve: Serve) -> None:
    server = serve()
    tier = RemoteTier(server.address)
    data = some(8192)
    extent = tier.publish(KEY, data)
    tier.native.put(0, extent.bases[0] + 5, np.zeros(1, np.uint8) + (data[5] ^ 1))
    with pytest.raises(CorruptFile, match="published"):
        tier.read(extent, 0, 8192, crc=crc32c(data))


def test_the_replica_answers_when_the_first_server_is_gone(serve: Serve) -> None:
    first, second = serve(), serve()
    tier = RemoteTier([first.address, second.address])
    data = some(100_000)
    extent = tier.publish(KEY, data)
    first.kill()
    np.testing.assert_array_equal(tier.read(extent, 0, data.size), data)
    again = tier.find(KEY, data.size)
    assert again.bases[0] == 1 << 63
    np.testing.assert_array_equal(tier.read(again, 0, data.size), data)
    second.kill()
    with pytest.raises(ResourceError, match="is it running"):
        tier.read(extent, 0, 16)


def test_a_server_that_hangs_is_given_up_in_time(serve: Serve) -> None:
    server = serve()
    extent = RemoteTier(server.address, timeout_s=10).publish(KEY, some(4096))
    tier = RemoteTier(server.address, timeout_s=0.1)
    freeze(server.pid)
    began = time.monotonic()
    with pytest.raises(ResourceError, match="timed out"):
        tier.read(extent, 0, 16)
    assert time.monotonic() - began < 5
    os.kill(server.pid, signal.SIGCONT)


def test_many_threads_read_at_once(serve: Serve) -> None:
    tier = RemoteTier(serve().address)
    data = some(1 << 20)
    extent = tier.publish(KEY, data)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        starts = rng.integers(0, data.size - 5000, 50).tolist()
        pieces = ((start, tier.read(extent, start, 5000)) for start in starts)
        wrong.extend(at for at, piece in pieces if not np.array_equal(piece, data[at : at + 5000]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
        struct.pack("=IHHQQQ16s", 0x31515054, 2, 0, 1, 1 << 60, 1 << 62, KEY),
        struct.pack("=IHHQQQ16s", 0x31515054, 1, 0, 1, 0, 1 << 62, KEY),
        struct.pack("=IHHQQQ16s", 0x31515054, 99, 0, 1, 0, 1, KEY),
    ],
)
def test_nonsense_ends_its_own_connection_at_most(serve: Serve, sent: bytes) -> None:
    server = serve()
    tier = RemoteTier(server.address)
    extent = tier.publish(KEY, some(4096))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(server.address[5:])
        peer.sendall(sent)
        peer.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            peer.recv(64)
    assert tier.read(extent, 0, 16).size == 16


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ConfigError, match="address"):
        PageServer("pages", 1 << 20)
    with pytest.raises(ConfigError, match="size"):
        PageServer("unix:/tmp/x", 0)
    with pytest.raises(ResourceError, match="No such file"):
        PageServer("unix:/nowhere/at/all", 1 << 20)


def test_a_server_ends_with_its_owner(serve: Serve) -> None:
    server = serve()
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_chunks_have_the_checksums_of_their_bytes() -> None:
    data = some(10_000)
    sums = crc32c_of_chunks(data, 4096)
    assert sums.tolist() == [crc32c(data[i : i + 4096]) for i in (0, 4096, 8192)]
    assert crc32c(b"123456789") == 0xE3069283
