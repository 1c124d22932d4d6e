"""Whole models on disk: what `GrinqhModel.save_pretrained` writes and `from_pretrained` reads."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from tidemill.errors import CorruptFile, InputError
from tidemill.systems.grinqh import checkpoint
from tidemill.systems.grinqh.calibration import Calibration, GroupStatistics
from tidemill.systems.grinqh.checkpoint import KEY, Arrays
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import Threads
from tidemill.systems.grinqh.torch_model.linear import Control, GrinqhLinear, Group, Stages
from tidemill.systems.grinqh.torch_model.model import GrinqhModel, replaced

_STATISTICS = ("norm2", "energy", "histogram")


def save(made: GrinqhModel, folder: Path | str, tokenizer: Any = None) -> None:
    """See `GrinqhModel.save_pretrained`."""
    inside = tuple(f"{name}." for name in made.layers)
    rest = {
        name: _to_numpy(tensor)
        for name, tensor in made.model.state_dict().items()
        if not name.startswith(inside) or name.endswith(".bias")
    }
    rest |= {f"{name}.norm2": group.norm2 for name, group in made.groups.items()}
    known = made.calibration.groups if made.calibration else {}
    for name, each in known.items():
        rest |= {f"{name}.{field}": getattr(each, field) for field in _STATISTICS}
    about = {
        "levels": list(made.ladder),
        "source_sha256": made.source_sha256,
        "calibration_tokens": made.calibration.tokens if made.calibration else 0,
        "groups": {
            n: [m for m, v in made.layers.items() if v.group.name == n] for n in made.groups
        },
        "head": made.head,
        "skipped": made.skipped,
    }
    config = getattr(made.model, "config", None)
    plain = {} if config is None else cast("dict[str, Any]", config.to_dict())
    plain.pop(KEY, None)
    if config is not None:
        plain["architectures"] = [type(made.model).__name__]
    matrices = {name: layer.matrix for name, layer in made.layers.items()}
    checkpoint.save(matrices, folder, rest=rest, about=about, model_config=plain)
    if (generation := getattr(made.model, "generation_config", None)) is not None:
        generation.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def from_pretrained(
    folder: Path | str, *, into: nn.Module | None = None, threads: int | None = None
) -> Any:
    """The model that `GrinqhModel.save_pretrained` wrote; its ``grinqh`` is the `GrinqhModel`.

    Args:
        folder: Where it was written.
        into: A model of that architecture to change in place; by default one is made by
            transformers from config.json.
        threads: Of the products; by default torch's.

    Raises:
        InputError: There is no such model, or ``into`` is another one.
        CorruptFile: It is damaged, truncated, or of another version.
    """
    matrices, arrays, config = checkpoint.load_all(folder)
    about = cast("dict[str, Any]", config.pop(KEY))
    model = _empty(config, folder) if into is None else into
    try:
        placed = place(model, matrices, arrays, about, threads)
        _load_rest(model, arrays, placed.layers)
        made = placed.finished(model, about)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{folder} — {error}; quantise the model again.") from error
    object.__setattr__(model, "grinqh", made)
    return model.eval()


def _empty(config: dict[str, Any], folder: Path | str) -> Any:
    import transformers

    kind = getattr(transformers, str((config.get("architectures") or [""])[0]), None)
    if kind is None or "model_type" not in config:
        raise InputError(
            f"{folder} — its architecture {config.get('architectures')} is not known to "
            "transformers; make that model yourself and pass it as into=…."
        )
    return kind(transformers.AutoConfig.for_model(**config))


@dataclass(frozen=True, slots=True)
class Placed:
    """Graded layers that stand in a model, and what was calibrated."""

    layers: dict[str, GrinqhLinear]
    known: dict[str, GroupStatistics]

    def finished(self, model: nn.Module, about: dict[str, Any]) -> GrinqhModel:
        """The `GrinqhModel` once everything else is loaded too."""
        tokens = int(about["calibration_tokens"])
        return GrinqhModel(
            model,
            self.layers,
            skipped=about["skipped"],
            calibration=Calibration(self.known, tokens) if tokens else None,
            source_sha256=about["source_sha256"],
            head=about["head"],
        )


def place(
    model: nn.Module,
    matrices: dict[str, GradedMatrix],
    arrays: Arrays,
    about: dict[str, Any],
    threads: int | None = None,
) -> Placed:
    """Put graded layers into ``model``; what they are made of is taken out of ``arrays``."""
    ladder = tuple(about["levels"])
    control = Control(Threads(threads or torch.get_num_threads()), Stages({}, {}))
    placed = Placed({}, {})
    groups: dict[str, list[str]] = about["groups"]
    for name, members in groups.items():
        fields = {each: arrays.pop(f"{name}.{each}", None) for each in _STATISTICS}
        group = Group(name, cast("Any", fields["norm2"]), ladder, control.threads)
        biases = {member: _parameter(arrays.pop(f"{member}.bias", None)) for member in members}
        made = {member: (matrices[member], biases[member]) for member in members}
        for layer in replaced(made, group, control):
            for each, array in fields.items():
                if layer.name == name and array is not None:  # as the file has them
                    layer.register_buffer(each, torch.from_numpy(array))
            _replaceable(model, layer.name, matrices[layer.name])
            model.set_submodule(layer.name, layer)
            placed.layers[layer.name] = layer
        if fields["histogram"] is not None:
            rows = sum(matrices[member].rows for member in members)
            placed.known[name] = GroupStatistics(rows, **cast("Any", fields))
    return placed


def _parameter(array: np.ndarray[Any, Any] | None) -> Any:
    return None if array is None else nn.Parameter(torch.from_numpy(array), requires_grad=False)


def _replaceable(model: nn.Module, name: str, matrix: GradedMatrix) -> None:
    try:
        weight: Any = model.get_submodule(name).weight
    except AttributeError as error:
        raise InputError(f"{name} — the model has no such layer; it is another one.") from error
    if tuple(weight.shape) != (matrix.rows, matrix.cols):
        raise InputError(
            f"{name} — is {tuple(weight.shape)} in the model and {(matrix.rows, matrix.cols)} in "
            "the checkpoint; it is another model."
        )


def _load_rest(model: nn.Module, arrays: Arrays, layers: dict[str, GrinqhLinear]) -> None:
    rest = {name: torch.from_numpy(array) for name, array in arrays.items()}
    found = model.load_state_dict(rest, strict=False)
    inside = tuple(f"{name}." for name in layers)
    missing = [name for name in found.missing_keys if not name.startswith(inside)]
    if missing or found.unexpected_keys:
        raise InputError(
            f"the checkpoint — lacks {missing or 'nothing'} and has {found.unexpected_keys or 'no'}"
            " tensors that the model has not; it is another model."
        )


def _to_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """As NumPy knows it: bfloat16 becomes float32, which holds all its values."""
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype is torch.bfloat16 else plain).contiguous().numpy()
