"""Decoder language models: files, tokenizers, packed weights and the native step that runs them.

    from tidemill.models import NativeDecoder, SamplingParams, generate, open_model

Names are imported when they are first used, so that importing this room costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.lazy_names import lazy_names

if TYPE_CHECKING:
    from tidemill.models.chat_template import ChatTemplate
    from tidemill.models.config import DecoderConfig
    from tidemill.models.generation import Generation, PromptCache, generate
    from tidemill.models.model_file import ModelFile, open_model
    from tidemill.models.native_decoder import NativeDecoder, Part
    from tidemill.models.sampling import Sampler, SamplingParams
    from tidemill.models.store import ModelStore
    from tidemill.models.tokenizer import Tokenizer

_HOMES = {
    "ChatTemplate": "chat_template",
    "DecoderConfig": "config",
    "Generation": "generation",
    "ModelFile": "model_file",
    "ModelStore": "store",
    "NativeDecoder": "native_decoder",
    "Part": "native_decoder",
    "PromptCache": "generation",
    "Sampler": "sampling",
    "SamplingParams": "sampling",
    "Tokenizer": "tokenizer",
    "generate": "generation",
    "open_model": "model_file",
}

__all__ = [
    "ChatTemplate",
    "DecoderConfig",
    "Generation",
    "ModelFile",
    "ModelStore",
    "NativeDecoder",
    "Part",
    "PromptCache",
    "Sampler",
    "SamplingParams",
    "Tokenizer",
    "generate",
    "open_model",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
