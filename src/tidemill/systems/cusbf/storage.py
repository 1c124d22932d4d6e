r"""The TMSBF file, version 1: a 64-byte header, the words as they lie in memory, a checksum.

    0   8   magic "TMSBF\r\n\x1a"        24  8   seed
    8   2   version, 1                       32  8   shards (blocks) of 256 bits
    10  1   kind: 1 Super Bloom, 2 blocked   40  8   k-mers inserted
    11  4   k, s, m, hashes                  48  12  zero
    15  1   canonical                        60  4   CRC-32 of bytes 0-59
    16  2   bits of a shard, 256             64  …   words, little-endian uint64
    18  1   hash scheme, 1                   end 16  XXH3-128 of the words, big-endian
    19  5   zero

The words begin on a cache line, so that a file mapped read-only serves queries of many processes
from one copy in memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import xxhash
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError, OutOfPool

_MAGIC = b"TMSBF\r\n\x1a"
_HEADER = struct.Struct("<8sHBBBBBBHB5xQQQ12x")
_HEADER_BYTES = 64
_DIGEST_BYTES = 16
_SHARD_BYTES = 32
_PIECE = 1 << 24


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its filter."""

    kind: int
    k: int
    s: int
    m: int
    hashes: int
    canonical: bool
    seed: int
    shards: int
    inserted_kmers: int

    def pack(self) -> bytes:
        """The 64 bytes of the file's head."""
        head = _HEADER.pack(
            *(_MAGIC, 1, self.kind, self.k, self.s, self.m, self.hashes, self.canonical),
            *(256, 1, self.seed, self.shards, self.inserted_kmers),
        )
        return head + zlib.crc32(head).to_bytes(4, "little")

    @property
    def file_bytes(self) -> int:
        """What the whole file must measure."""
        return _HEADER_BYTES + self.shards * _SHARD_BYTES + _DIGEST_BYTES


def save(path: str | Path, header: Header, words: NDArray[np.uint64]) -> None:
    """Write a filter; whoever reads ``path`` meanwhile, or after a crash, finds old or new whole.

    Raises:
        InputError: The folder is missing or not writable.
        OutOfPool: The disk is full; ``path`` is what it was.
    """
    path = Path(path)
    check_target(path)
    draft = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    payload = words.astype("<u8", copy=False).view(np.uint8).data
    digest = xxhash.xxh3_128()
    try:
        with draft.open("xb") as file:
            file.write(header.pack())
            for start in range(0, len(payload), _PIECE):
                piece = payload[start : start + _PIECE]
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kind = OutOfPool if error.errno in _FULL else InputError
        raise kind(
            f"{path} — cannot be written: {error.strerror}; needs {header.file_bytes} bytes in a "
            "writable folder; the file that was there, if any, is untouched."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Refuse, before hours of work, a place that no filter can be saved to.

    Raises:
        InputError: It is a folder, or in none.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"{path} — {what}; must be a file in a folder that exists.")


def load(path: str | Path, *, mapped: bool) -> tuple[Header, NDArray[np.uint64]]:
    """Read and check a filter; ``mapped`` words are read-only pages shared by all who map the file.

    The checksum is compared in either case, which reads the whole file once.

    Raises:
        InputError: It cannot be opened.
        CorruptFile: Not a TMSBF file, of another version, cut short or damaged.
    """
    try:
        with Path(path).open("rb") as file:
            header = _parse_header(path, file.read(_HEADER_BYTES))
            found = os.fstat(file.fileno()).st_size
            if found != header.file_bytes:
                raise _corrupt(path, f"{found} bytes long", f"{header.file_bytes} bytes")
            if mapped:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                content = anonymous(header.file_bytes - _HEADER_BYTES)
                file.readinto(content)
    except OSError as error:
        raise InputError(f"{path} — {error.strerror}; must be a readable TMSBF file.") from error
    start = _HEADER_BYTES if mapped else 0
    end = start + header.shards * _SHARD_BYTES
    payload = memoryview(content)[start:end]
    if xxhash.xxh3_128_digest(payload) != bytes(content[end : end + _DIGEST_BYTES]):
        raise _corrupt(path, "its checksum differs", "the XXH3-128 of its words")
    return header, np.frombuffer(payload, dtype="<u8")


def read_header(path: str | Path) -> Header:
    """What a file says of its filter, without a look at the words.

    Raises:
        InputError: It cannot be opened.
        CorruptFile: Not a TMSBF file, or of another version.
    """
    try:
        with Path(path).open("rb") as file:
            return _parse_header(path, file.read(_HEADER_BYTES))
    except OSError as error:
        raise InputError(f"{path} — {error.strerror}; must be a readable TMSBF file.") from error


def anonymous(size_bytes: int) -> mmap.mmap:
    """Zeroed memory on page boundaries, on huge pages where the kernel has them.

    A numpy array of this size starts 16 bytes into a page: half of its shards would straddle two
    cache lines.

    Raises:
        OutOfPool: The machine does not have it.
    """
    try:
        memory = mmap.mmap(-1, size_bytes)
    except (OSError, OverflowError) as error:
        raise OutOfPool(
            f"a filter of {size_bytes:,} bytes — the system refused the memory ({error}); must fit "
            "into free memory; give fewer bits."
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE") and size_bytes >= 1 << 21:
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _parse_header(path: str | Path, head: bytes) -> Header:
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        raise _corrupt(path, "does not begin as one", f"{_MAGIC!r} and a 64-byte header")
    if zlib.crc32(head[:60]) != int.from_bytes(head[60:], "little"):
        raise _corrupt(path, "its header is damaged", "a header with a matching CRC-32")
    _, version, kind, k, s, m, hashes, canonical, shard_bits, scheme, seed, shards, kmers = (
        _HEADER.unpack(head[:60])
    )
    if (version, shard_bits, scheme) != (1, 256, 1) or kind not in (1, 2):
        raise _corrupt(
            path,
            f"version {version}, kind {kind}, shards of {shard_bits} bits, hash scheme {scheme}",
            "version 1, kind 1 or 2, 256 bits, hash scheme 1",
            "read it with the tidemill that wrote it.",
        )
    return Header(kind, k, s, m, hashes, bool(canonical), seed, shards, kmers)


def _corrupt(
    path: str | Path, found: str, allowed: str, todo: str = "build or copy the filter again."
) -> CorruptFile:
    return CorruptFile(f"{path} as a TMSBF filter — {found}; must be {allowed}; {todo}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_FULL = (28, 122)
"""ENOSPC and EDQUOT."""
