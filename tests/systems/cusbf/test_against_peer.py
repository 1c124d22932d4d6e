"""The same input, the answers of others: exact sets, and the package rbloom."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.systems.cusbf import BlockedBloom, SuperBloom, kernels, pack
from tidemill.systems.cusbf.workloads import genome, random_genome, reverse_complement


def words_of(sequence: np.ndarray, k: int) -> list[str]:
    text = sequence.tobytes().decode()
    return [text[i : i + k] for i in range(len(text) - k + 1)]


@pytest.mark.parametrize("kind", [SuperBloom, BlockedBloom])
@pytest.mark.parametrize("canonical", [True, False])
def test_a_large_filter_answers_as_an_exact_set_does(
    kind: type[SuperBloom], canonical: bool
) -> None:
    phage, ecoli = genome("lambda").sequence, genome("ecoli_k12").sequence[:60_000]
    exact = set(words_of(phage, 31))
    if canonical:
        exact |= set(words_of(reverse_complement(phage), 31))
    made = kind(1 << 27, canonical=canonical)
    made.insert(phage)
    for asked in (phage, ecoli, reverse_complement(phage)):
        expected = np.array([word in exact for word in words_of(asked, 31)])
        found = made.contains(asked)
        assert found[expected].all()
        assert found[~expected].sum() <= 2  # 2^27 bits for 48,472 k-mers: practically exact


def test_rbloom_and_we_agree_on_what_was_inserted_and_err_on_one_side_only() -> None:
    rbloom = pytest.importorskip("rbloom")
    phage = genome("lambda").sequence
    kmers = words_of(phage, 31)
    peer = rbloom.Bloom(len(kmers), 0.001)
    peer.update(kmers)
    ours = SuperBloom.for_kmers(len(kmers), fpr=0.001, canonical=False)
    ours.insert(phage)
    assert all(kmer in peer for kmer in kmers)
    assert ours.contains(phage).all()
    other = random_genome(200_000, seed=8).sequence
    wrong = int(ours.contains(other).sum())
    assert wrong / len(other) < 0.003
    assert sum(kmer in peer for kmer in words_of(other, 31)) / len(other) < 0.003


def test_the_keyed_and_cuckoo_baselines_miss_nothing_either() -> None:
    k = kernels.load()
    mers = np.unique(pack(genome("lambda").sequence, 31, canonical=True)[0])
    found = np.empty(len(mers), dtype=np.uint8)
    words = np.zeros(4 * 4096, dtype=np.uint64)
    k.keyed_insert(words, mers)
    assert k.keyed_contains(words, mers, found) == len(mers)
    table = np.zeros(1 << 17, dtype=np.uint16)
    assert k.cuckoo_insert(table, mers) == len(mers)
    assert k.cuckoo_contains(table, mers, found) == len(mers)
    assert np.count_nonzero(table) == len(mers)  # one fingerprint for each, whoever was kicked


def test_reads_are_told_apart_as_their_exact_kmers_do(data_dir) -> None:
    """Real FASTQ reads with Ns against the phage they come from, record by record."""
    phage = genome("lambda").sequence
    exact = set(words_of(phage, 31)) | set(words_of(reverse_complement(phage), 31))
    made = SuperBloom(1 << 26)
    made.insert(phage)
    import dnaio

    path = data_dir("cusbf") / "reads_1.fq.gz"
    with dnaio.open(path) as records:
        texts = [record.sequence for record in records]
    answers = list(made.query_file(path, threads=2))
    assert len(answers) == len(texts) == 10_000
    wrong = 0
    for text, answer in zip(texts, answers, strict=True):
        windows = [text[i : i + 31] for i in range(len(text) - 30)]
        valid = [window for window in windows if set(window) <= set("ACGT")]
        assert answer.kmers == len(valid)
        true = sum(window in exact for window in valid)
        assert answer.hits >= true
        wrong += answer.hits - true
    absent = sum(answer.kmers - answer.hits for answer in answers)
    assert wrong <= absent / 1000  # k-mers with a read error: most of their s-mers are there
