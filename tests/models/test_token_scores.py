"""Scores of tokens beside a teacher, the same as of whole logits; the texts they are of."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.errors import ConfigError
from tidemill.models.token_scores import Teacher, TokenScores
from tidemill.models.wikitext import excerpt


def test_a_comparison_in_parts_is_that_of_whole_logits() -> None:
    torch = pytest.importorskip("torch")
    draw = torch.Generator().manual_seed(1)
    head = torch.randn((200, 16), generator=draw)
    hidden = torch.randn((150, 16), generator=draw)
    other = hidden + 0.3 * torch.randn(hidden.shape, generator=draw)
    targets = torch.randint(0, 200, (150,), generator=draw)
    teacher = Teacher.of(hidden, head)
    found, same = (teacher.judge(x, targets, head) for x in (other, hidden))
    logs = [(x @ head.T).log_softmax(-1) for x in (hidden, other)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    loss = -logs[1].gather(1, targets[:, None])[:, 0]
    assert found.divergence.tolist() == pytest.approx(divergence.tolist(), abs=1e-5)
    assert found.loss.tolist() == pytest.approx(loss.tolist(), abs=1e-5)
    assert found.agrees.tolist() == (logs[0].argmax(-1) == logs[1].argmax(-1)).tolist()
    assert same.divergence.max() < 1e-5
    assert same.agrees.all()


def test_scores_of_two_texts_are_those_of_both_in_a_row() -> None:
    draw = np.random.default_rng(0)
    parts = [TokenScores(*draw.random((2, n)), draw.random(n) < 0.5) for n in (40, 90)]
    whole = TokenScores.joined(parts)
    assert whole.kl == pytest.approx((40 * parts[0].kl + 90 * parts[1].kl) / 130)
    assert whole.to_json("a", 2.5)["tokens"] == 130
    assert whole.perplexity_over(whole, 16).value == 1
    halved = TokenScores(whole.divergence / 2, whole.loss - np.log(2), whole.agrees)
    assert halved.divergence_over(whole, 16).value == pytest.approx(0.5)
    assert halved.perplexity_over(whole, 16).high == pytest.approx(0.5)


def test_what_is_calibrated_on_is_not_what_is_scored() -> None:
    train, test = (set(excerpt(split).split("\n")) for split in ("train", "test"))
    assert not {line for line in train & test if len(line) > 40}
    with pytest.raises(ConfigError, match="train, test"):
        excerpt("valid")
