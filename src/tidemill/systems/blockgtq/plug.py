"""The packed cache in a native decoder: ``--kv blockgtq:k3v3``, calibrated on first use.

Calibration runs the model once over WikiText-2 train through a cache that takes notes, and is kept
beside the models. It needs no torch.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tidemill.errors import ConfigError, CorruptFile, UnsupportedModel
from tidemill.systems.blockgtq import kernels, workloads
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode, check_bits
from tidemill.systems.blockgtq.statistics import F32, LayerStatistics

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile
    from tidemill.models.sockets import NativeKVCache

_OPTIONS = re.compile(r"k([1-8](?:\.\d+)?)v([1-48])(?:,(paper|compact|uniform))?")


@dataclass(frozen=True, slots=True)
class BlockGTQPlug:
    """A plug of the socket ``kv-cache``.

    Args:
        k_bits: Per dimension of a key.
        v_bits: Per dimension of a value.
        mode: How they are spent.
        calibration_tokens: Of WikiText-2 train, if the model was not calibrated before.
        folder: Of calibrations; by default that of the models.
    """

    k_bits: float = 3.0
    v_bits: int = 3
    mode: Mode = Mode.COMPACT
    calibration_tokens: int = 1024
    folder: Path | None = None

    @classmethod
    def parse(cls, options: str) -> BlockGTQPlug:
        """From ``k3v3``, ``k2.5v2`` or ``k3v3,paper``; nothing is ``k3v3``.

        Raises:
            ConfigError: It is none of that.
        """
        found = _OPTIONS.fullmatch(options or "k3v3")
        if found is None:
            allowed = "kXvY or kXvY,MODE: X in 1-8, Y in 1-4 or 8, MODE paper, compact or uniform"
            raise ConfigError.of("kv-cache", f"blockgtq:{options}", allowed, "as in blockgtq:k3v3")
        k_bits, v_bits = float(found[1]), int(found[2])
        check_bits(k_bits, v_bits)
        return cls(k_bits, v_bits, Mode(found[3] or Mode.COMPACT))

    def pool(self, model: ModelFile, tokens: int) -> PackedPool:
        """Room for ``tokens`` tokens; calibrates ``model`` unless that was done before.

        Raises:
            UnsupportedModel: Its heads do not fit.
        """
        calibration = calibration_of(model, self.calibration_tokens, self.folder)
        plan = calibration.plan(self.k_bits, self.v_bits, self.mode)
        codecs = [head.codec for layer in plan.heads for head in layer]
        config, pages = model.config, -(-tokens // kernels.TILE)
        sizes = config.layers, config.kv_heads
        return PackedPool(
            kernels.load().PackedArena(*sizes, codecs, config.rope_interleaved, pages)
        )


@dataclass(frozen=True, slots=True)
class PackedPool:
    """Packed pages that the sequences of one decoder share."""

    arena: kernels.PackedArena

    def sequence(self) -> NativeKVCache:
        """A new, empty sequence."""
        return kernels.load().packed_kv(self.arena)


def calibration_of(model: ModelFile, n_tokens: int, folder: Path | None = None) -> Calibration:
    """What was kept in ``folder`` (default: beside the models), else of a run made now.

    Raises:
        UnsupportedModel: Head size not a multiple of 8, or over 512.
    """
    from tidemill.models.store import ModelStore

    config = model.config
    if config.head_dim % 8 or config.head_dim > 512:
        raise UnsupportedModel(
            f"heads of {config.head_dim} dimensions — must be a multiple of 8, at most 512, to be "
            "packed; leave --kv out."
        )
    fingerprint = _fingerprint(model)
    path = (folder or ModelStore().root) / f"{fingerprint[:24]}-{n_tokens}.blockgtq"
    if path.is_file():
        try:
            found = Calibration.load(path)
            if found.fingerprint == fingerprint:
                return found
        except CorruptFile:
            pass  # made anew, and replaced as a whole
    made = calibrate_natively(model, fingerprint, n_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    return made


def calibrate_natively(model: ModelFile, fingerprint: str, n_tokens: int) -> Calibration:
    """Statistics of one pass of the native decoder over WikiText-2 train; no torch."""
    from tidemill.models.native_capture import capture

    config, text = model.config, workloads.text("train")
    ids = model.tokenizer.encode(text[: 16 * n_tokens])[: min(n_tokens, config.context_length)]
    layers: list[LayerStatistics] = []

    def keep(layer: int, queries: F32, keys: F32, values: F32) -> None:
        frequencies = np.asarray(config.inverse_frequencies(layer), dtype=np.float64)
        layers.append(LayerStatistics.of(queries, keys, values, frequencies))

    capture(model, ids, keep)
    windows = tuple(config.window(layer) or 0 for layer in range(config.layers))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Calibration(tuple(layers), windows, fingerprint, digest, len(ids))


def _fingerprint(model: ModelFile) -> str:
    """Of the shapes and of the q and k projections as the file has them."""
    config = model.config
    digest = hashlib.sha256(repr(config).encode())
    for layer in sorted({0, config.layers // 2, config.layers - 1}):
        for role in ("q", "k"):
            digest.update(model.raw(role, layer).tobytes())
    return digest.hexdigest()
