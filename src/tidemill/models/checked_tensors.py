"""Named arrays and facts as safetensors bytes with a checksum; files are replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError

Tensors = Mapping[str, NDArray[np.generic]]
_CHECKSUM = "checksum"


def pack(tensors: Tensors, facts: Mapping[str, str]) -> bytes:
    """As safetensors; ``facts`` become its metadata."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save(cast(Any, arrays), {**facts, _CHECKSUM: _checksum(arrays, facts)})


def unpack(
    data: bytes, what: str, remedy: str
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """What `pack` was given.

    Args:
        data: What it gave.
        what: Names the data in messages.
        remedy: What the user can do about damage.

    Raises:
        CorruptFile: It is cut short, damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    wrong = f"{what} — {{}}; must be whole and as it was written; {remedy}."
    try:
        tensors = cast("dict[str, NDArray[np.generic]]", load(data))
        header: Any = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts: dict[str, str] = dict(header.get("__metadata__") or {})
    except (SafetensorError, ValueError, OverflowError) as error:
        raise CorruptFile(wrong.format(error)) from error
    if facts.pop(_CHECKSUM, "") != _checksum(tensors, facts):
        raise CorruptFile(wrong.format("its checksum differs"))
    return tensors, facts


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` so that whoever reads it meanwhile finds old or new whole.

    Raises:
        InputError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} — cannot be written: {error.strerror}; must be a file in a writable folder; "
            "what was there is untouched."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _checksum(tensors: Tensors, facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(facts.items()))).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
