"""What GRINQH is compared with: rounded weights, static levels, llama.cpp's own files."""

# torch and llama-cpp-python leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, MissingCapability
from tidemill.systems.grinqh.calibration import Calibration
from tidemill.systems.grinqh.choice import Budget, Choice, Fixed
from tidemill.systems.grinqh.kernels import Selector
from tidemill.systems.grinqh.selection import by_budget

if TYPE_CHECKING:
    from tidemill.systems.grinqh.torch_model.model import GrinqhModel

F32 = NDArray[np.float32]
GROUP = 64
"""Weights of a row that share a scale: two of the source's blocks of 32 at least, so that rounding
is never the source's own."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """Dense weights that a format leaves of a model's: by layer name and weight."""

    name: str
    bits: float
    weight: Callable[[str, F32], F32]


def round_to_nearest(bits: int) -> Rounded:
    """RTN: groups of 64 in a row, asymmetric, fp16 scale and a zero point of ``bits`` bits."""
    top = (1 << bits) - 1

    def rounded(_: str, weight: F32) -> F32:
        rows, cols = weight.shape
        pad = -cols % GROUP
        grouped = np.pad(weight, ((0, 0), (0, pad)), mode="edge").reshape(rows, -1, GROUP)
        low = np.minimum(grouped.min(axis=2, keepdims=True), 0)
        high = np.maximum(grouped.max(axis=2, keepdims=True), 0)
        scale = ((high - low) / top).astype(np.float16).astype(np.float32)
        scale = np.where(scale == 0, np.float32(1), scale)
        zero = np.rint(-low / scale)
        codes = np.clip(np.rint(grouped / scale) + zero, 0, top)
        found: F32 = ((codes - zero) * scale).reshape(rows, -1)[:, :cols]
        return np.ascontiguousarray(found, np.float32)

    return Rounded(f"RTN {bits}", bits + (16 + bits) / GROUP, rounded)


def uniform(model: GrinqhModel, level: int) -> dict[str, Choice | None]:
    """Every channel of every layer at one level of the nested codes."""
    return {
        name: None if name == model.head else Fixed(np.full(len(group.norm2), level, np.uint8))
        for name, group in model.groups.items()
    }


def static_mix(
    model: GrinqhModel, calibration: Calibration, bits: float
) -> dict[str, Choice | None]:
    """Levels by the calibrated mean energy of each channel, the same for every token.

    The same water-filling as GRINQH's, with the same budget for each layer.
    """
    return {
        name: None
        if name == model.head
        else Fixed(by_budget(calibration.groups[name].energy, bits, levels=model.ladder))
        for name in model.groups
    }


def skipping(model: GrinqhModel, bits: float, kept: int = 4) -> dict[str, Choice | None]:
    """TEAL's rule on nested codes: a channel is read at ``kept`` bits or not at all."""
    return {
        name: None
        if name == model.head
        else Budget(Selector(group.norm2, (0, kept)), min(bits, kept))
        for name, group in model.groups.items()
    }


_TYPES = {"Q2_K": "LLAMA_FTYPE_MOSTLY_Q2_K", "Q3_K_M": "LLAMA_FTYPE_MOSTLY_Q3_K_M"}


def llama_missing() -> str | None:
    """What is missing to let llama.cpp quantise, or None."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed; run `pip install 'tidemill[peers]'`."
    return None


def llama_quantised(source: Path, kind: str, target: Path) -> Path:
    """The model file that llama.cpp itself makes of ``source`` as Q2_K or Q3_K_M.

    Raises:
        MissingCapability: llama-cpp-python is not installed.
        InputError: llama.cpp refuses.
    """
    if (missing := llama_missing()) is not None:
        raise MissingCapability(f"llama.cpp — {missing}")
    api: Any = importlib.import_module("llama_cpp")
    quiet = api.llama_log_callback(_ignore)
    api.llama_log_set(quiet, None)
    settings = api.llama_model_quantize_default_params()
    settings.ftype = getattr(api, _TYPES[kind])
    settings.allow_requantize = True
    settings.nthread = 2
    status = api.llama_model_quantize(str(source).encode(), str(target).encode(), settings)
    if status != 0:
        raise InputError(f"{source} — llama.cpp does not make {kind} of it (status {status}).")
    return target


def _ignore(_level: int, _text: bytes, _data: object) -> None:
    """Take a line of llama.cpp's log and drop it."""


def llama_rounded(kind: str, file: Path) -> Rounded:
    """The weights in a file that llama.cpp made, under transformers' names, with their real bits.

    Only the projections are taken from it: embeddings stay as the source has them.
    """
    from tidemill.models.hf_model import from_gguf

    model = from_gguf(file)
    known = {
        name: module.weight.numpy()
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear" and not name.endswith("lm_head")
    }
    return Rounded(f"llama.cpp {kind}", real_bits(file), lambda name, _: known[name])


def real_bits(file: Path) -> float:
    """Bits per weight of the projections in a GGUF file, scales and all."""
    from tidemill.models.gguf import GGUFFile

    with GGUFFile.open(file) as opened:
        found = [
            info
            for name, info in opened.tensors.items()
            if name.startswith("blk.") and len(info.shape) == 2
        ]
        return 8 * sum(info.nbytes for info in found) / sum(int(np.prod(i.shape)) for i in found)
