"""What a text tells about a model's inputs: how much energy its channels carry, layer by layer.

Energies are in units of the energy of each matrix's output, so that one threshold λ serves all
layers: a step is worth its bits when it removes more than λ of an output for each bit it costs.
"""

# torch leaves parts of its interface untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.selection import ALL, check_bits, costs, slopes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
PER_OCTAVE = 8
"""Bins of an energy that doubles."""
LOWEST, BINS = -128, 256 * PER_OCTAVE
_TINY = 2.0**-120


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Of the matrices that share one input of n channels.

    Args:
        rows: Outputs of all of them together.
        norm2: (n,) squared column norms over output energy, summed over the matrices.
        energy: (n,) mean of x² norm2.
        histogram: (BINS,) share of channels by log2 of x² norm2.
    """

    rows: int
    norm2: F32
    energy: F32
    histogram: F32

    def average_bits(self, water: float, levels: tuple[int, ...]) -> float:
        """Average code bits when every step that saves more than ``water`` per bit is taken."""
        below = np.concatenate([[0.0], np.cumsum(self.histogram, dtype=np.float64)])
        found = 0.0
        for cost, slope in zip(costs(levels), slopes(levels), strict=True):
            at = (math.log2(max(water, _TINY) / float(slope)) - LOWEST) * PER_OCTAVE
            found += cost * float(1.0 - np.interp(at, np.arange(BINS + 1), below))
        return min(max(found, 0.0), float(levels[-1]))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics of all groups of a model over ``tokens`` tokens."""

    groups: dict[str, GroupStatistics]
    tokens: int

    def waters(self, bits: float, levels: tuple[int, ...] = ALL) -> dict[str, float]:
        """The threshold of each group that together read ``bits`` on average: one λ for all.

        Raises:
            ConfigError: ``bits`` is out of range.
        """
        check_bits(bits, levels[-1])
        low, high = float(LOWEST), float(LOWEST + BINS / PER_OCTAVE)
        for _ in range(60):
            middle = (low + high) / 2
            if self._average(2.0**middle, levels) > bits:
                low = middle
            else:
                high = middle
        return {name: 2.0**high * each.rows for name, each in self.groups.items()}

    def own_waters(self, bits: float, levels: tuple[int, ...] = ALL) -> dict[str, float]:
        """The threshold at which each group alone reads ``bits`` on average, as TEAL has them.

        Raises:
            ConfigError: ``bits`` is out of range.
        """
        return {
            name: Calibration({name: each}, self.tokens).waters(bits, levels)[name]
            for name, each in self.groups.items()
        }

    def budgets(self, bits: float, levels: tuple[int, ...] = ALL) -> dict[str, float]:
        """The bits that each group reads on average under that λ."""
        waters = self.waters(bits, levels)
        return {name: each.average_bits(waters[name], levels) for name, each in self.groups.items()}

    def _average(self, rate: float, levels: tuple[int, ...]) -> float:
        sizes = [each.rows * len(each.norm2) for each in self.groups.values()]
        bits = [each.average_bits(rate * each.rows, levels) for each in self.groups.values()]
        return float(np.average(bits, weights=sizes))


class _Energies:
    """Of one group while texts run through: energies seen and their histogram."""

    def __init__(self, norm2: F32) -> None:
        self.norm2 = norm2
        self.total = np.zeros(len(norm2))
        self.histogram = np.zeros(BINS)
        self.tokens = 0

    def add(self, x: F32) -> None:
        energy = x.astype(np.float64) ** 2 * self.norm2
        self.total += energy.sum(axis=0)
        self.tokens += len(x)
        bins = (np.log2(np.maximum(energy, _TINY)) - LOWEST) * PER_OCTAVE
        self.histogram += np.bincount(bins.astype(int).clip(0, BINS - 1).ravel(), minlength=BINS)

    def statistics(self, rows: int) -> GroupStatistics:
        return GroupStatistics(
            rows,
            self.norm2,
            (self.total / max(1, self.tokens)).astype(np.float32),
            (self.histogram / max(1.0, self.histogram.sum())).astype(np.float32),
        )


def statistics_of(weight: F32, inputs: F32) -> GroupStatistics:
    """Of one matrix (m, n) that is alone with its input, over inputs (tokens, n)."""
    output = float(np.square(inputs @ weight.T, dtype=np.float64).sum(axis=1).mean())
    norm2 = np.square(weight, dtype=np.float64).sum(axis=0) / max(output, _TINY)
    seen = _Energies(norm2.astype(np.float32))
    seen.add(inputs)
    return seen.statistics(len(weight))


def calibrate(
    model: Any, groups: Mapping[str, Sequence[str]], batches: Sequence[Any]
) -> Calibration:
    """Run ``batches`` of token ids through ``model`` and look at the inputs of its layers.

    Args:
        model: A torch model whose layers are still `torch.nn.Linear`.
        groups: By the name of a group, its layers: they share one input.
        batches: Inputs of the model, (1, tokens) each. Run twice: outputs first, then inputs.

    Raises:
        InputError: There are no tokens, or a layer sees NaN or infinity (the text names it).
    """
    tokens = sum(int(batch.numel()) for batch in batches)
    if tokens == 0:
        raise ConfigError.of("calib", "", "at least one token of text")
    names = [name for members in groups.values() for name in members]
    modules = {name: model.get_submodule(name) for name in names}
    outputs = dict.fromkeys(names, 0.0)

    def look(name: str, _: Any, output: Any) -> None:
        bias = modules[name].bias
        clean = output if bias is None else output - bias
        outputs[name] += float(clean.double().square().sum())

    _run(model, modules, batches, look)
    for name, energy in outputs.items():
        if not math.isfinite(energy):
            raise InputError(f"{name} — its output holds NaN or infinity on the calibration text.")
    first = {members[0]: name for name, members in groups.items()}
    energies = {
        group: _Energies(_norm2([modules[name] for name in members], outputs, members, tokens))
        for group, members in groups.items()
    }

    def measure(name: str, x: Any, _: Any) -> None:
        energies[first[name]].add(x.reshape(-1, x.shape[-1]).float().numpy())

    _run(model, {name: modules[name] for name in first}, batches, measure)
    rows = {group: sum(modules[n].weight.shape[0] for n in groups[group]) for group in groups}
    found = {group: each.statistics(rows[group]) for group, each in energies.items()}
    return Calibration(found, tokens)


def _norm2(modules: list[Any], outputs: dict[str, float], names: Sequence[str], tokens: int) -> F32:
    squares = [
        module.weight.detach().double().square().sum(dim=0).numpy()
        / max(outputs[name] / tokens, _TINY)
        for module, name in zip(modules, names, strict=True)
    ]
    return np.sum(squares, axis=0).astype(np.float32)


def _run(
    model: Any,
    modules: Mapping[str, Any],
    batches: Sequence[Any],
    look: Callable[[str, Any, Any], None],
) -> None:
    import torch

    body = getattr(model, "base_model", model)  # the output embedding tells nothing here
    with _watched(modules, look), torch.no_grad():
        for batch in batches:
            body(batch)


@contextmanager
def _watched(modules: Mapping[str, Any], look: Callable[[str, Any, Any], None]) -> Generator[None]:
    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda _, given, output: look(name, given[0].detach(), output.detach())

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
