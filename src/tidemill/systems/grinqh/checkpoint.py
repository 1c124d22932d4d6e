"""Graded matrices on disk: one safetensors file, one JSON that says what it is and its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError
from tidemill.systems.grinqh.codebook import LEVELS, Codebook, gaussian
from tidemill.systems.grinqh.graded_matrix import GROUP, PLANE_BITS, GradedMatrix

VERSION = 1
WEIGHTS = "grinqh.safetensors"
CONFIG = "grinqh.json"
_FIELDS = ("row_scale", "col_scale", "col_norm", "outlier_start", "outlier_rows", "outlier_values")
Arrays = dict[str, NDArray[Any]]


def save(matrices: dict[str, GradedMatrix], folder: Path | str) -> None:
    """Write ``matrices`` by name into ``folder``; the JSON is renamed into place last.

    Raises:
        InputError: ``folder`` cannot be written to.
    """
    from safetensors.numpy import save as pack_tensors

    arrays: Arrays = {}
    shapes: dict[str, list[int]] = {}
    for name, matrix in matrices.items():
        shapes[name] = [matrix.rows, matrix.cols]
        for field in _FIELDS:
            arrays[f"{name}.{field}"] = np.ascontiguousarray(getattr(matrix, field))
        for level, plane in matrix.planes.items():
            arrays[f"{name}.plane{level}"] = plane
    content = pack_tensors(arrays)
    tree = gaussian()
    config = {
        "quant_method": "grinqh",
        "format_version": VERSION,
        "levels": list(LEVELS),
        "sha256": hashlib.sha256(content).hexdigest(),
        "shapes": shapes,
        "values": {str(level): tree.values[level].tolist() for level in LEVELS},
        "edges": tree.edges.tolist(),
        "distortions": list(tree.distortions.values()),
    }
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / WEIGHTS, content)
        _replace(path / CONFIG, json.dumps(config, indent=1).encode())
    except OSError as error:
        raise InputError(f"{folder} — {error.strerror}; must be a folder to write to.") from error


def load(folder: Path | str) -> dict[str, GradedMatrix]:
    """What `save` wrote.

    Raises:
        InputError: There is nothing of the kind.
        CorruptFile: It is damaged, truncated, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpack_tensors

    path = Path(folder)
    try:
        text, content = (path / CONFIG).read_bytes(), (path / WEIGHTS).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} — {error.strerror}; must hold {CONFIG} and {WEIGHTS}; "
            "quantise a model first."
        ) from error
    try:
        config = cast("dict[str, Any]", json.loads(text))
        version, checksum = config["format_version"], config["sha256"]
        if version != VERSION:
            raise _corrupt(path, f"format version {version}, must be {VERSION}")
        if hashlib.sha256(content).hexdigest() != checksum:
            raise _corrupt(path, f"{WEIGHTS} does not match its checksum")
        tree = Codebook.from_values(
            {int(level): np.array(row, np.float32) for level, row in config["values"].items()},
            np.array(config["edges"]),
            np.array(config["distortions"]),
        )
        arrays = unpack_tensors(content)
        shapes = cast("dict[str, list[int]]", config["shapes"])
        return {name: _matrix(arrays, name, shape, tree) for name, shape in shapes.items()}
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, CorruptFile):
            raise
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error


def _matrix(arrays: Arrays, name: str, shape: list[int], tree: Codebook) -> GradedMatrix:
    rows, cols = shape
    fields = {field: arrays[f"{name}.{field}"] for field in _FIELDS}
    planes = {level: arrays[f"{name}.plane{level}"] for level in LEVELS}
    padded = -(-rows // GROUP) * GROUP
    for level, bits in PLANE_BITS.items():
        if planes[level].shape != (cols, padded * bits // 8) or planes[level].dtype != np.uint8:
            raise CorruptFile(
                f"{name} — plane {level} has shape {planes[level].shape}, must be "
                f"{(cols, padded * bits // 8)}; quantise the model again."
            )
    start, at = fields["outlier_start"], fields["outlier_rows"]
    sound = (
        fields["row_scale"].shape == (rows,)
        and fields["col_scale"].shape == fields["col_norm"].shape == (cols,)
        and start.shape == (cols + 1,)
        and int(start[0]) == 0
        and bool((np.diff(start.astype(np.int64)) >= 0).all())
        and int(start[-1]) == len(at) == len(fields["outlier_values"])
        and bool((at < rows).all())
    )
    if not sound:
        raise CorruptFile(f"{name} — scales or outliers do not fit; quantise the model again.")
    return GradedMatrix(rows=rows, cols=cols, planes=planes, codebook=tree, **cast("Any", fields))


def _corrupt(path: Path, found: str) -> CorruptFile:
    return CorruptFile(f"{path} as a grinqh model — {found}; quantise or copy it again.")


def _replace(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
