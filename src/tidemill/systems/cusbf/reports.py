"""What filters tell of an insertion, of a record, and of their whole life."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AddReport:
    """What an insertion did.

    Args:
        records: Sequences read.
        bases: Their letters.
        kmers: Windows inserted, repeats counted each time.
        skipped: Windows left out because they hold another letter than ACGTU.
        shard_loads: Shards (blocks) visited.
    """

    records: int = 0
    bases: int = 0
    kmers: int = 0
    skipped: int = 0
    shard_loads: int = 0

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(
            self.records + other.records,
            self.bases + other.bases,
            self.kmers + other.kmers,
            self.skipped + other.skipped,
            self.shard_loads + other.shard_loads,
        )

    @property
    def shard_loads_per_kmer(self) -> float:
        """Sequence locality: about 2/(w+1) for a Super Bloom filter, 1 for a blocked one."""
        return self.shard_loads / self.kmers if self.kmers else 0.0


@dataclass(frozen=True, slots=True)
class RecordHits:
    """The answer for one record of a file.

    Args:
        name: Its header line.
        kmers: Valid windows.
        hits: Of these, found.
        classified: Whether at least one window and ``threshold`` of them were found.
    """

    name: str
    kmers: int
    hits: int
    classified: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """What a filter did since it was made or loaded."""

    inserted_kmers: int = 0
    insert_loads: int = 0
    queried_kmers: int = 0
    query_loads: int = 0
    hits: int = 0
