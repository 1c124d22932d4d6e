"""GGUF files that are well-formed: what is read is what a peer wrote; views outlive the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_builder import Gguf, Tensor, floats, llama
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InputError
from tidemill.models.ggml_types import GGMLType
from tidemill.models.gguf import GGUFFile
from tidemill.models.string_array import StringArray

gguf = pytest.importorskip("gguf")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).map(lambda key: "k." + key)
NUMBERS = {
    np.uint8: "add_uint8",
    np.int8: "add_int8",
    np.uint16: "add_uint16",
    np.int16: "add_int16",
    np.uint32: "add_uint32",
    np.int32: "add_int32",
    np.uint64: "add_uint64",
    np.int64: "add_int64",
}


def write(path: Path, add: Callable[[Any], None]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_numbers_of_every_width_come_back_as_the_peer_wrote_them(tmp_path: Path) -> None:
    def add(writer: Any) -> None:
        for dtype, method in NUMBERS.items():
            getattr(writer, method)(f"low.{dtype.__name__}", int(np.iinfo(dtype).min))
            getattr(writer, method)(f"high.{dtype.__name__}", int(np.iinfo(dtype).max))
        writer.add_float32("float32", 0.1)
        writer.add_float64("float64", 0.1)
        writer.add_bool("yes", True)
        writer.add_bool("no", False)

    metadata = GGUFFile.open(write(tmp_path / "a.gguf", add)).metadata
    for dtype in NUMBERS:
        assert metadata[f"low.{dtype.__name__}"] == np.iinfo(dtype).min
        assert metadata[f"high.{dtype.__name__}"] == np.iinfo(dtype).max
    assert metadata["float32"] == float(np.float32(0.1))
    assert metadata["float64"] == 0.1
    assert (metadata["yes"], metadata["no"]) == (True, False)


def test_arrays_are_numpy_arrays_that_cannot_be_written(tmp_path: Path) -> None:
    def add(writer: Any) -> None:
        writer.add_array("floats", [0.5, -1.5])
        writer.add_array("counts", [1, -2, 3])
        writer.add_array("truths", [True, False])
        writer.add_array("words", ["a", "", "ü"])

    metadata = GGUFFile.open(write(tmp_path / "a.gguf", add)).metadata
    assert metadata["words"] == ("a", "", "ü")
    for key, expected in (("floats", [0.5, -1.5]), ("counts", [1, -2, 3])):
        found = metadata[key]
        assert isinstance(found, np.ndarray)
        assert found.tolist() == expected
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 7
    truths = metadata["truths"]
    assert isinstance(truths, np.ndarray)
    assert truths.tolist() == [True, False]


@given(
    metadata=st.dictionaries(
        KEYS, st.one_of(TEXT, st.booleans(), st.integers(0, 2**32 - 1), st.lists(TEXT)), max_size=5
    ),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=4),
)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[Any, Any], shapes: list[list[int]]
) -> None:
    tensors = [Tensor(f"t{i}", dims, floats(*dims)) for i, dims in enumerate(shapes)]
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    path.write_bytes(Gguf(metadata, tensors).build())
    with GGUFFile.open(path) as file:
        assert dict(file.metadata) == metadata
        assert list(file.tensors) == [tensor.name for tensor in tensors]
        for tensor in tensors:
            name = str(tensor.name)
            assert file.tensors[name].shape == tuple(tensor.dims)[::-1]
            assert file.raw(name).tobytes() == tensor.data
            assert file.dequantize(name).tobytes() == tensor.data


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_the_alignment_is_the_files_own(tmp_path: Path, alignment: int) -> None:
    tensors = [Tensor("a", (3,), floats(3)), Tensor("b", (5,), floats(5))]
    metadata: dict[str | bytes, Any] = {"general.alignment": alignment}
    path = tmp_path / "a.gguf"
    path.write_bytes(Gguf(metadata, tensors, alignment=alignment).build())
    with GGUFFile.open(path) as file:
        assert file.tensors["b"].offset % alignment == 0
        assert file.dequantize("b").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "name", ["smollm2-135m", pytest.param("qwen2.5-coder-0.5b", marks=pytest.mark.slow)]
)
def test_a_real_file_is_read_as_the_gguf_package_reads_it(
    model_path: Callable[[str], Path], name: str
) -> None:
    path = model_path(name)
    peer = gguf.GGUFReader(path)
    with GGUFFile.open(path) as file:
        assert set(file.metadata) == {key for key in peer.fields if not key.startswith("GGUF.")}
        for key, found in file.metadata.items():
            if not isinstance(found, StringArray | np.ndarray):
                assert found == peer.fields[key].contents()
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, StringArray)
        field = peer.fields["tokenizer.ggml.tokens"]
        assert len(tokens) == len(field.data)
        assert all(tokens[i] == field.contents(i) for i in range(0, len(tokens), 997))
        assert list(file.tensors) == [tensor.name for tensor in peer.tensors]
        for tensor in peer.tensors:
            info = file.tensors[tensor.name]
            assert info.shape == tuple(int(dim) for dim in reversed(tensor.shape))
            assert info.type == GGMLType[tensor.tensor_type.name]
            assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)


def test_a_view_is_no_copy_and_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(llama().build())
    file = GGUFFile.open(path)
    view = file.raw("token_embd.weight")
    assert not view.flags.owndata
    assert not view.flags.writeable
    file.close()
    file.close()
    path.unlink()
    assert view.tobytes() == floats(32, 5)
    with pytest.raises(InputError, match="closed"):
        file.raw("token_embd.weight")


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(llama().build())
    with GGUFFile.open(path) as file, pytest.raises(InputError, match=r"no tensor 'nope'"):
        file.dequantize("nope")


def test_a_file_without_tensors_is_only_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(Gguf({"general.architecture": "llama"}).build())
    with GGUFFile.open(path) as file:
        assert dict(file.tensors) == {}
        assert file.metadata["general.architecture"] == "llama"
