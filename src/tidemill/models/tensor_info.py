"""What a model file says of one tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from tidemill.errors import CorruptFile, UnsupportedModel
from tidemill.models.ggml_types import GGMLType


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    ``shape`` is in numpy's order, outputs (rows) first; ``offset`` counts from the start of the
    file and ``nbytes`` is what is stored there.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    nbytes: int

    def moved(self, distance: int) -> TensorInfo:
        """The same, ``distance`` bytes later."""
        return replace(self, offset=self.offset + distance)


def tensor_info(path: Path, name: str, dims: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
    """A row of GGUF's table, whose dims are innermost first.

    Raises:
        UnsupportedModel: the type is not known.
        CorruptFile: the rows are not whole blocks.
    """
    try:
        known = GGMLType(kind)
    except ValueError:
        raise UnsupportedModel(
            f"{path} — {name!r} is of tensor type {kind}, which is not known; "
            "convert the model with llama-quantize."
        ) from None
    if dims[0] % known.block_size:
        raise CorruptFile(
            f"{path} — {name!r} has rows of {dims[0]} weights; {known.name} needs a multiple "
            f"of {known.block_size}."
        )
    return TensorInfo(name, dims[::-1], known, offset, known.nbytes(prod(dims)))
