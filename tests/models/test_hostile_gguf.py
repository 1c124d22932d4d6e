"""GGUF files that lie: each is refused with one clear error, quickly and in little memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_gguf import mutations, survives
from gguf_builder import ARRAY, STRING, Gguf, Tensor, floats, llama, string, uint32, uint64
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.config import DecoderConfig
from tidemill.models.gguf import MAX_METADATA, MAX_TENSORS, GGUFFile

WORDS = [Tensor("a", (4,), floats(4)), Tensor("b", (4,), floats(4))]


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return uint32(ARRAY) + uint32(kind) + uint64(count) + data


def tensors(*changed: Tensor) -> Gguf:
    return Gguf(tensors=changed)


CORRUPT: dict[str, tuple[Gguf | bytes, str]] = {
    "empty": (b"", "is empty"),
    "one byte": (b"G", "needs 4 bytes"),
    "another format": (b"PK\x03\x04" + bytes(60), "begins with"),
    "no counts": (b"GGUF" + uint32(3), "number of tensors"),
    "a billion tensors": (Gguf(tensor_count=10**9), "claims 1000000000 tensors"),
    "2^64 - 1 tensors": (Gguf(tensor_count=2**64 - 1), "claims 18446744073709551615"),
    "tensors the file cannot hold": (Gguf(tensor_count=MAX_TENSORS), "claims 65536 tensors"),
    "a billion metadata entries": (Gguf(metadata_count=10**9), "claims 1000000000 metadata"),
    "entries the file cannot hold": (Gguf(metadata_count=MAX_METADATA), "claims 65536 meta"),
    "an endless key": (Gguf(metadata_count=1).head() + uint64(2**63) + bytes(9), "key 0"),
    "a key past the end": (Gguf(metadata_count=1).head() + uint64(99) + bytes(9), "key 0"),
    "a key of nothing": (Gguf({"": 1}), "is empty"),
    "a key that is not text": (Gguf({b"\xff\xfe": 1}), "not UTF-8"),
    "a key twice": (Gguf({"a": 1, b"a": 2}), "'a' twice"),
    "an unknown type": (Gguf({"a": uint32(13) + bytes(8)}), "of type 13"),
    "a vast type": (Gguf({"a": uint32(2**32 - 1) + bytes(8)}), "of type 4294967295"),
    "a boolean of 2": (Gguf({"a": uint32(7) + b"\x02"}), "neither 0 nor 1"),
    "an array with a boolean of 255": (Gguf({"a": array(7, 2, b"\x01\xff")}), "neither 0 nor 1"),
    "an endless string": (Gguf({"a": uint32(STRING) + uint64(2**63)}), "'a' claims"),
    "a string past the end": (Gguf({"a": uint32(STRING) + uint64(2000)}), "needs 2000 bytes"),
    "a string that is not text": (Gguf({"a": uint32(STRING) + string(b"\xc3(")}), "not UTF-8"),
    "an array of 2^63": (Gguf({"a": array(4, 2**63)}), "claims 9223372036854775808 elements"),
    "an array past the end": (Gguf({"a": array(12, 10**6)}), "needs 8000000 bytes"),
    "words past the end": (Gguf({"a": array(STRING, 10**6)}), "needs 8000000 bytes"),
    "a word past the end": (Gguf({"a": array(STRING, 1, uint64(50))}), "claims 50 bytes"),
    "a word of 2^64 - 1": (Gguf({"a": array(STRING, 1, uint64(2**64 - 1))}), "claims"),
    "a word that is not text": (Gguf({"a": array(STRING, 1, string(b"\x80"))}), "not UTF-8"),
    "an array of an unknown type": (Gguf({"a": array(99, 3, bytes(9))}), "of type 99"),
    "alignment 0": (Gguf({"general.alignment": 0}), "power of two"),
    "alignment 12": (Gguf({"general.alignment": 12}), "power of two"),
    "alignment 1": (Gguf({"general.alignment": 1}), "power of two"),
    "alignment 2^31": (Gguf({"general.alignment": 2**31}), "power of two"),
    "alignment of words": (Gguf({"general.alignment": "x"}), "power of two"),
    "alignment true": (Gguf({"general.alignment": True}), "power of two"),
    "a tensor without a name": (tensors(Tensor("", (4,), floats(4))), "tensor 0 is empty"),
    "an endless name": (tensors(Tensor("n" * 65, (4,), floats(4))), "claims 65 bytes"),
    "a name that is not text": (tensors(Tensor(b"\xff", (4,), floats(4))), "not UTF-8"),
    "two of one name": (tensors(WORDS[0], WORDS[0]), "two tensors are named 'a'"),
    "no dimensions": (tensors(Tensor("a", (), floats(4))), "has 0 dimensions"),
    "five dimensions": (tensors(Tensor("a", (1,) * 5, floats(4))), "has 5 dimensions"),
    "a vast rank": (tensors(Tensor("a", (4,), b"", rank=2**32 - 1)), "4294967295 dimensions"),
    "a dimension of 0": (tensors(Tensor("a", (4, 0), b"")), r"dimensions \(4, 0\)"),
    "a dimension of 2^63": (tensors(Tensor("a", (2**63,), b"")), "each must be 1 to"),
    "sizes that overflow": (tensors(Tensor("a", (2**40, 2**24), b"")), "past the end"),
    "sizes that overflow twice": (tensors(Tensor("a", (2**40,) * 4, b"")), "past the end"),
    "half a block": (tensors(Tensor("a", (33,), bytes(68), kind=8)), "multiple of 32"),
    "an offset past the end": (tensors(Tensor("a", (4,), b"", offset=2**40)), "past the end"),
    "an offset of 2^64 - 32": (tensors(Tensor("a", (4,), b"", offset=2**64 - 32)), "past the end"),
    "a crooked offset": (tensors(Tensor("a", (4,), floats(4), offset=4)), "multiple of 32"),
    "one over another": (
        tensors(WORDS[0], Tensor("b", (4,), floats(4), offset=0)),
        "'b' at 0 lies over",
    ),
    "one within another": (
        tensors(Tensor("a", (64,), floats(64)), Tensor("b", (4,), floats(4), offset=32)),
        "lies over another",
    ),
}
UNSUPPORTED: dict[str, tuple[Gguf, str]] = {
    "version 1": (Gguf(version=1), "version 1"),
    "a version to come": (Gguf(version=4), "version 4"),
    "big-endian": (Gguf(version=0x03000000), "big-endian"),
    "arrays of arrays": (Gguf({"a": array(ARRAY, 1, array(4, 0))}), "array of arrays"),
    "an unknown tensor type": (tensors(Tensor("a", (4,), floats(4), kind=77)), "type 77"),
    "a type that was removed": (tensors(Tensor("a", (32,), bytes(32), kind=4)), "type 4"),
}


def written(folder: Path, found: Gguf | bytes) -> Path:
    path = folder / "hostile.gguf"
    path.write_bytes(found.build() if isinstance(found, Gguf) else found)
    return path


@pytest.mark.parametrize("case", CORRUPT)
def test_a_file_that_contradicts_itself_is_corrupt(case: str, tmp_path: Path) -> None:
    found, text = CORRUPT[case]
    path = written(tmp_path, found)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match=text) as caught:
            GGUFFile.open(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_a_file_of_another_kind_is_unsupported(case: str, tmp_path: Path) -> None:
    found, text = UNSUPPORTED[case]
    with pytest.raises(UnsupportedModel, match=text):
        GGUFFile.open(written(tmp_path, found))


@pytest.mark.parametrize(
    "metadata",
    [
        {"general.alignment": "x" * 1_000_000},
        {"k" * 60_000: uint32(99)},
        {"k" * 60_000: 1, b"k" * 60_000: 2},
        {"general.architecture": "x" * 1_000_000},
        {"general.architecture": "llama", "llama.expert_count": "x" * 1_000_000},
    ],
    ids=["alignment", "key", "keys", "architecture", "count"],
)
def test_an_error_never_repeats_an_absurd_text(
    metadata: dict[str | bytes, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        DecoderConfig.from_gguf(GGUFFile.open(written(tmp_path, Gguf(metadata))))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_an_error_never_repeats_an_absurd_name(tmp_path: Path) -> None:
    name = "\x1b[31m" + "n" * 50
    path = written(tmp_path, tensors(Tensor(name, (33,), bytes(68), kind=8)))
    with pytest.raises(CorruptFile) as caught:
        GGUFFile.open(path)
    assert "\x1b" not in str(caught.value)


def test_a_file_cut_anywhere_is_corrupt(tmp_path: Path) -> None:
    whole = llama(layers=1).build()
    last = max(offset + 1 for offset, byte in enumerate(whole) if byte)
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 1300), *range(1300, last, 499)]:
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            GGUFFile.open(path)


@given(flips=st.lists(st.tuples(st.integers(0, 1299), st.integers(0, 7)), min_size=1, max_size=8))
def test_flipped_bits_are_read_or_refused_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(llama(layers=1).build())
    for offset, bit in flips:
        data[offset] ^= 1 << bit
    survives(written(tmp_path_factory.mktemp("flips"), bytes(data)))


def test_six_hundred_mutations_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    for data in mutations(seed=3, count=600):
        path.write_bytes(data)
        survives(path)


@pytest.mark.parametrize("word", ["", "ab", "本"])
def test_many_words_cost_a_small_multiple_of_the_file(word: str, tmp_path: Path) -> None:
    count = 100_000
    path = written(tmp_path, Gguf({"a": array(STRING, count, string(word) * count)}))
    tracemalloc.start()
    try:
        assert len(GGUFFile.open(path).metadata["a"]) == count  # pyright: ignore
        assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_all_arrays_together_are_bounded(tmp_path: Path) -> None:
    entry = uint32(ARRAY) + uint32(0) + uint64(1 << 22) + bytes(1 << 22)
    found = Gguf({"a": entry, "b": entry, "c": array(0, 1, b"\x01")})
    with pytest.raises(CorruptFile, match="'c' claims 1 elements"):
        GGUFFile.open(written(tmp_path, found))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.mkdir(), "is not a file"),
        (os.mkfifo, "is not a file"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: None, "cannot be read: No such file"),
    ],
    ids=["folder", "fifo", "a link to itself", "nothing"],
)
def test_what_is_no_file_cannot_be_opened(
    make: Callable[[Path], object], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(InputError, match=text):
        GGUFFile.open(path)


def test_a_path_that_no_system_has_cannot_be_opened() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        GGUFFile.open("a\0b.gguf")
    with pytest.raises(InputError, match="cannot be read"):
        GGUFFile.open("n" * 5000)


def test_scales_that_are_not_numbers_do_not_warn(tmp_path: Path) -> None:
    block = struct.pack("<H", 0x7E00) + bytes(range(32))
    path = written(tmp_path, tensors(Tensor("a", (32,), block, kind=8)))
    with GGUFFile.open(path) as file:
        assert str(file.dequantize("a")[5]) == "nan"
