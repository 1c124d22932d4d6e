"""llama.cpp on the same file, through llama-cpp-python: the peer that ``bench-llm`` measures.

Its C functions are called directly, because the wrapper's own class runs one sequence only.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, MissingCapability


class LlamaPeer:
    """A context manager; ``sequences`` texts side by side, each of at most ``context`` tokens."""

    def __init__(self, path: Path, *, threads: int, context: int, sequences: int) -> None:
        self._api: Any = _imported()
        self._model: Any = None
        self._context: Any = None
        api = self._api
        self._silence = api.llama_log_callback(_ignore)  # must outlive the library's use
        api.llama_log_set(self._silence, None)
        self._model = api.llama_model_load_from_file(
            str(path).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise InputError(f"{path} — llama.cpp cannot load it; `tidemill models verify` it.")
        settings = api.llama_context_default_params()
        settings.n_ctx = context * sequences
        settings.n_batch = settings.n_ubatch = 512
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise InputError(f"{path} — llama.cpp cannot make a context of {context} tokens.")
        self._vocab_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))
        self._batch = api.llama_batch_init(512, 0, 1)
        self._lengths = [0] * sequences

    def clear(self) -> None:
        """Forget all tokens."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._lengths = [0] * len(self._lengths)

    def prefill(self, ids: Sequence[int], sequence: int = 0) -> NDArray[np.float32]:
        """Append a prompt; logits after its last token, a view until the next call."""
        for first in range(0, len(ids), 512):
            chunk = ids[first : first + 512]
            self._fill([(token, sequence) for token in chunk], only_last=True)
        return self._logits(len(ids) - 1 - (len(ids) - 1) // 512 * 512)

    def step(self, tokens: Sequence[int]) -> list[int]:
        """Append a token to each of the first sequences; the likeliest next one of each."""
        self._fill([(token, sequence) for sequence, token in enumerate(tokens)])
        return [int(self._logits(row).argmax()) for row in range(len(tokens))]

    def _fill(self, entries: list[tuple[int, int]], *, only_last: bool = False) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for row, (token, sequence) in enumerate(entries):
            batch.token[row] = token
            batch.pos[row] = self._lengths[sequence]
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = not only_last or row == len(entries) - 1
            self._lengths[sequence] += 1
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise InputError(f"llama.cpp — refused a batch with status {status}.")

    def _logits(self, row: int) -> NDArray[np.float32]:
        pointer = self._api.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))

    def close(self) -> None:
        """Free it all; may be called twice."""
        if self._context:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._context)
        if self._model:
            self._api.llama_model_free(self._model)
        self._context = self._model = None

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
