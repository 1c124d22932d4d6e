"""Real genomes shipped with the package, and seeded stand-ins drawn from them or at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.systems.cusbf.config import GENOMES
from tidemill.systems.cusbf.sequences import read_batches

Bases: TypeAlias = "NDArray[np.uint8]"
"""ASCII letters, one byte per base."""

_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_INSDC = "INSDC/NCBI sequence record, free of restrictions"
_SHIPPED = {
    "ecoli_k12": ("ecoli.fa.zst", "Escherichia coli K-12 MG1655, GenBank U00096.2"),
    "ecoli_536": ("NC_008253.fna.gz", "Escherichia coli 536, RefSeq NC_008253"),
    "lambda": ("lambda_virus.fa.gz", "Enterobacteria phage lambda, RefSeq NC_001416.1"),
}


@dataclass(frozen=True, slots=True)
class Genome:
    """One sequence with where it comes from; ``sequence`` is read-only."""

    name: str
    sequence: Bases
    source: str
    licence: str


@cache
def genome(name: str) -> Genome:
    """A shipped genome or that in a FASTA/FASTQ file, records joined by a newline.

    Raises:
        ConfigError: No genome of that name is shipped, and there is no such file.
        InputError: The file cannot be read.
    """
    if name in _SHIPPED:
        file, source = _SHIPPED[name]
        return Genome(name, _letters(Path(__file__).with_name("data") / file), source, _INSDC)
    if not Path(name).is_file():
        raise ConfigError.of("genome", name, f"one of {', '.join(GENOMES)}, or a sequence file")
    return Genome(Path(name).name, _letters(Path(name)), name, "the user's own")


def _letters(path: Path) -> Bases:
    letters = b"\n".join(batch.bases.tobytes() for batch in read_batches(path))
    return np.frombuffer(letters, dtype=np.uint8)


def random_genome(bases: int, seed: int) -> Genome:
    """A uniformly random sequence; stands in for genomes larger than those shipped."""
    draw = np.random.default_rng(seed).integers(0, 4, bases, dtype=np.uint8)
    return Genome(f"random-{bases}", _LETTERS[draw], f"uniform random, seed {seed}", "none")


def reads(source: Genome, count: int, *, length: int, error_rate: float, seed: int) -> list[bytes]:
    """``count`` reads from uniform positions and both strands, substitutions at ``error_rate``."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, len(source.sequence) - length + 1, count)
    drawn = source.sequence[starts[:, None] + np.arange(length)]
    wrong = random.random(drawn.shape) < error_rate
    drawn = np.where(wrong, _LETTERS[random.integers(0, 4, drawn.shape)], drawn)
    backward = random.random(count) < 0.5
    drawn[backward] = reverse_complement(drawn[backward])
    return [row.tobytes() for row in drawn]


def reverse_complement(sequence: Bases) -> Bases:
    """The other strand, along the last axis; letters other than ACGT stay what they are."""
    complement = np.arange(256, dtype=np.uint8)
    for one, other in (b"AT", b"CG", b"GC", b"TA"):
        complement[one] = other
    return complement[sequence[..., ::-1]]
