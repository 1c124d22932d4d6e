"""llama.cpp on the same file, through llama-cpp-python: the peer that ``bench-llm`` measures.

Its C functions are called directly, because the wrapper's own class runs one sequence only and
samples in Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, MissingCapability

BATCH = 512
"""Tokens of a prompt that are handed over at once."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What of a context decides on speed; the bench tries them all and keeps the fastest."""

    flash_attention: bool = True
    unified_kv: bool = False
    """One buffer for all sequences, instead of one each."""
    ubatch: int = BATCH
    kv_type: str = "f16"
    """What keys and values are kept as: q8_0 and q4_0 need flash attention."""

    def __str__(self) -> str:
        flash = "on" if self.flash_attention else "off"
        unified = "unified" if self.unified_kv else "split"
        kept = "" if self.kv_type == "f16" else f" as {self.kv_type}"
        return f"flash attention {flash}, {unified} KV{kept}, ubatch {self.ubatch}"


class LlamaModel:
    """The weights; a context manager. Contexts of it must be closed first."""

    def __init__(self, path: Path) -> None:
        """Load ``path`` as llama.cpp does by default: mapped, and repacked where that is faster.

        Raises:
            MissingCapability: llama-cpp-python is not installed.
            InputError: llama.cpp refuses the file.
        """
        self.api: Any = _imported()
        self.path = path
        self._silence = self.api.llama_log_callback(_ignore)  # must outlive the library's use
        self.api.llama_log_set(self._silence, None)
        settings = self.api.llama_model_default_params()
        self.handle: Any = self.api.llama_model_load_from_file(str(path).encode(), settings)
        if not self.handle:
            raise InputError(f"{path} — llama.cpp cannot load it; `tidemill models verify` it.")
        vocab = self.api.llama_model_get_vocab(self.handle)
        self.vocab_size = int(self.api.llama_vocab_n_tokens(vocab))

    @property
    def system_info(self) -> str:
        """The instruction sets and features that this build of llama.cpp uses here."""
        return str(self.api.llama_print_system_info().decode()).strip()

    @property
    def version(self) -> str:
        """Of llama-cpp-python."""
        return str(self.api.__version__)

    def context(
        self, settings: PeerSettings, *, threads: int, tokens: int, sequences: int = 1
    ) -> LlamaPeer:
        """Room for ``tokens`` tokens in each of ``sequences`` texts."""
        return LlamaPeer(self, settings, threads=threads, tokens=tokens, sequences=sequences)

    def close(self) -> None:
        """Free the weights; may be called twice."""
        if self.handle:
            self.api.llama_model_free(self.handle)
        self.handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LlamaPeer:
    """A context manager: texts side by side, computed in one batch per step."""

    def __init__(
        self,
        model: LlamaModel,
        settings: PeerSettings,
        *,
        threads: int,
        tokens: int,
        sequences: int,
    ) -> None:
        self._api: Any = model.api
        self._vocab_size = model.vocab_size
        given = self._api.llama_context_default_params()
        given.n_ctx = -(-tokens // 256) * 256 * sequences
        given.n_batch, given.n_ubatch = BATCH, settings.ubatch
        given.n_seq_max = sequences
        given.n_threads = given.n_threads_batch = threads
        given.flash_attn_type = int(settings.flash_attention)
        given.kv_unified = settings.unified_kv
        kept = getattr(self._api, f"GGML_TYPE_{settings.kv_type.upper()}")
        given.type_k = given.type_v = kept
        given.no_perf = True
        self._context: Any = self._api.llama_init_from_model(model.handle, given)
        if not self._context:
            raise InputError(f"{model.path} — llama.cpp makes no context of {tokens} tokens.")
        self._batch = self._api.llama_batch_init(BATCH, 0, 1)
        self.lengths = [0] * sequences

    def truncate(self, length: int) -> None:
        """Forget what lies after ``length`` tokens of each text; 0 is always possible."""
        memory = self._api.llama_get_memory(self._context)
        if length == 0:
            self._api.llama_memory_clear(memory, False)
        for sequence in range(len(self.lengths)) if length else ():
            if not self._api.llama_memory_seq_rm(memory, sequence, length, -1):
                raise InputError(f"llama.cpp — cannot forget the tokens from {length} on.")
        self.lengths = [min(length, before) for before in self.lengths]

    def prefill(self, ids: Sequence[int], sequence: int = 0) -> NDArray[np.float32]:
        """Append a prompt; logits after its last token, a view until the next call."""
        rows = 0
        for first in range(0, len(ids), BATCH):
            chunk = ids[first : first + BATCH]
            rows = len(chunk)
            self._decode(chunk, [sequence] * rows, only_last=True)
        return self.logits(rows - 1)

    def step(self, tokens: Sequence[int]) -> list[int]:
        """Append a token to each of the first texts; the likeliest next one of each."""
        self._decode(tokens, range(len(tokens)))
        return [int(self.logits(row).argmax()) for row in range(len(tokens))]

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append at most ``BATCH`` ids to the first text; logits after each, a fresh array."""
        self._decode(ids, [0] * len(ids))
        return np.stack([self.logits(row) for row in range(len(ids))])

    def _decode(
        self, tokens: Sequence[int], sequences: Sequence[int], *, only_last: bool = False
    ) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, (token, sequence) in enumerate(zip(tokens, sequences, strict=True)):
            batch.token[row] = token
            batch.pos[row] = self.lengths[sequence]
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = not only_last or row == len(tokens) - 1
            self.lengths[sequence] += 1
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise InputError(f"llama.cpp — refused a batch with status {status}.")

    def logits(self, row: int) -> NDArray[np.float32]:
        """After token ``row`` of the last batch; a view until the next call."""
        pointer = self._api.llama_get_logits_ith(self._context, row)
        found = np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))
        return cast("NDArray[np.float32]", found)

    def close(self) -> None:
        """Free it all; may be called twice."""
        if self._context:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._context)
        self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ignore(_level: int, _text: bytes, _data: object) -> None:
    """Take a line of llama.cpp's log and drop it."""


def _imported() -> Any:
    try:
        return importlib.import_module("llama_cpp")
    except ImportError as error:
        raise MissingCapability(
            "llama.cpp — the package llama-cpp-python is not there; run "
            "`pip install 'tidemill[peers]'` or `pip install llama-cpp-python`."
        ) from error
