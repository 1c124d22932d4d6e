"""A torch model whose projections read graded matrices: made in place, changed live."""

# torch leaves parts of its interface untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.calibration import Calibration, calibrate
from tidemill.systems.grinqh.choice import Budget, Choice, Shares, Threshold
from tidemill.systems.grinqh.codebook import OUTLIER, check_levels
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import F32, Threads
from tidemill.systems.grinqh.selection import ALL, Mode, check_bits, shares_for
from tidemill.systems.grinqh.torch_model.linear import Control, GrinqhLinear, Group, Stages

if TYPE_CHECKING:
    from pathlib import Path

SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Names of projections that read the same input, in the families of transformers."""
WINDOW = 256
"""Tokens of a calibration text that are run at once."""
Bits = float | str | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What `GrinqhModel.set_bits` last asked for; None: the top level.

    Args:
        decode: Average code bits of a call with one token.
        prefill: Of a call with several.
        head: Of the output embedding, in decode, if it is graded.
        mode: What keeps the average.
        block: Neighbouring channels that share a level, where they can be divided so.
        even: Whether all layers get the same, or what one threshold over all gives them.
    """

    decode: float | None = None
    prefill: float | None = None
    head: float | None = None
    mode: Mode = Mode.BUDGET
    block: int = 1
    even: bool = True


class GrinqhModel:
    """A model and what `quantize` did to it; the model itself has its `set_bits` too.

    Args:
        model: The torch model, changed in place.
        layers: Its graded layers by module name.
        skipped: Modules with weights left as they were, and why.
        calibration: What thresholds come from; None: budgets and shares only.
        source_sha256: Of the weights that were quantised, in order.
        head: Name of the graded output embedding, or "".
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, GrinqhLinear],
        *,
        skipped: dict[str, str],
        calibration: Calibration | None,
        source_sha256: str,
        head: str,
    ) -> None:
        self.model, self.layers, self.skipped = model, layers, skipped
        self.calibration, self.source_sha256, self.head = calibration, source_sha256, head
        self.groups = {each.group.name: each.group for each in layers.values()}
        self.control = next(iter(layers.values())).control
        self.setting = Setting()
        model.register_forward_pre_hook(self.control.enter, with_kwargs=True)
        model.register_forward_hook(self.control.leave, always_call=True)
        self.set_bits()
        for name in ("set_bits", "save_pretrained"):
            setattr(model, name, getattr(self, name))

    @property
    def ladder(self) -> tuple[int, ...]:
        """Levels that a channel may be read at, from 0."""
        return next(iter(self.groups.values())).ladder

    @property
    def stored_bits(self) -> float:
        """Bits per weight of what is stored, over all layers."""
        return self._average("stored_bits")

    @property
    def overhead_bits(self) -> float:
        """Bits per weight of outliers and scales."""
        return self._average("overhead_bits")

    def _average(self, name: str) -> float:
        matrices = [each.matrix for each in self.layers.values()]
        sizes = [each.rows * each.cols for each in matrices]
        return float(np.average([getattr(each, name) for each in matrices], weights=sizes))

    def set_bits(
        self,
        decode: Bits = None,
        prefill: Bits = None,
        *,
        head: Bits = None,
        mode: Mode | str | None = None,
        block: int | None = None,
        even: bool | None = None,
    ) -> None:
        """Change what the next calls read; nothing is loaded anew. None leaves a value as it is.

        Args:
            decode: Average code bits of a call with one token, or "full".
            prefill: Of a call with several, or "full".
            head: Of the output embedding in decode, or "full".
            mode: "budget", "threshold" (asks for a calibration) or "proportion".
            block: Neighbouring channels that share a level, where they can be divided so.
            even: Whether all layers get the same, or what one threshold over all gives them (with a
                calibration); measured, even is better.

        Raises:
            ConfigError: A value is out of range, or there is no calibration for "threshold".
        """
        now = self.setting
        if block is not None and block < 1:
            raise ConfigError.of("block", block, "at least 1")
        wanted = Setting(
            self._bits("decode", decode, now.decode),
            self._bits("prefill", prefill, now.prefill),
            self._bits("head", head, now.head),
            self._mode(now.mode if mode is None else mode),
            now.block if block is None else block,
            now.even if even is None else even,
        )
        self.control.wanted = Stages(
            self.choices(wanted, wanted.decode, wanted.head),
            self.choices(wanted, wanted.prefill, None),
        )
        self.setting = wanted

    def _bits(self, name: str, value: Bits, now: float | None) -> float | None:
        if value is None:
            return now
        if isinstance(value, str):
            if value != "full":
                raise ConfigError.of(name, value, 'a number or "full"')
            return None
        check_bits(value, self.ladder[-1])
        return float(value)

    def _mode(self, mode: Mode | str) -> Mode:
        if mode not in list(Mode):
            raise ConfigError.of("mode", mode, f"one of {', '.join(Mode)}")
        if mode == Mode.THRESHOLD and self.calibration is None:
            raise ConfigError.of(
                "mode", str(mode), "budget or proportion", "there is no calibration"
            )
        return Mode(mode)

    def choices(
        self, setting: Setting, bits: float | None, head: float | None = None
    ) -> dict[str, Choice | None]:
        """How each group chooses at ``bits``, the head at its own; None: the top level."""
        found = dict[str, Choice | None].fromkeys(self.groups)
        waters, budgets = self._calibrated(setting, bits)
        for name, group in self.groups.items():
            wanted = head if name == self.head else bits
            if wanted is None:
                continue
            block = setting.block if group.selector.channels % setting.block == 0 else 1
            if setting.mode is Mode.PROPORTION:
                found[name] = Shares(group.norm2, shares_for(wanted, self.ladder))
            elif name in waters:
                found[name] = Threshold(group.selector, waters[name], block)
            else:
                found[name] = Budget(group.selector, budgets.get(name, wanted), block)
        return found

    def _calibrated(
        self, setting: Setting, bits: float | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Thresholds and budgets of groups that follow from the calibration, where it is asked."""
        known = self.calibration
        if known is None or bits is None:
            return {}, {}
        if setting.mode is Mode.THRESHOLD:
            waters = known.own_waters if setting.even else known.waters
            return waters(bits, self.ladder), {}
        if setting.mode is Mode.BUDGET and not setting.even:
            return {}, known.budgets(bits, self.ladder)
        return {}, {}

    def save_pretrained(self, folder: Path | str, tokenizer: Any = None) -> None:
        """Write the model to ``folder``; `from_pretrained` gives it back.

        Args:
            folder: Made if it is not there; files in it are replaced whole, one by one.
            tokenizer: Saved beside it if given.

        Raises:
            InputError: It cannot be written to.
        """
        from tidemill.systems.grinqh.torch_model.pretrained import save

        save(self, folder, tokenizer)


def quantize(
    model: nn.Module,
    *,
    calib: Any = None,
    tokenizer: Any = None,
    levels: tuple[int, ...] = ALL,
    outlier: float = OUTLIER,
    head: bool = True,
    threads: int | None = None,
) -> GrinqhModel:
    """Replace the `torch.nn.Linear` layers of ``model`` in place.

    A weight that several layers share is quantised once. An output embedding that is tied to the
    input's gets codes of its own; the lookup table stays.

    Args:
        model: In float32, float16 or bfloat16, on the CPU.
        calib: Texts (with ``tokenizer``), or token ids: a sequence of integers, or rows of them.
            Weighs what q, k and v need of their common input, and gives thresholds.
        tokenizer: Of transformers.
        levels: What a channel may be read at: 0 and some of 2, 3, 4, 6.
        outlier: Scaled weights beyond this are kept exactly.
        head: Whether the output embedding is quantised too; its bits are its own.
        threads: Of the products; by default torch's.

    Raises:
        InputError: A weight cannot be quantised (the text names the layer), or none is left.
        ConfigError: A value is out of range.
    """
    levels = tuple(levels)
    check_levels(levels)
    linears, skipped = _linears(model, head=head)
    if not linears:
        raise InputError(
            f"{type(model).__name__} — none of its layers is a torch.nn.Linear that can be "
            f"quantised; left out: {skipped or 'nothing'}."
        )
    groups = grouped(list(linears))
    head_name = _head_name(model, linears)
    measured = {name: names for name, names in groups.items() if name != head_name}
    batches = [] if calib is None else batches_of(calib, tokenizer)
    known = None if calib is None else calibrate(model, measured, batches)
    control = Control(Threads(threads or torch.get_num_threads()), Stages({}, {}))
    matrices, sha = _matrices(linears, outlier, levels)
    layers = {
        layer.name: layer
        for name, members in groups.items()
        for layer in replaced(
            {each: (matrices[each], linears[each].bias) for each in members},
            Group(name, _norm2(name, members, matrices, known), levels, control.threads),
            control,
        )
    }
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    if head_name and (config := getattr(model, "config", None)) is not None:
        config.tie_word_embeddings = False
    return GrinqhModel(
        model, layers, skipped=skipped, calibration=known, source_sha256=sha, head=head_name
    )


def replaced(
    members: Mapping[str, tuple[GradedMatrix, Any]], group: Group, control: Control
) -> list[GrinqhLinear]:
    """The layers of one group, of matrices and biases by name."""
    return [
        GrinqhLinear(matrix, bias=bias, name=name, group=group, control=control)
        for name, (matrix, bias) in members.items()
    ]


def _linears(model: nn.Module, *, head: bool) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """What is quantised, and what is not with the reason."""
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    linears: dict[str, nn.Linear] = {}
    skipped: dict[str, str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, GrinqhLinear):
            raise InputError(f"{name} — is graded already; load the source model again.")
        if weight is None or weight.ndim != 2:
            continue
        if not isinstance(module, nn.Linear):
            skipped[name] = f"{type(module).__name__} is no torch.nn.Linear"
        elif module is output and not head:
            skipped[name] = "output embedding"
        else:
            linears[name] = module
    return linears, skipped


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Layers that share one input, by the first of them; the others alone."""
    found: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        together = next((each for each in SHARED if last in each), (last,))
        siblings = [f"{parent}.{each}".lstrip(".") for each in together]
        first = next(each for each in siblings if each in names)
        found.setdefault(first, []).append(name)
    return found


def _head_name(model: nn.Module, linears: dict[str, nn.Linear]) -> str:
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return next((name for name, module in linears.items() if module is output), "")


def batches_of(calib: Any, tokenizer: Any) -> list[Any]:
    """Token ids (1, tokens) in windows, of texts or of ids.

    Raises:
        ConfigError: Texts without a tokenizer.
    """
    if isinstance(calib, str):
        calib = [calib]
    ids: Any = calib
    if isinstance(calib, Sequence) and calib and isinstance(calib[0], str):
        if tokenizer is None:
            raise ConfigError.of("tokenizer", None, "given with texts", "or give token ids")
        ids = [token for text in calib for token in tokenizer(text)["input_ids"]]
    given = torch.as_tensor(ids)
    rows = given.reshape(-1, given.shape[-1]) if given.numel() else given.reshape(0, 1)
    return [part for row in rows for part in row[None].split(WINDOW, dim=1)]


def _matrices(
    linears: dict[str, nn.Linear], outlier: float, levels: tuple[int, ...]
) -> tuple[dict[str, GradedMatrix], str]:
    """Each weight once, and a checksum of them all."""
    made: dict[int, GradedMatrix] = {}
    sha = hashlib.sha256()
    found: dict[str, GradedMatrix] = {}
    for name, module in linears.items():
        weight = module.weight
        if id(weight) not in made:
            dense = weight.detach().float().contiguous().numpy()
            sha.update(name.encode() + dense.data)
            made[id(weight)] = GradedMatrix.quantise(dense, name, outlier, levels)
        found[name] = made[id(weight)]
    return found, sha.hexdigest()


def _norm2(
    name: str,
    members: Sequence[str],
    matrices: dict[str, GradedMatrix],
    calibration: Calibration | None,
) -> F32:
    if calibration is not None and name in calibration.groups:
        return calibration.groups[name].norm2
    squares = [np.square(matrices[each].col_norm.astype(np.float32)) for each in members]
    return np.asarray(np.sum(squares, axis=0, dtype=np.float32))
