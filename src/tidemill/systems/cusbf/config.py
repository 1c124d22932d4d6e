"""Settings of one run: the filter, the genome it holds and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.errors import ConfigError

GENOMES = ("ecoli_k12", "ecoli_536", "lambda")
"""Genomes that are shipped."""
SHARD_BITS = 256
"""Bits of a shard, four 64-bit sectors: one hash bit of four goes into each sector."""


def check_parameters(*, k: int, s: int, m: int, hashes: int, bits: int, seed: int) -> None:
    """Refuse filter parameters that do not fit together.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    if not 1 <= k <= 32:
        raise ConfigError.of("k", k, "in 1-32", "a k-mer is one 64-bit word of 2-bit bases")
    if not 1 <= s <= k:
        raise ConfigError.of("s", s, f"in 1-k (k={k})", "a k-mer is found by its own s-mers")
    if not 1 <= m <= k:
        raise ConfigError.of("m", m, f"in 1-k (k={k})", "a minimizer is an m-mer of the k-mer")
    if hashes not in (4, 8, 12, 16):
        raise ConfigError.of("hashes", hashes, "4, 8, 12 or 16", "bits per s-mer, four sectors")
    if not 8 * SHARD_BITS <= bits < 1 << 40:
        raise ConfigError.of("bits", bits, f"in {8 * SHARD_BITS}-2^40", "whole shards of 256 bits")
    if not 0 <= seed < 1 << 64:
        raise ConfigError.of("seed", seed, "in 0-2^64", "hash constants follow from it")


def _help(english: str, chinese: str) -> dict[str, str]:
    return {"help": english, "help_zh": chinese}


def _genome(english: str, chinese: str) -> dict[str, object]:
    return {**_help(english, chinese), "web_choices": GENOMES}


@dataclass(frozen=True, slots=True)
class CuSBFConfig:
    """A Super Bloom filter over one genome, queried with reads, a relative and random k-mers."""

    k: int = field(default=31, metadata=_help("Bases of a k-mer, 1-32.", "k-mer 的碱基数,1–32。"))
    s: int = field(
        default=28,
        metadata=_help(
            "Bases of the s-mers that stand for a k-mer.", "代表一个 k-mer 的 s-mer 的碱基数。"
        ),
    )
    m: int = field(
        default=16,
        metadata=_help(
            "Bases of the minimizer that picks the shard.", "选定分片的 minimizer 的碱基数。"
        ),
    )
    hashes: int = field(
        default=4,
        metadata=_help(
            "Bits set per s-mer: 4, 8, 12 or 16.", "每个 s-mer 置位的比特数:4、8、12 或 16。"
        ),
    )
    bits: int = field(
        default=1 << 27, metadata=_help("Size of the filter in bits.", "过滤器大小(比特)。")
    )
    canonical: bool = field(
        default=True,
        metadata=_help(
            "Treat a k-mer and its reverse complement as one.", "将 k-mer 与其反向互补视为同一个。"
        ),
    )
    seed: int = field(
        default=0,
        metadata=_help("Seed of hashes, reads and negatives.", "哈希、读段与阴性样本的随机种子。"),
    )
    genome: str = field(
        default="ecoli_k12",
        metadata=_genome(
            "What is inserted: a shipped genome or a FASTA/FASTQ file.",
            "插入的序列:随包附带的基因组或 FASTA/FASTQ 文件。",
        ),
    )
    relative: str = field(
        default="ecoli_536",
        metadata=_genome("Related genome or file that is queried.", "用于查询的近缘基因组或文件。"),
    )
    reads: int = field(
        default=20_000,
        metadata=_help(
            "150-base reads drawn and classified.", "抽取并分类的读段数(每条 150 碱基)。"
        ),
    )
    read_error_rate: float = field(
        default=0.01,
        metadata=_help("Substitutions per base of the reads, 0-1.", "读段每碱基的替换率,0–1。"),
    )
    negatives: int = field(
        default=4_000_000,
        metadata=_help(
            "Random k-mers queried for the false-positive rate.",
            "测量假阳性率时查询的随机 k-mer 数。",
        ),
    )
    threads: int = field(
        default=2, metadata=_help("Threads that insert and query.", "插入与查询所用的线程数。")
    )

    def __post_init__(self) -> None:
        check_parameters(
            k=self.k, s=self.s, m=self.m, hashes=self.hashes, bits=self.bits, seed=self.seed
        )
        if not 0 <= self.reads <= 10_000_000:
            raise ConfigError.of("reads", self.reads, "in 0-10,000,000")
        if not 0 <= self.read_error_rate <= 1:
            raise ConfigError.of("read_error_rate", self.read_error_rate, "in 0-1")
        if not 0 <= self.negatives <= 1_000_000_000:
            raise ConfigError.of("negatives", self.negatives, "in 0-1,000,000,000")
        if not 1 <= self.threads <= 1024:
            raise ConfigError.of("threads", self.threads, "in 1-1024")
