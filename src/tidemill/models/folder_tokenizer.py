"""The tokenizer and the chat template of a Hugging Face folder, as transformers reads them.

``tokenizer.json`` is run by the package that wrote it, so ids are transformers' own; what a token
spells, and which tokens are markup, is worked out here as for a GGUF file. Nothing in the folder
is believed, and no code of it is run.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import tokenizers

from tidemill import native
from tidemill.errors import CorruptFile, UnsupportedModel
from tidemill.models.chat_template import ChatTemplate
from tidemill.models.safetensors_file import MAX_JSON_BYTES, read_bytes, read_json
from tidemill.models.tokenizer import Tokenizer, TokenKernels, check_text
from tidemill.models.vocabulary import TokenType, Vocabulary

TOKENIZER, CONFIG, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"
MAX_TOKENIZER_BYTES = 1 << 26
"""Twice what 262,144 tokens with their merges take."""
_SPECIAL = ("bos", "eos", "unk", "pad")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class FolderTokenizer(Tokenizer):
    """As ``Tokenizer``, made from ``tokenizer.json`` and ``tokenizer_config.json`` of a folder.

    Threads may share it; they encode one after the other.
    """

    def __init__(self, folder: Path, *, embeddings: int) -> None:
        """Read the folder.

        Args:
            folder: Where the files are.
            embeddings: Rows of the model's embedding, which no id may exceed.

        Raises:
            UnsupportedModel: there is no ``tokenizer.json``, or it is of a kind that is not known.
            CorruptFile: a file is damaged, or contradicts the model.
        """
        path = folder / TOKENIZER
        if not path.is_file():
            raise UnsupportedModel(
                f"{path} — is not there, and other kinds of tokenizer files are not read; save it "
                "with transformers' AutoTokenizer, or use a GGUF file."
            )
        self._rust = _loaded(path)
        self._lock = threading.Lock()
        config = _optional_json(folder / CONFIG)
        vocabulary = _vocabulary(self._rust, path, embeddings, config)
        kernels = cast("TokenKernels", native.kernels("models"))
        self._table = kernels.TokenTable(*vocabulary.spellings(), vocabulary.findable())
        self._space_prefix = _strips(_described(self._rust.decoder, path))
        self._name_special_tokens(vocabulary, False)
        ends = _optional_json(folder / GENERATION).get("eos_token_id")
        listed = cast("list[object]", ends) if isinstance(ends, list) else [ends]
        self.eos_ids |= {
            each for each in listed if type(each) is int and 0 <= each < self.vocab_size
        }

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The ids of ``text``, see ``Tokenizer.encode``."""
        check_text(text)
        with self._lock:
            self._rust.encode_special_tokens = not parse_special
            return list(self._rust.encode(text, add_special_tokens=add_special).ids)


def folder_chat_template(folder: Path) -> ChatTemplate:
    """How the folder says that conversations are written.

    Raises:
        UnsupportedModel: it does not say.
        CorruptFile: what it says is no template.
    """
    config = _optional_json(folder / CONFIG)
    path = folder / TEMPLATE
    if path.is_file():
        source: object = _text(path, MAX_JSON_BYTES)
    else:
        source, path = config.get("chat_template"), folder / CONFIG
        if isinstance(source, list):
            source = _default(cast("list[object]", source))
    if source is None:
        raise UnsupportedModel(
            f"{folder} — has neither {TEMPLATE} nor a chat_template in {CONFIG}; it is a base "
            "model perhaps: give it plain text, or a template of your own."
        )
    if not isinstance(source, str):
        raise CorruptFile(f"{path} — chat_template is no text; copy the model again.")
    return ChatTemplate(source, special_tokens=_special_texts(config))


def folder_special_tokens(folder: Path) -> dict[str, str]:
    """The texts that templates may use, as the folder's ``tokenizer_config.json`` has them."""
    return _special_texts(_optional_json(folder / CONFIG))


def _special_texts(config: Mapping[str, Any]) -> dict[str, str]:
    texts = {f"{name}_token": _content(config.get(f"{name}_token")) for name in _SPECIAL}
    return {name: text for name, text in texts.items() if text is not None}


def _loaded(path: Path) -> tokenizers.Tokenizer:
    text = _text(path, MAX_TOKENIZER_BYTES)
    try:
        found = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise CorruptFile(
            f"{path} — is no tokenizer: {str(error)[:200]}; copy the model again."
        ) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust's own failures become
            raise
        raise CorruptFile(f"{path} — is no tokenizer; copy the model again.") from error
    found.no_truncation()
    found.no_padding()
    return found


def _vocabulary(
    rust: tokenizers.Tokenizer, path: Path, embeddings: int, config: Mapping[str, Any]
) -> Vocabulary:
    """Texts and types by id; ids that only the embedding has are unused, and spell nothing."""
    kind = type(cast("object", rust.model)).__name__
    names = _names(_described(rust.decoder, path))
    if kind != "BPE" or not names & {"ByteLevel", "ByteFallback", "Metaspace", "Replace"}:
        raise UnsupportedModel(
            f"{path} — is a {kind} tokenizer with the decoder {'+'.join(sorted(names)) or None}; "
            "byte-level BPE and SentencePiece's BPE can be read; use a GGUF file."
        )
    byte_level = "ByteLevel" in names
    ids = rust.get_vocab(with_added_tokens=True)
    size = max(ids.values(), default=-1) + 1
    if not 0 < size <= embeddings:
        raise CorruptFile(
            f"{path} — has ids up to {size - 1}, the model {embeddings} embeddings; "
            "copy the model again."
        )
    texts, types = [""] * embeddings, np.full(embeddings, TokenType.UNUSED, np.int32)
    for text, token_id in ids.items():
        texts[token_id] = text
        is_byte = not byte_level and _BYTE.fullmatch(text)
        types[token_id] = TokenType.BYTE if is_byte else TokenType.NORMAL
    for token_id, added in rust.get_added_tokens_decoder().items():
        texts[token_id] = added.content
        types[token_id] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    return Vocabulary(
        "gpt2" if byte_level else "llama", texts, types, _special_ids(rust, path, config, ids)
    )


def _special_ids(
    rust: tokenizers.Tokenizer, path: Path, config: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, object]:
    """Which tokens begin and end a text, in the words of a GGUF file."""
    found: dict[str, object] = {}
    for name in _SPECIAL:
        text = _content(config.get(f"{name}_token"))
        if text is None:
            continue
        if text not in ids:
            raise CorruptFile(
                f"{path.with_name(CONFIG)} — has {text[:60]!r} as {name}_token, which is no token "
                f"of {TOKENIZER}; copy the model again."
            )
        found[f"tokenizer.ggml.{name}_token_id"] = ids[text]
    nothing = rust.encode("", add_special_tokens=True).ids
    for end, at in (("bos", 0), ("eos", -1)):
        token_id = found.get(f"tokenizer.ggml.{end}_token_id")
        found[f"tokenizer.ggml.add_{end}_token"] = bool(nothing) and nothing[at] == token_id
    return found


def _described(part: object, path: Path) -> dict[str, Any]:
    """The JSON of a part of the tokenizer; empty where it has none."""
    if part is None:
        return {}
    described: object = json.loads(cast("Any", part).__getstate__())
    if not isinstance(described, dict):
        raise CorruptFile(f"{path} — has a decoder that is no object; copy the model again.")
    return cast("dict[str, Any]", described)


def _steps(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = described.get("decoders")
    if isinstance(inner, list):
        return [step for each in cast("list[Any]", inner) for step in _steps(each)]
    return [described] if described else []


def _names(described: Mapping[str, Any]) -> set[str]:
    return {str(step.get("type")) for step in _steps(described)}


def _strips(described: Mapping[str, Any]) -> bool:
    """Whether decoding takes away the space that encoding put before a text."""
    return any(
        (step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1)
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in _steps(described)
    )


def _content(token: object) -> str | None:
    """The text of a token as ``tokenizer_config.json`` gives it."""
    if isinstance(token, dict):
        token = cast("dict[str, object]", token).get("content")
    return token if isinstance(token, str) else None


def _default(templates: list[object]) -> object:
    for each in templates:
        named = cast("dict[str, object]", each) if isinstance(each, dict) else {}
        if named.get("name") == "default":
            return named.get("template")
    return None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(path: Path, most: int) -> str:
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise CorruptFile(
            f"{path} — is not UTF-8 ({error.reason}); copy the model again."
        ) from error
