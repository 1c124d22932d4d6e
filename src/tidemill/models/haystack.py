"""Needles in a haystack: facts put into a long text, and which of them a model finds."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidemill.models.token_scores import hidden_of
from tidemill.models.wikitext import excerpt

VALUES = 2
"""Values of a key that has several."""
_KINDS = ("secret number", "postal code", "access code", "telephone number")
_CITIES = (
    *("Lisbon", "Oslo", "Quito", "Dakar", "Turin", "Perth", "Kyoto", "Lyon", "Cairo", "Minsk"),
    *("Sofia", "Hanoi", "Tunis", "Havana", "Riga", "Bergen", "Porto", "Delft", "Ghent", "Basel"),
)


class Kind(StrEnum):
    """What makes a needle hard to find."""

    SINGLE = "single"
    """The only fact of its kind."""
    MANY_KEYS = "many keys"
    """One of four facts that differ in a name."""
    MANY_VALUES = "many values"
    """Several facts of one key, all of which are asked for at once."""


@dataclass(frozen=True, slots=True)
class Haystack:
    """A long text with facts in it, and four questions about them.

    Args:
        text: With the facts.
        tokens: Its length, about.
        kind: Of its needles.
        questions: Each up to its answer, and the answers: five digits that stand once in the text.
    """

    text: str
    tokens: int
    kind: Kind
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def haystack(tokenizer: Any, tokens: int, *, kind: Kind, seed: int) -> Haystack:
    """A seeded haystack of WikiText-2 test text, which no calibration sees.

    Args:
        tokenizer: Counts the tokens.
        tokens: Length of the text before facts are put in.
        kind: Of the needles.
        seed: Of places, cities and numbers.
    """
    draw, source = random.Random(f"needles.{seed}"), excerpt("test")
    start = source.index(" ", draw.randrange(len(source) - 8 * tokens))
    ids = tokenizer(source[start : start + 8 * tokens], add_special_tokens=False)["input_ids"]
    hay = str(tokenizer.decode(ids[:tokens]))
    cities = draw.sample(_CITIES, len(_KINDS))
    things = (_KINDS[0],) * len(_KINDS) if kind is Kind.MANY_KEYS else _KINDS
    facts, questions = list[tuple[int, str]](), list[tuple[str, tuple[str, ...]]]()
    for thing, city in zip(things, cities, strict=True):
        one, several = f"{thing} of {city} is", f"two {thing}s of {city}"
        if kind is Kind.MANY_VALUES:  # told apart by their first digits
            firsts = draw.sample(range(1, 10), VALUES)
            numbers = tuple(f"{first}{draw.randrange(10_000):04}" for first in firsts)
            asked = f"\nQuestion: what are the {several}? Answer: The {several} are"
        else:
            numbers = (str(draw.randrange(10_000, 100_000)),)
            asked = f"\nQuestion: what is the {thing} of {city}? Answer: The {one}"
        article = "One" if kind is Kind.MANY_VALUES else "The"
        for number in numbers:
            at = hay.index(" ", draw.randrange(len(hay) // 20, 19 * len(hay) // 20))
            facts.append((at, f" {article} {one} {number}."))
        questions.append((asked, numbers))
    for at, fact in sorted(facts, reverse=True):  # from the end, so that none lands in another
        hay = hay[:at] + fact + hay[at:]
    return Haystack(hay, tokens, kind, tuple(questions))


def found(model: Any, tokenizer: Any, hay: Haystack, cache: Any) -> list[float]:
    """1 for each question that ``model`` answers, 0 for the others; the text is read once.

    An answer counts if the model's first choice is right at every token of it. Several answers may
    come in any order, with "and" between them, and all must come; where the model could repeat one
    its first choice is that among the others. After each question the cache is cropped back to the
    text.
    """
    import torch

    hidden_of(model, torch.tensor([tokenizer(hay.text)["input_ids"]]), cache)

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    hits: list[float] = []
    for question, answers in hay.questions:
        left = [ids_of(f" {answer}") for answer in answers]
        hits.append(float(_answers(model, cache, ids_of(question), left, between=ids_of(" and"))))
    return hits


def _answers(
    model: Any, cache: Any, asked: list[int], left: list[list[int]], *, between: list[int]
) -> bool:
    """Whether the first choices after ``asked`` are all that is ``left``, in any order.

    One answer is guessed and read with what comes before it; where the first choice is another
    token, those that begin so are tried, until none does.
    """
    fed, guess, told = 0, left[0], list[list[int]]()
    while True:
        choices = _choices(model, cache, asked, guess, told)
        if choices == guess:
            fed += len(asked) + len(guess)
            left.remove(guess)
            told.append(guess)
            if not left:
                cache.crop(-fed)
                return True
            asked, guess = between, left[0]
            continue
        cache.crop(-len(asked) - len(guess))
        same = next(i for i, (a, b) in enumerate(zip(choices, guess, strict=True)) if a != b)
        begun = [each for each in left if list(each[: same + 1]) == choices[: same + 1]]
        if not begun:
            if fed:
                cache.crop(-fed)
            return False
        guess = begun[0]


def _choices(
    model: Any, cache: Any, asked: list[int], guess: list[int], told: list[list[int]]
) -> list[int]:
    """The likeliest token at each place of ``guess`` that repeats nothing ``told``.

    What is asked and guessed stays in the cache.
    """
    import torch

    hidden = hidden_of(model, torch.tensor([[*asked, *guess]]), cache)
    logits = model.lm_head(hidden[-len(guess) - 1 : -1])
    for place, token in enumerate(guess):
        for each in told:
            if each[:place] == guess[:place] and each[place] != token:
                logits[place, each[place]] = -torch.inf
    return list(logits.argmax(dim=-1).tolist())
