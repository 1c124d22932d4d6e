"""A Super Bloom filter for k-mers on the CPU: fast because neighbours in a sequence share a shard.

The paper (cuSBF, arXiv 2606.24417) puts on a GPU the Super Bloom filter: the minimizer of a k-mer,
the smallest of its m-mers, picks one 256-bit shard, so that a run of about (w+1)/2 consecutive
k-mers needs a single memory access; inside the shard a k-mer is stored as its overlapping s-mers
(Findere), each setting H bits, one in every 64-bit sector, so that a false positive needs H(k-s+1)
wrong bits. Runs are found in parallel and their bits combined before the shard is touched. The
paper reports up to 9.1x (insert) and 7.7x (query) over cuCollections' blocked Bloom filter and a
much lower false-positive rate at equal memory. Here the same mechanism runs on CPU cores with AVX2:
a chunk of 2-bit bases lies in the L1 cache, every stage is a vector loop over it, and shards are
fetched while the next hashes are computed.

    from tidemill.systems.cusbf import SuperBloom
    filter = SuperBloom.for_kmers(5_000_000, fpr=1e-5)
    filter.insert_file("reference.fa.gz", threads=2)
    hits = filter.contains("ACGT...")  # one bool for each window of k = 31 bases
    filter.save("reference.sbf")       # SuperBloom.load("reference.sbf", mmap=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.bench import Context, Paper, Report, System, Text
from tidemill.systems.cusbf.blocked import BlockedBloom
from tidemill.systems.cusbf.cardinality import KmerCounter, estimate_kmers
from tidemill.systems.cusbf.claims import CLAIMS
from tidemill.systems.cusbf.config import CuSBFConfig
from tidemill.systems.cusbf.kmer_filter import KmerFilter, pack
from tidemill.systems.cusbf.reports import AddReport, Counters, RecordHits
from tidemill.systems.cusbf.superbloom import SuperBloom
from tidemill.systems.cusbf.theory import blocked_fpr, super_fpr

if TYPE_CHECKING:
    import typer

__all__ = [
    "SYSTEM",
    "AddReport",
    "BlockedBloom",
    "Counters",
    "CuSBFConfig",
    "KmerCounter",
    "KmerFilter",
    "RecordHits",
    "SuperBloom",
    "blocked_fpr",
    "estimate_kmers",
    "pack",
    "super_fpr",
]


def _run(context: Context) -> Report:
    from tidemill.systems.cusbf.run import run

    return run(context)


def _cli() -> typer.Typer:
    from tidemill.systems.cusbf.cli import app

    return app


SYSTEM = System(
    name="cusbf",
    paper=Paper.beside(__file__),
    summary=Text(
        en="A k-mer set for genomes: build, query and screen reads at hundreds of millions of "
        "k-mers a second on one core.",
        zh="基因组 k-mer 集合：单核每秒处理数亿个 k-mer，可建库、查询与筛除读段。",
    ),
    config=CuSBFConfig,
    run=_run,
    claims=CLAIMS,
    cli=_cli,
)
