"""The plug for the native decoder's socket ``weights``: ``--weights grinqh:3.0``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

from tidemill import native
from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.grinqh import checkpoint
from tidemill.systems.grinqh.codebook import OUTLIER
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import NativeMatrix
from tidemill.systems.grinqh.selection import ALL, check_bits, costs, slopes

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile
    from tidemill.models.sockets import NativeLinear, NativePool

F32 = NDArray[np.float32]
TOGETHER = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Roles that read the same input, and so choose levels together."""
DEFAULT_BITS = 3.0
CACHE = Path(user_cache_dir("tidemill")) / "grinqh"


class GrinqhWeights:
    """Graded matrices for a `NativeDecoder`; its bits may change between two tokens.

    Up to four tokens at once read ``bits`` each, by water-filling on their own inputs; more, that
    is prompts, read the widest level. An embedding, and a head that is tied to it, stay as the file
    has them; a head of its own reads ``head`` bits. What was quantised is kept in the user's cache.

    Args:
        bits: Code bits per weight and token, 0-6.
        head: Of the output matrix; by default as ``bits``, but at least 4.
        cache: Folder to keep quantised layers in; None: nowhere.
    """

    def __init__(
        self,
        bits: float = DEFAULT_BITS,
        *,
        head: float | None = None,
        cache: Path | None = CACHE,
    ) -> None:
        self._kernels: Any = native.kernels("grinqh")
        self._dial, self._head_dial = self._kernels.Dial(), self._kernels.Dial()
        self._cache, self._ready = cache, dict[tuple[str, int | None], Any]()
        self._head = head
        self.bits = bits

    @classmethod
    def parse(cls, options: str) -> GrinqhWeights:
        """Read ``3.0``, ``full``, ``3.0,head=4``; "" is 3.0.

        Raises:
            ConfigError: The options are none of these.
        """
        first, *rest = [part.strip() for part in options.split(",")]
        try:
            bits = float(first.replace("full", "6") or DEFAULT_BITS)
            named = {name: float(value) for name, value in (part.split("=") for part in rest)}
            if set(named) <= {"head"}:
                return cls(bits, head=named.get("head"))
        except ValueError:
            pass
        raise ConfigError.of("weights", options, "bits from 0 to 6, as 3.0 or 3.0,head=4")

    @property
    def bits(self) -> float:
        """Code bits of the projections; what is set holds from the next token on.

        Raises:
            ConfigError: Set out of [0, 6].
        """
        return float(self._dial.bits)

    @bits.setter
    def bits(self, bits: float) -> None:
        head = max(bits, 4.0) if self._head is None else self._head
        for dial, value in ((self._dial, bits), (self._head_dial, head)):
            check_bits(value)
            dial.bits = value

    @property
    def head(self) -> float | None:
        """Code bits of the output matrix; None: those of the projections, but at least 4.

        Raises:
            ConfigError: Set out of [0, 6].
        """
        return self._head

    @head.setter
    def head(self, head: float | None) -> None:
        if head is not None:
            check_bits(head)
        self._head = head
        self.bits = self.bits

    def pack(
        self, model: ModelFile, role: str, layer: int | None, pool: NativePool
    ) -> NativeLinear | None:
        """The graded matrix of ``role``; see `tidemill.models.sockets`."""
        if role == "embedding":
            return None
        if role == "output":
            weight = self._stored(model, {"output": None})
            self._join(weight, None, self._head_dial, leads=True)
        elif (role, layer) not in self._ready:
            matrices = self._stored(model, {each: layer for part in TOGETHER for each in part})
            for part in TOGETHER:
                members = {each: matrices[each] for each in part}
                self._join(members, layer, self._dial, leads=layer == 0 and "q" in part)
        return cast("NativeLinear", self._ready.pop((role, layer)))

    def _join(
        self, members: Mapping[str, GradedMatrix], layer: int | None, dial: Any, *, leads: bool
    ) -> None:
        """Make native matrices of those that share an input."""
        squares = [np.square(each.col_norm.astype(np.float32)) for each in members.values()]
        norm2 = np.asarray(np.sum(squares, axis=0, dtype=np.float32))
        steps = np.array(ALL[1:], np.uint8), np.array(costs(), np.uint32), slopes()
        shared = self._kernels.shared_choice(dial, leads, norm2, *steps)
        for role, matrix in members.items():
            packed = NativeMatrix(matrix).native
            linear = self._kernels.graded_linear(packed, shared, dial, matrix.top)
            self._ready[role, layer] = linear

    def _stored(self, model: ModelFile, roles: Mapping[str, int | None]) -> dict[str, GradedMatrix]:
        """Matrices out of the cache, or quantised now and put there."""
        layer = next(iter(roles.values()))
        folder = None if self._cache is None else self._cache / _key(model) / f"layer-{layer}"
        if folder is not None and folder.is_dir():
            try:
                found = checkpoint.load(folder)
                if set(found) == set(roles):
                    return found
            except (CorruptFile, InputError):
                pass  # made anew below
        made = {
            role: GradedMatrix.quantise(model.weight(role, at), f"{role} of layer {at}")
            for role, at in roles.items()
        }
        if folder is not None:
            checkpoint.save(made, folder)
        return made


def _key(model: ModelFile) -> str:
    """A name for what is kept of a model file: another file, another name."""
    told = model.path.stat()
    text = f"{model.path}|{told.st_size}|{told.st_mtime_ns}|{OUTLIER}|{checkpoint.VERSION}"
    return f"{model.path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
