"""A model that counts, for engines in processes of their own: each text is known beforehand.

``python counting_model.py FD`` is such an engine. Its spec's ``model`` says how long a step takes
in seconds, and with a letter after it how it fails: ``0.01d`` dies in its 20th step, ``0s`` when it
starts, and ``0e`` has an error in every fifth step.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from tidemill.serve.block_pool import BlockPool
from tidemill.serve.engine import EngineCore
from tidemill.serve.engine_process import quiet_child, serve_engine
from tidemill.serve.messages import EngineSpec
from tidemill.serve.scheduler import Scheduler, SchedulerConfig
from tidemill.serve.types import Sampled, StepPlan, StepResult

CONTEXT = 100_000


class Words:
    """A tokenizer whose tokens are numbers; a number above 1,000 is a long word."""

    vocab_size = 2_000
    eos_ids: frozenset[int] = frozenset()
    special_ids: frozenset[int] = frozenset()
    strips_first_space = False

    def encode(self, text: str, **_: object) -> list[int]:
        return [int(word) if word.isascii() and word.isdigit() else 7 for word in text.split()]

    def token_bytes(self, token: int) -> bytes:
        return f"{token} ".encode() * (1 if token < 1000 else 500)


def counted(first: int, length: int) -> list[int]:
    """The tokens after a prompt that begins with ``first``."""
    return [first + index % 900 for index in range(length)]


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(Words().token_bytes(token) for token in tokens).decode()


class Counting:
    """Computes nothing, in its time."""

    def __init__(self, spec: str) -> None:
        self._step_s, self._fault, self._steps = float(spec.rstrip("de")), spec[-1], 0

    def run(self, plan: StepPlan) -> StepResult:
        if plan.parts:
            self._steps += 1
            time.sleep(self._step_s)
        if self._fault == "d" and self._steps == 20:
            os._exit(7)
        if self._fault == "e" and self._steps % 5 == 0:
            raise RuntimeError("planted")
        return StepResult(
            {
                part.request.id: Sampled(part.request.prompt_ids[0] + part.outputs % 900)
                for part in plan.parts
                if part.samples
            }
        )


@contextmanager
def counting_core(spec: EngineSpec) -> Generator[EngineCore]:
    if spec.model.endswith("s"):
        os._exit(3)
    config = SchedulerConfig(
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        max_model_len=spec.context or CONTEXT,
        max_queue=spec.max_queue,
    )
    scheduler = Scheduler(config, BlockPool(100_000))
    yield EngineCore(scheduler, Counting(spec.model), Words())  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    quiet_child()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve_engine(link, counting_core)
