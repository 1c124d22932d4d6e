"""The Super Bloom filter on a CUDA device: a copy of a host filter's bits, and two Triton kernels.

    device = DeviceBloom(SuperBloom(1 << 31))     # MissingCapability without CUDA, torch or Triton
    device.insert(genome)
    device.contains(reads)                        # numpy bool, one for each window
    bloom = device.to_host()                      # save, merge and query it as any other

Hash scheme, bits and answers equal the host filter's. ``TRITON_INTERPRET=1`` with
``device="cpu"`` runs the same kernels in Triton's interpreter, for tests: its speed means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tidemill.native.device import torch_for
from tidemill.systems.cusbf.sequences import Sequence, as_bases
from tidemill.systems.cusbf.superbloom import SuperBloom

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""K-mers of one Triton program."""

_IS_BASE = np.zeros(256, dtype=np.uint8)
_IS_BASE[np.frombuffer(b"ACGTUacgtu", dtype=np.uint8)] = 1
_M64 = (1 << 64) - 1


class DeviceBloom:
    """The bits of ``bloom`` on ``device``; `to_host` brings them back.

    Args:
        bloom: The filter to start from, empty or not; it is copied and not touched again.
        device: ``"cuda"``, ``"cuda:1"``, … or ``"cpu"`` in Triton's interpreter.

    Raises:
        ConfigError: ``device`` is neither.
        MissingCapability: torch, Triton or the device is not there.
    """

    def __init__(self, bloom: SuperBloom, device: str = "cuda") -> None:
        self._torch = torch_for(device, instead="SuperBloom")
        self._device = device
        self._like = bloom
        self._words = self._sent(bloom.words.copy())
        self._constants = self._sent(np.array(_hash_constants(bloom.seed), dtype=np.uint64))
        self._inserted_kmers = bloom.inserted_kmers

    def insert(self, sequence: Sequence) -> int:
        """Insert every k-mer of ``sequence``; returns how many: windows of ACGTU only.

        Raises:
            InputError: ``sequence`` holds no single bytes.
        """
        packed, valid = pack_dense(as_bases(sequence), self._like.k)
        kmers = int(valid.sum())
        if kmers:
            self._launch("insert_kernel", packed, valid)
            self._inserted_kmers += kmers
        return kmers

    def contains(self, sequence: Sequence) -> NDArray[np.bool_]:
        """Whether each window of k letters may be in the filter; False at other letters.

        Raises:
            InputError: ``sequence`` holds no single bytes.
        """
        packed, valid = pack_dense(as_bases(sequence), self._like.k)
        found = self._torch.zeros(len(valid), dtype=self._torch.uint8, device=self._device)
        if len(valid):
            self._launch("contains_kernel", packed, valid, found)
        return found.cpu().numpy().astype(bool)

    def to_host(self) -> SuperBloom:
        """A host filter of the bits as they are now."""
        like = self._like
        bloom = SuperBloom(
            like.bits,
            k=like.k,
            s=like.s,
            m=like.m,
            hashes=like.hashes,
            canonical=like.canonical,
            seed=like.seed,
        )
        bloom.words[:] = self._words.cpu().numpy().view(np.uint64)
        bloom.inserted_kmers = self._inserted_kmers
        return bloom

    def _launch(
        self, name: str, packed: NDArray[np.uint64], valid: NDArray[np.uint8], *found: torch.Tensor
    ) -> None:
        from tidemill.systems.cusbf import triton_kernels

        like = self._like
        grid = (-(-len(valid) // BLOCK),)
        getattr(triton_kernels, name)[grid](
            self._words,
            self._sent(packed),
            self._torch.from_numpy(valid).to(self._device),
            self._constants,
            *found,
            len(valid),
            like.shards,
            K=like.k,
            S=like.s,
            M=like.m,
            GROUPS=like.hashes // 4,
            CANONICAL=like.canonical,
            BLOCK=BLOCK,
        )

    def _sent(self, words: NDArray[np.uint64]) -> torch.Tensor:
        return self._torch.from_numpy(words.view(np.int64)).to(self._device)


def pack_dense(bases: NDArray[np.uint8], k: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """2-bit codes, 32 to a word, the first base lowest, and one zero word more; and valid windows.

    Args:
        bases: Letters, shape (n,).
        k: Bases of a window.

    Returns:
        Words of shape (ceil(n / 32) + 1,), and for each of the max(0, n - k + 1) windows 1 if all
        its letters are bases.
    """
    codes = np.zeros(-(-len(bases) // 32) * 32 + 32, dtype=np.uint64)
    codes[: len(bases)] = bases >> 1 & 3
    shifts = np.arange(0, 64, 2, dtype=np.uint64)
    words = np.bitwise_or.reduce(codes.reshape(-1, 32) << shifts, axis=1)
    good = np.concatenate(([0], np.cumsum(_IS_BASE[bases], dtype=np.int64)))
    valid = (good[k:] - good[:-k] == k).astype(np.uint8) if len(bases) >= k else _NO_WINDOW
    return words, valid


_NO_WINDOW = np.zeros(0, dtype=np.uint8)


def _hash_constants(seed: int) -> list[int]:
    """The seven odd 32-bit words of hash scheme 1, drawn by SplitMix64 as ``hash.cpp`` does."""
    words: list[int] = []
    for _ in range(7):
        seed = (seed + 0x9E3779B97F4A7C15) & _M64
        z = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & _M64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _M64
        words.append((z ^ z >> 31) >> 32 | 1)
    return words
