"""Safetensors files against the safetensors package, and files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tidemill.errors import CorruptFile, InputError, TidemillError, UnsupportedModel
from tidemill.models.safetensors_file import SafetensorsFile


def packed(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_what_the_package_wrote_is_read(dtype: type[np.generic], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tensors = {f"t{n}": rng.normal(size=(n, 3)).astype(dtype) for n in range(1, 5)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile.open(tmp_path)
    assert set(file.tensors) == set(tensors)
    for name, expected in tensors.items():
        assert file.tensors[name].shape == expected.shape
        assert file.raw(name).tobytes() == expected.tobytes()
        assert np.array_equal(file.dequantize(name), expected.astype(np.float32))


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    weight = torch.randn(5, 7).to(torch.bfloat16)
    save_torch({"w": weight}, tmp_path / "model.safetensors")
    found = SafetensorsFile.open(tmp_path).dequantize("w")
    assert np.array_equal(found, weight.float().numpy())


def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    for index in (1, 2):
        save_file({f"t{index}": np.full(3, index, np.float32)}, tmp_path / f"{index}.safetensors")
    weight_map = {"t1": "1.safetensors", "t2": "2.safetensors"}
    index_file = tmp_path / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": weight_map}))
    file = SafetensorsFile.open(tmp_path)
    assert file.dequantize("t2").tolist() == [2, 2, 2]
    assert set(file.tensors) == {"t1", "t2"}


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../1.safetensors"}}', "not a file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "not a file beside it"),
        ('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}', "as another shard does"),
        (json.dumps({"weight_map": {str(i): f"{i}" for i in range(1001)}}), "names 1001 shards"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(index: str, text: str, tmp_path: Path) -> None:
    for name in ("1", "2"):
        save_file({"t": np.zeros(3, np.float32)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CorruptFile, match=text):
        SafetensorsFile.open(tmp_path)


CORRUPT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "three bytes": (b"abc", "claims a header"),
    "an endless header": (packed({}, length=2**63), "claims a header of 9223372036854775808"),
    "a header past the end": (packed({}, length=50), "claims a header of 50"),
    "no JSON": (packed(b"{a: 1}"), "not JSON"),
    "a list": (packed([]), "not an object"),
    "deep JSON": (packed(b'{"a":' + b"[" * 100_000), "not JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not JSON"),
    "a name twice": (packed(b'{"a": 1, "a": 2}'), "there twice"),
    "no object": (packed({"a": 5}), "nothing sensible of 'a'"),
    "no shape": (packed({"a": entry(None)}, bytes(8)), "nothing sensible"),
    "a shape below 0": (packed({"a": entry([-1])}, bytes(8)), "nothing sensible"),
    "a shape of truths": (packed({"a": entry([True, True])}, bytes(8)), "nothing sensible"),
    "a shape of fractions": (packed({"a": entry([2.0])}, bytes(8)), "nothing sensible"),
    "sixty dimensions": (packed({"a": entry([1] * 60)}, bytes(8)), "nothing sensible"),
    "one offset": (packed({"a": entry([2], [0])}, bytes(8)), "nothing sensible"),
    "offsets backwards": (packed({"a": entry([2], [8, 0])}, bytes(8)), "but has -8"),
    "a size that differs": (packed({"a": entry([3])}, bytes(8)), "takes 12 bytes, but has 8"),
    "sizes that overflow": (packed({"a": entry([2**60] * 8)}, bytes(8)), "bytes, but has 8"),
    "past the end": (packed({"a": entry([4], [0, 16])}, bytes(8)), "past the end"),
    "one over another": (
        packed({"a": entry(), "b": entry([2], [4, 12])}, bytes(12)),
        "lies over another",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_a_file_that_contradicts_itself_is_corrupt(case: str, tmp_path: Path) -> None:
    data, text = CORRUPT[case]
    with pytest.raises(CorruptFile, match=text):
        SafetensorsFile.open(written(tmp_path, data))


def test_an_unknown_type_is_unsupported(tmp_path: Path) -> None:
    data = packed({"a": entry(dtype="F4")}, bytes(8))
    with pytest.raises(UnsupportedModel, match=r"'F4'.*BF16"):
        SafetensorsFile.open(written(tmp_path, data))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors — cannot be read: No such"):
        SafetensorsFile.open(tmp_path)
    save_file({"t": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    file = SafetensorsFile.open(tmp_path)
    with pytest.raises(InputError, match="no tensor 'nope'"):
        file.raw("nope")
    file.close()
    with pytest.raises(InputError, match="was closed"):
        file.raw("t")


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 7))))
def test_cut_and_flipped_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    header = {"a": entry([4], [0, 16]), "b": entry([2, 4], [16, 32], "BF16")}
    data = bytearray(packed(header, bytes(32)))
    for offset, bit in flips:
        data[min(offset, len(data) - 1)] ^= 1 << bit
    path = written(tmp_path_factory.mktemp("safetensors"), bytes(data[: len(data) - cut]))
    try:
        file = SafetensorsFile.open(path)
        for name in file.tensors:
            file.dequantize(name)
    except TidemillError:
        pass
