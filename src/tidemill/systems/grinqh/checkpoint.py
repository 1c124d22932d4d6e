"""Graded matrices on disk, as transformers lays models out: tensors, and a config.json about them.

``config.json`` has a ``quantization_config`` of ``quant_method`` "grinqh" with the checksum of
``model.safetensors``, the shapes, and the codebook; it is renamed into place last.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError
from tidemill.systems.grinqh.codebook import LEVELS, Codebook, gaussian
from tidemill.systems.grinqh.graded_matrix import GradedMatrix, plane_bytes

VERSION = 4
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
KEY = "quantization_config"
_FIELDS = ("row_scale", "col_scale", "col_norm", "outlier_start", "outlier_rows", "outlier_values")
Arrays = dict[str, NDArray[Any]]


def save(
    matrices: Mapping[str, GradedMatrix],
    folder: Path | str,
    *,
    rest: Mapping[str, NDArray[Any]] | None = None,
    about: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> None:
    """Write ``matrices`` by name into ``folder``.

    Args:
        matrices: A matrix that stands under two names is written once for each.
        folder: Made if it is not there.
        rest: Other tensors of the model, by name.
        about: More for ``quantization_config``; JSON only.
        model_config: What else config.json holds.

    Raises:
        InputError: ``folder`` cannot be written to.
    """
    from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

    arrays: Arrays = dict(rest or {})
    for name, matrix in matrices.items():
        arrays |= {
            f"{name}.{each}": np.ascontiguousarray(getattr(matrix, each)) for each in _FIELDS
        }
        arrays |= {f"{name}.plane{level}": plane for level, plane in matrix.planes.items()}
    tree = gaussian()
    config: dict[str, Any] = {
        "quant_method": "grinqh",
        "format_version": VERSION,
        "shapes": {n: [m.rows, m.cols, m.outliers, m.top] for n, m in matrices.items()},
        "values": {str(level): tree.values[level].tolist() for level in LEVELS},
        "edges": tree.edges.tolist(),
        "distortions": list(tree.distortions.values()),
        **(about or {}),
    }
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        config["sha256"] = _replace(path / WEIGHTS, lambda to: save_file(arrays, to))
        text = json.dumps({**(model_config or {}), KEY: config}, indent=1)
        _replace(path / CONFIG, lambda to: to.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} — {error.strerror}; must be a folder to write to.") from error


def load(folder: Path | str) -> dict[str, GradedMatrix]:
    """The matrices that `save` wrote.

    Raises:
        InputError: There is nothing of the kind.
        CorruptFile: It is damaged, truncated, or of another version.
    """
    return load_all(folder)[0]


def load_all(folder: Path | str) -> tuple[dict[str, GradedMatrix], Arrays, dict[str, Any]]:
    """What `save` wrote: matrices, the rest, and config.json; raises as `load`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

    path = Path(folder)
    try:
        config = cast("dict[str, Any]", json.loads((path / CONFIG).read_bytes()))
        about = cast("dict[str, Any]", config[KEY])
        if about["quant_method"] != "grinqh":
            raise _corrupt(path, f"quant_method {about['quant_method']!r}, must be 'grinqh'")
        if about["format_version"] != VERSION:
            raise _corrupt(path, f"format version {about['format_version']}, must be {VERSION}")
        if _sha256(path / WEIGHTS) != about["sha256"]:
            raise _corrupt(path, f"{WEIGHTS} does not match its checksum")
        arrays = load_file(path / WEIGHTS)
        tree = codebook_of(about)
        shapes = cast("dict[str, list[int]]", about["shapes"])
        matrices = {name: _matrix(arrays, name, shape, tree) for name, shape in shapes.items()}
        return matrices, arrays, config
    except OSError as error:
        raise InputError(
            f"{folder} — {error.strerror}; must hold {CONFIG} and {WEIGHTS}; "
            "quantise a model first."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, CorruptFile):
            raise
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error


def codebook_of(about: Mapping[str, Any]) -> Codebook:
    """The codebook that a ``quantization_config`` holds.

    Raises:
        CorruptFile: It is no tree.
    """
    return Codebook.from_values(
        {int(level): np.array(row, np.float32) for level, row in about["values"].items()},
        np.array(about["edges"]),
        np.array(about["distortions"]),
    )


def _matrix(arrays: Arrays, name: str, shape: list[int], tree: Codebook) -> GradedMatrix:
    """One matrix, taken out of ``arrays``."""
    rows, cols, outliers, top = shape
    fields = {field: arrays.pop(f"{name}.{field}") for field in _FIELDS}
    planes = {each: arrays.pop(f"{name}.plane{each}") for each in LEVELS if each <= top}
    for level, plane in planes.items():
        wanted = (cols, plane_bytes(level, rows))
        if plane.shape != wanted or plane.dtype != np.uint8:
            raise CorruptFile(
                f"{name} — plane {level} has shape {plane.shape}, must be {wanted}; "
                "quantise the model again."
            )
    start, at = fields["outlier_start"].astype(np.int64), fields["outlier_rows"].astype(np.int64)
    owner = np.repeat(np.arange(cols), np.diff(start)) if len(start) == cols + 1 else at
    sound = (
        fields["row_scale"].shape == (rows,)
        and fields["col_scale"].shape == fields["col_norm"].shape == (cols,)
        and start.shape == (cols + 1,)
        and int(start[0]) == 0
        and bool((np.diff(start) >= 0).all())
        and int(start[-1]) == outliers == len(at) == len(fields["outlier_values"])
        and bool((at < rows).all())
        and bool((np.diff(owner * rows + at) > 0).all())
        and all(np.isfinite(fields[each]).all() for each in ("row_scale", "col_scale", "col_norm"))
    )
    if not sound:
        raise CorruptFile(f"{name} — scales or outliers do not fit; quantise the model again.")
    return GradedMatrix(rows=rows, cols=cols, planes=planes, codebook=tree, **cast("Any", fields))


def _corrupt(path: Path, found: str) -> CorruptFile:
    return CorruptFile(f"{path} as a grinqh model — {found}; quantise or copy it again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(target: Path, write: Callable[[Path], object]) -> str:
    """Write a file beside ``target``, then rename it; its SHA-256."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    made = Path(name)
    try:
        write(made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        checksum = _sha256(made)
        made.chmod(0o644)
        made.replace(target)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return checksum
