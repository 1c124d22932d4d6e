"""Scores of one model under many ways to store its weights: KL divergence, loss, bits read."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tidemill.models.token_scores import Teacher, TokenScores
from tidemill.systems.grinqh import workloads
from tidemill.systems.grinqh.baselines import Rounded
from tidemill.systems.grinqh.choice import Choice
from tidemill.systems.grinqh.reading import trace
from tidemill.systems.grinqh.scores import Reach, Sample, Score
from tidemill.systems.grinqh.selection import Mode
from tidemill.systems.grinqh.torch_model.linear import Stages
from tidemill.systems.grinqh.torch_model.model import Setting, quantize

_SAMPLE = 64


class Subject:
    """One real model, its source weights kept beside the graded ones, and the text it is scored on.

    Embeddings and head stay as the source has them, for all ways alike.
    """

    def __init__(self, name: str, sample: Sample, threads: int = 2) -> None:
        import torch

        torch.set_num_threads(threads)
        self.name, self.sample = name, sample
        self.model = workloads.torch_model(name)
        length = sample.prompt + sample.continuation
        train = workloads.windows(name, "train", max(1, sample.calibration // 256), 256)
        test = workloads.windows(name, "test", sample.windows, length)
        self._windows = [torch.tensor([each]) for each in test]
        self._train = torch.tensor([train[0][:_SAMPLE]])
        self.sources = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
        }
        self.reference: list[Teacher] = []
        self._prompts: dict[tuple[int, bool], Any] = {}
        self.full = self._scored("source", 32.0, Reach.DECODE)
        self.graded = quantize(self.model, calib=torch.tensor(train), head=False, threads=threads)

    def choices(
        self, bits: float, mode: Mode = Mode.BUDGET, *, even: bool = True
    ) -> dict[str, Choice | None]:
        """GRINQH's choices at ``bits`` of codes."""
        return self.graded.choices(Setting(mode=mode, even=even), bits)

    def code_bits(self, read: float) -> float:
        """Code bits at which GRINQH reads ``read`` bits in all, found on a little train text."""
        top, bits = float(self.graded.ladder[-1]), read
        self.install(self.graded.layers)
        for _ in range(3):
            with trace() as found:
                self._run(self.choices(bits), self._train)
            bits = min(max(bits + read - found.read_bits, 0.0), top)
        return bits

    def graded_score(self, name: str, choices: Mapping[str, Choice | None], reach: Reach) -> Score:
        """Score choices of levels; bits are those traced."""
        self.install(self.graded.layers)
        if reach is Reach.DECODE:  # what a prompt reads is not counted
            for i in range(self.sample.windows):
                self._prompt(i, is_source=False)
        with trace() as found:
            score = self._scored(name, 0.0, reach, choices)
        return Score(name, found.read_bits, score.tokens)

    def rounded_score(self, way: Rounded, reach: Reach) -> Score:
        """Score dense weights."""
        import torch

        made: dict[str, Any] = {}
        for name, source in self.sources.items():
            weight = torch.from_numpy(way.weight(name, source.weight.numpy()))
            layer = torch.nn.Linear(*reversed(weight.shape), bias=False, device="meta")
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.bias = source.bias
            made[name] = layer
        return self._scored(way.name, way.bits, reach, None, made)

    @property
    def window(self) -> Any:
        """Token ids of the first window, (1, tokens)."""
        return self._windows[0]

    def install(self, layers: Mapping[str, Any]) -> None:
        """Put ``layers`` in their places in the model."""
        for name, layer in layers.items():
            self.model.set_submodule(name, layer)

    def _scored(
        self,
        name: str,
        bits: float,
        reach: Reach,
        choices: Mapping[str, Choice | None] | None = None,
        layers: Mapping[str, Any] | None = None,
    ) -> Score:
        """Score what is in place, or ``layers``, whose prompt is the source's in decode."""
        import torch

        head, judged = self.model.lm_head.weight, list[TokenScores]()
        is_first = not self.reference
        with torch.inference_mode():
            for i, row in enumerate(self._windows):
                hidden = self._hidden(i, reach, choices, layers)
                targets = row[0, self.sample.prompt + 1 :]
                if is_first:
                    self.reference.append(Teacher.of(hidden, head))
                judged.append(self.reference[i].judge(hidden, targets, head))
        return Score(name, bits, TokenScores.joined(judged))

    def _hidden(
        self,
        window: int,
        reach: Reach,
        choices: Mapping[str, Choice | None] | None,
        layers: Mapping[str, Any] | None,
    ) -> Any:
        prompt, row = self.sample.prompt, self._windows[window]
        if reach is Reach.ALL or (choices is None and layers is None):
            if layers is not None:
                self.install(layers)
            output = self._run(choices, row)
            return output.last_hidden_state[0, prompt:-1]
        cache = self._prompt(window, is_source=layers is not None)
        if layers is not None:
            self.install(layers)
        output = self._run(choices, row[:, prompt:], past_key_values=cache, use_cache=True)
        return output.last_hidden_state[0, :-1]

    def _prompt(self, window: int, *, is_source: bool) -> Any:
        """Keys and values of a prompt at the full level, of the source or of graded weights."""
        import torch

        if (window, is_source) not in self._prompts:
            if is_source:
                self.install(self.sources)
            ids = self._windows[window][:, : self.sample.prompt]
            with torch.no_grad():
                output = self._run(None, ids, use_cache=True)
            self._prompts[window, is_source] = output.past_key_values
        return copy.deepcopy(self._prompts[window, is_source])

    def _run(self, choices: Mapping[str, Choice | None] | None, ids: Any, **named: Any) -> Any:
        """One pass of the body, all its tokens by ``choices``."""
        if (graded := getattr(self, "graded", None)) is not None:
            every = choices or dict[str, Choice | None].fromkeys(graded.groups)
            graded.control.wanted = Stages(every, every)
        return self.model.base_model(input_ids=ids, **{"use_cache": False, **named})
