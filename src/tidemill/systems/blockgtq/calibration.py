"""A calibration: what a model's keys, queries and values look like, and the plans that follow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.models.checked_tensors import pack, replace_file, unpack
from tidemill.models.lloyd_max import Marginal
from tidemill.systems.blockgtq.allocator import Widths, allocate, allocate_within
from tidemill.systems.blockgtq.config import Mode, check_bits, check_windows
from tidemill.systems.blockgtq.plan import HeadPlan, Plan, head_plan
from tidemill.systems.blockgtq.statistics import LayerStatistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORMAT = "tidemill-blockgtq-1"
_FIELDS = tuple(LayerStatistics.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics of every layer, and of which model and text they are.

    Args:
        layers: In order.
        windows: Sliding window of each layer in tokens, 0 for none.
        fingerprint: Of the model's configuration and q/k projections.
        text_sha256: Of the calibration text.
        n_tokens: How many tokens were seen.
    """

    layers: tuple[LayerStatistics, ...]
    windows: tuple[int, ...]
    fingerprint: str
    text_sha256: str = ""
    n_tokens: int = 0

    def plan(
        self,
        k_bits: float = 3.0,
        v_bits: int = 3,
        mode: Mode | str = Mode.COMPACT,
        *,
        sink: int = 0,
        recent: int = 0,
        mean_peel: bool | None = None,
    ) -> Plan:
        """Allocate the bits.

        Args:
            k_bits: Per dimension of a key. ``compact`` takes k_bits · d + 16 bits a key, what
                uniform TQ-MSE would, and fits the norms into them; the other modes put them on top.
            v_bits: Per dimension of a value.
            mode: See `Mode`.
            sink: First tokens that stay dense.
            recent: Last tokens that stay dense.
            mean_peel: Take the mean key off; by default in ``compact`` mode.

        Raises:
            ConfigError: A value out of range, or a budget too small for one bit and the norms.
        """
        check_bits(k_bits, v_bits)
        check_windows(sink, recent)
        chosen = _mode(mode)
        peel = chosen is Mode.COMPACT if mean_peel is None else mean_peel
        if peel and chosen is Mode.PAPER:
            raise ConfigError.of("mean_peel", True, "false in paper mode", "the paper has no such")
        if chosen is Mode.UNIFORM and k_bits != int(k_bits):
            raise ConfigError.of("k_bits", k_bits, "whole in uniform mode", "one width for all")
        heads = tuple(
            tuple(
                _head(layer, head, k_bits=k_bits, v_bits=v_bits, mode=chosen, peel=peel)
                for head in range(len(layer.key_mean))
            )
            for layer in self.layers
        )
        return Plan(heads, self.windows, chosen, k_bits, v_bits, sink, recent, self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; whoever reads ``path`` meanwhile finds old or new whole.

        Raises:
            InputError: It cannot be written.
        """
        tensors = {
            f"{i}.{name}": getattr(layer, name)
            for i, layer in enumerate(self.layers)
            for name in _FIELDS
        }
        facts = {
            "format": _FORMAT,
            "windows": json.dumps(self.windows),
            "fingerprint": self.fingerprint,
            "text_sha256": self.text_sha256,
            "n_tokens": str(self.n_tokens),
        }
        replace_file(Path(path), pack(tensors, facts))

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel | None = None) -> Calibration:
        """Read and check what `save` wrote; with ``model``, that it is the one calibrated.

        Raises:
            InputError: It cannot be opened, or is of another model.
            CorruptFile: It is cut short, damaged or no calibration.
        """
        tensors, facts = _read(Path(path))
        made = cls(
            tuple(
                LayerStatistics(**{name: cast(Any, tensors[f"{i}.{name}"]) for name in _FIELDS})
                for i in range(len(tensors) // len(_FIELDS))
            ),
            tuple(json.loads(facts["windows"])),
            facts["fingerprint"],
            facts["text_sha256"],
            int(facts["n_tokens"]),
        )
        if model is not None:
            made.check(model)
        return made

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a model that this is no calibration of.

        Raises:
            InputError: Its configuration or its q/k projections differ.
        """
        from tidemill.models.hf_rope import fingerprint_of

        found = fingerprint_of(model)
        if found != self.fingerprint:
            raise InputError(
                f"calibration of model {self.fingerprint[:12]} — this model is {found[:12]}; must "
                "be the same configuration and weights; calibrate this one."
            )


def _mode(mode: Mode | str) -> Mode:
    try:
        return Mode(mode)
    except ValueError as error:
        raise ConfigError.of("mode", str(mode), f"one of {', '.join(Mode)}") from error


def _head(
    layer: LayerStatistics, head: int, *, k_bits: float, v_bits: int, mode: Mode, peel: bool
) -> HeadPlan:
    is_compact = mode is Mode.COMPACT
    norms = layer.residual_norms[head] if peel else layer.key_norms[head]
    low, high = layer.value_range[head].tolist()
    mean = layer.key_mean[head]
    return head_plan(
        _widths(layer, head, k_bits=k_bits, mode=mode, peel=peel),
        scales=_scales(layer, head, peel=peel) if is_compact else None,
        norms=norms if is_compact else None,
        v_bits=v_bits,
        v_range=(low, high) if is_compact else None,
        marginal=Marginal.SPHERE if is_compact else Marginal.GAUSSIAN,
        mean=mean if peel else np.zeros_like(mean),
        frequencies=layer.frequencies,
        head=head,
    )


def _widths(layer: LayerStatistics, head: int, *, k_bits: float, mode: Mode, peel: bool) -> Widths:
    energy = layer.residual_energy[head] if peel else layer.key_energy[head]
    query = layer.query_energy[head]
    blocks = len(energy)
    if mode is Mode.UNIFORM:
        return (int(k_bits),) * blocks
    if mode is Mode.PAPER:
        return allocate((query + energy) / 2, int(blocks * k_bits))
    # an error e_i moves the logit by q_iᵀe_i, whose square is on average ∝ E‖q_i‖² E‖e_i‖²
    return allocate_within(query * energy, int(2 * blocks * k_bits) + 16, 8)


def _scales(layer: LayerStatistics, head: int, *, peel: bool) -> NDArray[np.float64]:
    """How much each block is stretched before it shares its group's error with the others.

    A group's error falls equally on its blocks: D · Σ a²e / B over each a², and moves logits by
    Σ w / a² of that (w, e: energies of queries and keys). Least at a² = √(w / e): Σ√(we) squared in
    place of Σw Σe, which is larger wherever queries are strong in other blocks than keys.
    """
    energy = layer.residual_energy[head] if peel else layer.key_energy[head]
    query = layer.query_energy[head]
    least = 1e-6 * np.array([query.max(), energy.max()]) + 1e-30
    return (np.maximum(query, least[0]) / np.maximum(energy, least[1])) ** 0.25


def _read(path: Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} — there is no such file; must be what Calibration.save wrote.")
    tensors, facts = unpack(path.read_bytes(), str(path), "calibrate again")
    if facts.get("format") != _FORMAT or len(tensors) % len(_FIELDS):
        found = facts.get("format")
        raise CorruptFile(f"{path} — format {found!r}; must be {_FORMAT}; calibrate again.")
    return tensors, facts
