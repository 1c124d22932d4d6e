"""What there is to say of a model file, as a document and as tables."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from tidemill.models.model_file import ModelFile


def summary(model: ModelFile, *, with_tensors: bool = False) -> dict[str, Any]:
    """The model's shape and what its tensors take, as a JSON document."""
    tensors = list(model.source.tensors.values())
    counts, weights, nbytes = Counter[str](), Counter[str](), Counter[str]()
    for info in tensors:
        kind = info.type.name
        counts[kind] += 1
        weights[kind] += prod(info.shape)
        nbytes[kind] += info.nbytes
    document: dict[str, Any] = {
        "name": model.name,
        "path": str(model.path),
        "weights": weights.total(),
        "bytes": nbytes.total(),
        "bits_per_weight": round(8 * nbytes.total() / weights.total(), 3),
        "types": [
            {"type": kind, "tensors": counts[kind], "weights": weights[kind], "bytes": size}
            for kind, size in nbytes.most_common()
        ],
        "kv_bytes_per_token_bf16": 4 * model.config.kv_size * model.config.layers,
        "config": model.config.to_json(),
    }
    if with_tensors:
        document["tensors"] = [
            {"name": i.name, "shape": list(i.shape), "type": i.type.name, "bytes": i.nbytes}
            for i in tensors
        ]
    return document


def tables(document: dict[str, Any]) -> list[Table]:
    """``summary``'s document for people."""
    found = [_facts(document), _rows(document["types"])]
    return [*found, _rows(document["tensors"])] if "tensors" in document else found


def _facts(document: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    config = dict(document["config"])
    sliding = config.pop("sliding_layers")
    facts = {key: value for key, value in document.items() if not isinstance(value, dict | list)}
    facts |= {key: value for key, value in config.items() if value is not None}
    facts["sliding_layers"] = f"{sum(sliding)} of {len(sliding)}"
    for key, value in facts.items():
        table.add_row(key, _shown(value))
    return table


def _rows(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, justify="left" if key in ("type", "name") else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    return table


def _shown(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return " x ".join(str(size) for size in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return escape(f"{value:g}" if isinstance(value, float) else str(value))
