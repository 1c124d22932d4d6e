"""What an engine is told and what it tells, and how both are written on a socket.

A frame is its length in four bytes and JSON, checked against these types when it is read, so the
peer can make this process neither run code nor believe in fields that do not exist.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from tidemill import errors
from tidemill.errors import ProtocolError, ResourceError, TidemillError
from tidemill.models.generation import FinishReason
from tidemill.models.sampling import TokenLogprobs
from tidemill.serve.scheduler import QueueFull
from tidemill.serve.types import Request, Usage

MAX_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which model an engine serves, and how."""

    model: str
    """A name of the catalogue, or a path."""
    threads: int | None = None
    context: int | None = None
    weights: str | None = None
    kv: str | None = None
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256
    max_queue: int | None = None
    order: str = "fcfs"
    depth: int = 1
    """Steps under way; 2: one is planned, and the one before it told of, while one is computed."""
    kind: Literal["spec"] = "spec"


@dataclass(frozen=True, slots=True)
class Add:
    """Take a request."""

    request: Request
    kind: Literal["add"] = "add"


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request; no matter if it has ended."""

    request_id: str
    kind: Literal["abort"] = "abort"


@dataclass(frozen=True, slots=True)
class Close:
    """Take no more requests, finish those that run within the grace, abort the rest, and end."""

    grace_s: float
    kind: Literal["close"] = "close"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be done: the name of an error's class, and its text."""

    error: str
    text: str
    kind: Literal["refusal"] = "refusal"

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """What is told of ``error``; of an unexpected one, no more than its class."""
        known = isinstance(error, TidemillError)
        kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
        return cls(kind, str(error) if known else f"engine — {type(error).__name__}; see its log.")

    def as_error(self) -> TidemillError:
        """The error again."""
        return _ERRORS.get(self.error, ResourceError)(self.text)


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of a text."""

    text: str
    """What the tokens so far settle; often empty."""
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    finish_reason: FinishReason | None = None
    """Set in the last delta, and only there."""
    error: str | None = None

    def then(self, later: Delta) -> Delta:
        """Both as one."""
        return Delta(
            self.text + later.text,
            self.token_ids + later.token_ids,
            later.usage,
            self.logprobs + later.logprobs,
            later.finish_reason,
            later.error,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """How an engine stands."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Share of the KV cache's blocks that requests hold."""
    preemptions: int = 0
    """Since the engine began, as the next one."""
    policy_errors: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step brought: all there is to tell at once."""

    answers: dict[str, Refusal | None] = field(default_factory=dict[str, Refusal | None])
    """By request id: taken, or why not. They come before the texts of the same batch."""
    deltas: dict[str, Delta] = field(default_factory=dict[str, Delta])
    load: Load = Load()
    kind: Literal["batch"] = "batch"

    def then(self, later: Batch) -> Batch:
        """Both as one, for a reader that was too slow for the first."""
        deltas = dict(self.deltas)
        for name, delta in later.deltas.items():
            deltas[name] = deltas[name].then(delta) if name in deltas else delta
        return Batch({**self.answers, **later.answers}, deltas, later.load)


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine takes requests."""

    blocks: int
    """Of its KV cache."""
    block_tokens: int
    kind: Literal["ready"] = "ready"


Command: TypeAlias = Add | Abort | Close
Event: TypeAlias = Ready | Refusal | Batch
Message: TypeAlias = EngineSpec | Command | Event

_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
_ERRORS: dict[str, type[TidemillError]] = {
    "QueueFull": QueueFull,
    "Exception": ResourceError,
    **{
        name: found
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, TidemillError)
    },
}


def frame(message: Message) -> bytes:
    """``message`` as it goes over a socket."""
    body = to_json(message, inf_nan_mode="constants")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Messages from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with ``data``.

        Raises:
            ProtocolError: what comes is none, or too large.
        """
        held = self._bytes
        held += data
        while len(held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(
                    f"engine — a message of {length} bytes came; at most {MAX_FRAME_BYTES}."
                )
            end = _LENGTH.size + length
            if len(held) < end:
                return
            body = bytes(held[_LENGTH.size : end])
            del held[:end]
            yield _parsed(body)


def _parsed(body: bytes) -> Message:
    try:
        return _MESSAGES.validate_json(body)
    except ValidationError as error:
        raise ProtocolError(
            f"engine — sent what is no message ({error.errors()[0]['msg']}); both ends must be of "
            "the same version."
        ) from error
