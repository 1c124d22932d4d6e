"""Decoders that have read a long prompt and race each other's next tokens: ours and llama.cpp's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tidemill.bench.compare import Side
from tidemill.models.llama_peer import LlamaPeer
from tidemill.models.native_decoder import NativeDecoder, Part


class Run(Protocol):
    """A decoder after its prompt."""

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        ...

    def decode(self) -> None:
        """Greedily write the tokens asked for."""
        ...


def sides_of(runs: Mapping[str, Run], tokens: int) -> list[Side]:
    """For `compare`: each run writes ``tokens`` tokens and is rewound outside the timed part."""
    return [
        Side(name, run.decode, float(tokens), "tokens/s", prepare=run.rewind)
        for name, run in runs.items()
    ]


class NativeRun:
    """Our decoder after its prompt."""

    def __init__(self, decoder: NativeDecoder, ids: list[int], tokens: int) -> None:
        self._decoder, self._tokens, self._length = decoder, tokens, len(ids)
        self._sequence = decoder.sequence()
        self._first = int(decoder.prefill(self._sequence, ids).argmax())

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self._sequence.truncate(self._length)

    def decode(self) -> None:
        """Greedily write the tokens asked for."""
        token = self._first
        for _ in range(self._tokens):
            token = self._decoder.step_greedy([Part(self._sequence, (token,))])[0]


class PeerRun:
    """llama.cpp after the prompt."""

    def __init__(self, peer: LlamaPeer, ids: list[int], tokens: int) -> None:
        self._peer, self._tokens, self._length = peer, tokens, len(ids)
        self._first = int(peer.prefill(ids).argmax())

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self._peer.truncate(self._length)

    def decode(self) -> None:
        """Greedily write the tokens asked for."""
        token = self._first
        for _ in range(self._tokens):
            token = self._peer.step([token])[0]


class RoundedCaches:
    """llama.cpp's functions, whose contexts keep keys and values as ``kind``."""

    def __init__(self, api: Any, kind: str) -> None:
        self._api, self._type = api, getattr(api, f"GGML_TYPE_{kind.upper()}")

    def __getattr__(self, name: str) -> Any:
        """Any other function."""
        return getattr(self._api, name)

    def llama_context_default_params(self) -> Any:
        """llama.cpp's, but for the types of the cache."""
        made = self._api.llama_context_default_params()
        made.type_k = made.type_v = self._type
        return made
