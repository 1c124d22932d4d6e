"""How far the native decoder, llama.cpp and the float reference agree on the same file.

llama.cpp writes greedily; along its text the others are asked what they would have written, so that
every position counts and not only those before the first difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tidemill.models.llama_peer import LlamaPeer

Logits = NDArray[np.float32]
ReferenceLogits = Callable[[Sequence[int]], Logits]
"""Logits after each of some ids, shape (tokens, vocab_size)."""

PROMPTS = (
    "The tide mill at the mouth of the river",
    "def fibonacci(n):\n    ",
    "In 1687 Isaac Newton published",
    "The three most common causes of a memory leak are",
    "import numpy as np\n\ndef softmax(x):\n",
    "Q: What is the capital of Australia?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    "class LinkedList:\n    def __init__(self):\n",
    "Water boils at a lower temperature on a mountain because",
    "SELECT name, COUNT(*) FROM orders",
    "潮汐磨坊利用涨潮和落潮",
    "Once upon a time there was a miller who",
    "1, 1, 2, 3, 5, 8, 13,",
    "The difference between a process and a thread is",
    "#include <vector>\n\nint sum(const std::vector<int>& values) {\n",
    "To make a simple bread you need flour,",
    "La marée monte deux fois par jour et",
    "A hash table with open addressing",
    "The patient was given 5 mg of",
    '{"name": "tidemill", "version":',
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A position where this decoder's likeliest token is not the one that llama.cpp wrote."""

    prompt: int
    position: int
    ours: int
    peers: int
    our_gap: float
    """Between the two largest logits here."""
    peer_gap: float
    """The same in llama.cpp."""
    reference: int | None
    """The likeliest token of the float reference, if it was there."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What came of all prompts together."""

    prompts: int
    positions: int
    """Greedily written tokens."""
    divergences: tuple[Divergence, ...]
    """The first of each text that differs; what follows it is another text."""
    differing: int
    """Positions that differ when all follow llama.cpp's text."""
    cosines: tuple[float, ...]
    """Of our logits with the reference's, at each position, prompts included."""
    peer_cosines: tuple[float, ...]
    """The same of llama.cpp's."""
    reference_hits: tuple[int, int]
    """Where the two differ: how often the reference sides with us, and with llama.cpp."""


def agreement(
    decoder: NativeDecoder,
    tokenizer: Tokenizer,
    peer: LlamaPeer,
    *,
    tokens: int,
    reference: ReferenceLogits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Follow llama.cpp's greedy text of ``tokens`` tokens after each of ``PROMPTS``."""
    followed: list[_Followed] = []
    for index, text in enumerate(PROMPTS):
        prompt = tokenizer.encode(text)
        followed.append(_follow(index, prompt, _Sides(decoder, peer, reference), tokens))
        if progress is not None:
            progress(index + 1, len(PROMPTS))
    differing = [divergence for each in followed for divergence in each.divergences]
    return Agreement(
        prompts=len(PROMPTS),
        positions=tokens * len(PROMPTS),
        divergences=tuple(each.divergences[0] for each in followed if each.divergences),
        differing=len(differing),
        cosines=tuple(cosine for each in followed for cosine in each.cosines),
        peer_cosines=tuple(cosine for each in followed for cosine in each.peer_cosines),
        reference_hits=(
            sum(divergence.reference == divergence.ours for divergence in differing),
            sum(divergence.reference == divergence.peers for divergence in differing),
        ),
    )


def cosines(found: Logits, expected: Logits) -> list[float]:
    """Of each row with its counterpart."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    each: list[float] = ((found * expected).sum(axis=1, dtype=np.float64) / lengths).tolist()
    return each


@dataclass(frozen=True, slots=True)
class _Sides:
    decoder: NativeDecoder
    peer: LlamaPeer
    reference: ReferenceLogits | None


@dataclass(frozen=True, slots=True)
class _Followed:
    divergences: list[Divergence]
    cosines: list[float]
    peer_cosines: list[float]


def _follow(index: int, prompt: Sequence[int], sides: _Sides, tokens: int) -> _Followed:
    written, gaps = _written(sides.peer, prompt, tokens)
    ids = [*prompt, *written]
    ours = sides.decoder.step([Part(sides.decoder.sequence(), ids, len(ids))])
    truth = sides.reference(ids) if sides.reference is not None else None
    divergences = [
        Divergence(
            prompt=index,
            position=position,
            ours=int(row.argmax()),
            peers=token,
            our_gap=_gap(row),
            peer_gap=gaps[position],
            reference=None if truth is None else int(truth[len(prompt) - 1 + position].argmax()),
        )
        for position, (row, token) in enumerate(zip(ours[len(prompt) - 1 :], written, strict=False))
        if int(row.argmax()) != token
    ]
    if truth is None:
        return _Followed(divergences, [], [])
    sides.peer.truncate(0)
    return _Followed(divergences, cosines(ours, truth), cosines(sides.peer.all_logits(ids), truth))


def _written(peer: LlamaPeer, prompt: Sequence[int], tokens: int) -> tuple[list[int], list[float]]:
    """llama.cpp's greedy text, whatever ends it, and the gap at each of its tokens."""
    peer.truncate(0)
    logits = peer.prefill(prompt)
    written, gaps = [int(logits.argmax())], [_gap(logits)]
    while len(written) < tokens:
        written += peer.step(written[-1:])
        gaps.append(_gap(peer.logits(0)))
    return written, gaps


def _gap(logits: Logits) -> float:
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)
