"""Haystacks hold what is asked for once; an answer counts only if all of it is found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidemill.models.haystack import Haystack, Kind, found, haystack
from tidemill.models.hf_greedy import lengths_until_different


class Letters:
    """Each byte is a token."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Reciter:
    """A model whose first choices continue the prompt with one of the texts it knows."""

    def __init__(self, *texts: str) -> None:
        import torch

        self._texts = [text.encode() for text in texts]
        self.base_model = self._run
        self.lm_head = torch.nn.Identity()

    def _run(self, input_ids: Any, past_key_values: Tape, **_: Any) -> Any:
        import torch

        rows: list[Any] = []
        for token in input_ids[0].tolist():
            past_key_values.bytes += bytes([token])
            rows.append(torch.zeros(256))
            rows[-1][self._next(past_key_values.bytes)] = 1
        return SimpleNamespace(last_hidden_state=torch.stack(rows)[None])

    def _next(self, read: bytes) -> int:
        for text in self._texts:
            for size in range(min(len(read), len(text) - 1), 3, -1):
                if read.endswith(text[:size]):
                    return text[size]
        return 0


class Tape:
    """A cache that remembers what was read."""

    def __init__(self) -> None:
        self.bytes = b""

    def crop(self, count: int) -> None:
        assert count < 0
        self.bytes = self.bytes[:count]


@pytest.mark.parametrize("kind", Kind)
def test_a_haystack_holds_each_answer_once_and_is_of_the_length_asked(kind: Kind) -> None:
    for seed in range(5):
        hay = haystack(Letters(), 800, kind=kind, seed=seed)
        facts, things = 0, set[str]()
        for question, answers in hay.questions:
            key = question.rpartition("Answer: The ")[2].rpartition(" ")[0]
            key = key.removeprefix("two ").replace("s of", " of")
            things.add(key.split(" of ")[0])
            assert len({answer[0] for answer in answers}) == len(answers)
            for answer in answers:
                assert hay.text.count(f"e {key} is {answer}.") == 1
                assert hay.text.count(answer) == 1
                facts += len(f" The {key} is {answer}.")
        assert [len(answers) for _, answers in hay.questions] == [
            2 if kind is Kind.MANY_VALUES else 1
        ] * 4
        assert len(things) == (1 if kind is Kind.MANY_KEYS else 4)
        assert 700 < len(hay.text) - facts <= 800


@pytest.mark.parametrize(
    ("says", "hit"),
    [
        ("Q: are 123 and 456 and 789.", 1),
        ("Q: are 789 and 123 and 456.", 1),
        ("Q: are 456 and 789 and 124.", 0),
        ("Q: are 456 and 123 and 780.", 0),
        ("Q: are 123 and 756 and 489.", 0),
        ("Q: are none.", 0),
    ],
)
def test_several_answers_may_come_in_any_order_but_all_must(says: str, hit: int) -> None:
    pytest.importorskip("torch")
    hay = Haystack("some text", 3, Kind.MANY_VALUES, (("Q: are", ("123", "456", "789")),) * 2)
    tape = Tape()
    assert found(Reciter(says), Letters(), hay, tape) == [hit, hit]
    assert tape.bytes == b"some text"


def test_a_text_is_the_same_up_to_its_first_different_token() -> None:
    one = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [9, 2, 3, 4]])
    other = np.array([[1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 3, 4]])
    assert lengths_until_different(one, other).tolist() == [4, 3, 1]
