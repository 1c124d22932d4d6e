"""Hash scheme 1 of the TMSBF format in plain Python: what every kernel is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
CODES = {letter: code for code, pair in enumerate(("Aa", "Cc", "TtUu", "Gg")) for letter in pair}


def splitmix64(state: int) -> tuple[int, int]:
    state = (state + 0x9E3779B97F4A7C15) & M64
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return state, z ^ z >> 31


def signed(mer: int) -> int:
    return mer - (1 << 64) if mer >> 63 else mer


class Reference:
    """The filter of a layout, one Python integer for each word."""

    def __init__(
        self, *, k: int, s: int, m: int, hashes: int, shards: int, canonical: bool, seed: int
    ) -> None:
        self.k, self.s, self.m, self.hashes, self.shards = k, s, m, hashes, shards
        self.canonical = canonical
        names = ("mmer_mul", "mmer_lo", "mmer_hi", "smer_lo", "smer_hi", "place_mul", "shard_mul")
        for name in names:
            seed, word = splitmix64(seed)
            setattr(self, name, word >> 32 | 1)
        self.words = [0] * (4 * shards)

    def mer(self, text: str) -> tuple[int, int]:
        """Both strands, left-aligned, the first base lowest."""
        codes = [CODES[letter] for letter in text]
        pairs = (codes, [code ^ 2 for code in reversed(codes)])
        top = 64 - 2 * len(codes)
        forward, reverse = (sum(c << 2 * i for i, c in enumerate(strand)) for strand in pairs)
        return forward << top, reverse << top

    def smaller(self, text: str) -> int:
        forward, reverse = self.mer(text)
        return min(forward, reverse, key=signed) if self.canonical else forward

    def rank(self, text: str) -> int:
        if self.m > 16:
            return self.mix(self.smaller(text), self.mmer_lo, self.mmer_hi)[0]
        forward, reverse = self.mer(text)
        short = (min(forward, reverse) if self.canonical else forward) >> 32
        return short * self.mmer_mul & M32

    @staticmethod
    def mix(mer: int, low: int, high: int) -> tuple[int, int]:
        product = ((mer & M32) + low & M32) * ((mer >> 32) + high & M32)
        return (product ^ product >> 32) & M32, product >> 32

    def shard(self, text: str) -> int:
        return self.shard_of(max(map(self.rank, self.parts(text, self.m))))

    def parts(self, text: str, length: int) -> list[str]:
        return [text[i : i + length] for i in range(self.k - length + 1)]

    def shard_of(self, rank: int) -> int:
        return ((rank ^ rank >> 15) * self.shard_mul & M32) * self.shards >> 32

    def bits(self, fold: int, high: int) -> list[int]:
        """The word of each sector."""
        sectors = [0] * 4
        for group in range(self.hashes // 4):
            x = fold
            if group:
                x = (x + group * (high | 1)) * self.place_mul & M32
                x ^= x >> 15
            for sector in range(4):
                sectors[sector] |= 1 << (x >> 8 * sector & 63)
        return sectors

    def masks(self, text: str) -> list[list[int]]:
        mers = map(self.smaller, self.parts(text, self.s))
        return [self.bits(*self.mix(mer, self.smer_lo, self.smer_hi)) for mer in mers]

    def windows(self, sequence: str) -> list[str | None]:
        texts = [sequence[i : i + self.k] for i in range(len(sequence) - self.k + 1)]
        return [text if all(c in CODES for c in text) else None for text in texts]

    def insert(self, sequence: str) -> None:
        for text in self.windows(sequence):
            if text is not None:
                at = 4 * self.shard(text)
                for mask in self.masks(text):
                    for sector in range(4):
                        self.words[at + sector] |= mask[sector]

    def contains(self, sequence: str) -> list[bool]:
        return [text is not None and self._has(text) for text in self.windows(sequence)]

    def _has(self, text: str) -> bool:
        at = 4 * self.shard(text)
        return all(
            self.words[at + sector] & mask[sector] == mask[sector]
            for mask in self.masks(text)
            for sector in range(4)
        )

    def array(self) -> NDArray[np.uint64]:
        return np.array(self.words, dtype=np.uint64)


class BlockedReference(Reference):
    """The blocked filter: the k-mer is its only s-mer, and its mixed bits choose the block."""

    def shard(self, text: str) -> int:
        return self.shard_of(self.mix(self.smaller(text), self.smer_lo, self.smer_hi)[1])
