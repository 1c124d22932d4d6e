"""The laws of the filters: every build equals the reference, nothing inserted is ever missed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systems.cusbf.reference import BlockedReference, Reference
from tidemill import native
from tidemill.systems.cusbf import BlockedBloom, KmerCounter, SuperBloom, kernels, pack
from tidemill.systems.cusbf.sequences import Batch
from tidemill.systems.cusbf.theory import blocked_fpr, super_fpr
from tidemill.systems.cusbf.workloads import genome, random_genome, reverse_complement

LEVELS = native.available_levels()
LETTERS = st.text(alphabet="ACGTacgtUuN-\n", max_size=260)
PARAMETERS = st.integers(1, 32).flatmap(
    lambda k: st.fixed_dictionaries(
        {
            "k": st.just(k),
            "s": st.integers(max(1, k - 8), k),
            "m": st.integers(1, k),
            "hashes": st.sampled_from([4, 8, 12, 16]),
            "shards": st.integers(8, 50),
            "canonical": st.booleans(),
            "seed": st.integers(0, 2**64 - 1),
        }
    )
)
DEFAULT = {"k": 31, "s": 28, "m": 16, "hashes": 4, "canonical": True, "seed": 0}


def layout(native_kernels: kernels.Kernels, parameters: dict[str, int]) -> kernels.Layout:
    names = ("k", "s", "m", "hashes", "shards", "canonical", "seed")
    return native_kernels.Layout(*(parameters[name] for name in names))


def as_array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def inserted(level: str, parameters: dict[str, int], sequence: np.ndarray, **how) -> np.ndarray:
    words = np.zeros(4 * parameters["shards"], dtype=np.uint64)
    k = kernels.load(level)
    how = {"threads": 1, "shared": False} | how
    k.super_insert(layout(k, parameters), words, sequence, **how)
    return words


@settings(max_examples=60)
@given(parameters=PARAMETERS, sequence=LETTERS, other=LETTERS)
@pytest.mark.parametrize("level", LEVELS)
def test_words_and_answers_equal_the_reference_bit_for_bit(
    level: str, parameters: dict[str, int], sequence: str, other: str
) -> None:
    expected = Reference(**parameters)
    expected.insert(sequence)
    words = inserted(level, parameters, as_array(sequence))
    assert (words == expected.array()).all()
    k = kernels.load(level)
    for asked in (sequence, other, sequence[::-1]):
        found = np.empty(max(0, len(asked) - parameters["k"] + 1), dtype=np.uint8)
        k.super_contains(layout(k, parameters), words, as_array(asked), found, 1)
        assert found.astype(bool).tolist() == expected.contains(asked)


@settings(max_examples=40)
@given(parameters=PARAMETERS, sequence=LETTERS, other=LETTERS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_blocked_filter_equals_its_reference(
    level: str, parameters: dict[str, int], sequence: str, other: str
) -> None:
    parameters = parameters | {"s": parameters["k"], "m": parameters["k"]}
    expected = BlockedReference(**parameters)
    expected.insert(sequence)
    k = kernels.load(level)
    words = np.zeros(4 * parameters["shards"], dtype=np.uint64)
    k.blocked_insert(layout(k, parameters), words, as_array(sequence), 1, False)
    assert (words == expected.array()).all()
    found = np.empty(max(0, len(other) - parameters["k"] + 1), dtype=np.uint8)
    k.blocked_contains(layout(k, parameters), words, as_array(other), found, 1)
    assert found.astype(bool).tolist() == expected.contains(other)


@pytest.mark.parametrize("level", LEVELS)
def test_every_length_and_every_edge_of_a_chunk_equals_one_kmer_at_a_time(level: str) -> None:
    k = kernels.load(level)
    parameters = DEFAULT | {"shards": 300}
    made = layout(k, parameters)
    whole = random_genome(3 * 4096 + 70, seed=5).sequence.copy()
    whole[[100, 4095, 4096, 4097, 8200]] = ord("N")
    lengths = [*range(0, 140), *range(4090, 4135), *range(8180, 8230), *range(12270, len(whole))]
    for length in lengths:
        sequence = np.ascontiguousarray(whole[:length])
        words, expected = (np.zeros(1200, dtype=np.uint64) for _ in range(2))
        k.super_insert(made, words, sequence, 1, False)
        k.scalar_insert(made, expected, sequence)
        assert (words == expected).all(), length
        found, answers = (np.empty(max(0, length - 30), dtype=np.uint8) for _ in range(2))
        k.super_contains(made, words, sequence, found, 1)
        k.scalar_contains(made, words, sequence, answers)
        assert (found == answers).all(), length


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("level", LEVELS)
def test_threads_change_neither_words_nor_answers(level: str, threads: int) -> None:
    sequence = random_genome(300_001, seed=3).sequence
    parameters = DEFAULT | {"shards": 20_000}
    one = inserted(level, parameters, sequence)
    assert (inserted(level, parameters, sequence, threads=threads) == one).all()
    assert (inserted(level, parameters, sequence, threads=threads, shared=True) == one).all()
    k = kernels.load(level)
    single, several = (np.empty(len(sequence) - 30, dtype=np.uint8) for _ in range(2))
    k.super_contains(layout(k, parameters), one, sequence[::-1].copy(), single, 1)
    k.super_contains(layout(k, parameters), one, sequence[::-1].copy(), several, threads)
    assert (single == several).all()


@pytest.mark.parametrize("kind", [SuperBloom, BlockedBloom])
@pytest.mark.parametrize("name", ["ecoli_k12", "ecoli_536", "lambda"])
def test_no_kmer_of_a_real_genome_is_missed_on_either_strand(
    kind: type[SuperBloom], name: str, tmp_path: Path
) -> None:
    sequence = genome(name).sequence
    middle = len(sequence) // 2
    first, second = kind(1 << 26), kind(1 << 26)
    first.insert(sequence[: middle + 30], threads=2)
    second.insert(sequence[middle:])
    first |= second
    first.save(tmp_path / "filter.sbf")
    for mapped in (False, True):
        loaded = kind.load(tmp_path / "filter.sbf", mmap=mapped)
        _, valid = pack(sequence, 31)
        assert (loaded.contains(sequence, threads=2) == valid).all()
        assert loaded.contains(reverse_complement(sequence)).sum() == valid.sum()


def test_isolated_kmers_get_the_answers_of_their_sequence() -> None:
    sequence = genome("lambda").sequence
    for made in (SuperBloom(1 << 20), BlockedBloom(1 << 20)):
        made.insert(sequence)
        other = random_genome(50_000, seed=1).sequence
        mers, valid = pack(other, 31)
        assert (made.contains_packed(mers[valid]) == made.contains(other)[valid]).all()
        by_mers = type(made)(1 << 20)
        by_mers.insert_packed(pack(sequence, 31)[0])
        assert (by_mers.words == made.words).all()


def test_shards_visited_per_kmer_follow_the_minimizers_law() -> None:
    made = SuperBloom(1 << 24)
    report = made.insert(genome("ecoli_k12").sequence)
    assert report.shard_loads_per_kmer == pytest.approx(2 / 17, rel=0.02)


@pytest.mark.parametrize("bits_per_kmer", [12, 21.4, 48])
def test_the_false_positive_rate_is_that_of_theory_on_a_random_genome(bits_per_kmer: float) -> None:
    kmers, asked = 500_000, 4_000_000
    random = np.random.default_rng(9)
    negatives = random.integers(0, 1 << 62, asked, dtype=np.uint64)
    for made, law in (
        (SuperBloom(int(kmers * bits_per_kmer)), super_fpr),
        (BlockedBloom(int(kmers * bits_per_kmer), hashes=4), blocked_fpr),
    ):
        made.insert(random_genome(kmers + 30, seed=2).sequence)
        expected = law(kmers, made.shards, hashes=4)
        hits = int(made.contains_packed(negatives).sum())
        slack = 5 * np.sqrt(expected * asked) + 3  # five sigma of the count
        assert expected * asked / 1.5 - slack <= hits <= expected * asked * 1.5 + slack


def test_for_kmers_reaches_the_rate_it_was_asked_for() -> None:
    made = SuperBloom.for_kmers(200_000, fpr=1e-3)
    made.insert(random_genome(200_030, seed=4).sequence)
    assert made.expected_fpr() < 1.5e-3


def test_distinct_kmers_are_estimated_within_three_percent() -> None:
    sequence = genome("ecoli_k12").sequence
    counter = KmerCounter()
    counter.add(sequence)
    counter.add(reverse_complement(sequence))
    mers, valid = pack(sequence, 31, canonical=True)
    assert counter.estimate() == pytest.approx(len(np.unique(mers[valid])), rel=0.03)


def test_queries_while_others_insert_never_miss_what_was_there_before() -> None:
    made = SuperBloom(1 << 24)
    known = genome("lambda").sequence
    made.insert(known)
    stop = threading.Event()

    def insert() -> None:
        seed = 0
        while not stop.is_set():
            made.insert(random_genome(50_000, seed=seed).sequence)
            seed += 1

    writers = [threading.Thread(target=insert) for _ in range(3)]
    for writer in writers:
        writer.start()
    answers = [made.contains(known).all() for _ in range(200)]
    stop.set()
    for writer in writers:
        writer.join()
    assert all(answers)


def test_a_window_over_a_letter_that_is_no_base_is_absent() -> None:
    made = SuperBloom(1 << 16)
    sequence = b"ACGTTGCA" * 8
    made.insert(sequence)
    broken = bytearray(sequence)
    broken[40] = ord("N")
    expected = [not i <= 40 < i + 31 for i in range(len(sequence) - 30)]
    assert made.contains(broken).tolist() == expected


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="ACGTN-", max_size=40), min_size=1, max_size=8),
    k=st.integers(1, 32),
)
def test_a_records_windows_are_counted_as_they_are_packed(texts: list[str], k: int) -> None:
    import dnaio

    batch = Batch.of([dnaio.SequenceRecord(str(i), text) for i, text in enumerate(texts)])
    made = SuperBloom(1 << 12, k=k, s=k, m=k)
    made.update(texts[::2])
    kmers, hits = made.count_hits(batch)
    assert kmers == [int(pack(text, k)[1].sum()) for text in texts]
    assert hits == [int(made.contains(text).sum()) for text in texts]


def test_lower_case_and_rna_are_the_same_kmers() -> None:
    made = SuperBloom(1 << 16)
    made.insert("ACGTTGCATT" * 10)
    assert made.contains("acguugcauu" * 10).all()


@pytest.mark.parametrize("sequence", ["", "ACGT", "A" * 30])
def test_a_sequence_shorter_than_k_has_no_kmers_and_is_no_error(sequence: str) -> None:
    made = SuperBloom(1 << 12)
    assert made.insert(sequence).kmers == 0
    assert made.contains(sequence).shape == (0,)


def test_golden_words_of_the_documented_format() -> None:
    """The format's own vector: 31 bases, 64 shards, seed 0 (see docs/systems/cusbf.md)."""
    made = SuperBloom(64 * 256)
    made.insert("ACGTACGGTTCAGCATTGACCAGTGCATGCA")
    expected = Reference(**DEFAULT, shards=64)
    expected.insert("ACGTACGGTTCAGCATTGACCAGTGCATGCA")
    assert (made.words == expected.array()).all()
    assert len({index // 4 for index in np.flatnonzero(made.words)}) == 1
