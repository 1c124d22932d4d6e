"""A model on disk: its configuration and its tensors by role, whatever the file format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.config import DecoderConfig
from tidemill.models.ggml_types import GGMLType
from tidemill.models.gguf import GGUFFile
from tidemill.models.roles import (
    GGUF_NAMES,
    HF_NAMES,
    HF_POST_NORM_NAMES,
    LAYER_ROLES,
    MODEL_ROLES,
    slots,
)
from tidemill.models.safetensors_file import SafetensorsFile, read_json
from tidemill.models.tensor_info import TensorInfo

if TYPE_CHECKING:
    from tidemill.models.chat_template import ChatTemplate
    from tidemill.models.gguf_cursor import MetadataValue
    from tidemill.models.pull import Report
    from tidemill.models.tokenizer import Tokenizer

_IGNORED = ("rope_freqs.weight",)  # read into the configuration
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


class WeightFile(Protocol):
    """What ``ModelFile`` reads tensors from."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its name in the file."""
        ...

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor."""
        ...

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class ModelFile:
    """An open model; a context manager. Every tensor of the configuration is there and fits.

    Norm weights are what is multiplied with: Gemma's "+1" is in them, whatever the format.
    """

    config: DecoderConfig
    path: Path
    name: str
    """What the model was asked for by, or the stem of its file."""
    metadata: Mapping[str, MetadataValue]
    """A GGUF file's; empty for safetensors."""

    def __init__(self, source: GGUFFile | SafetensorsFile, *, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.source: WeightFile = source
        if isinstance(source, GGUFFile):
            self.config = DecoderConfig.from_gguf(source)
            self.metadata = source.metadata
            self._names = dict(GGUF_NAMES)
        else:
            self.config = DecoderConfig.from_hf(read_json(self._folder / "config.json"))
            self.metadata = {}
            self._names = _hf_names(source, self.config)
        self._adds_one = self.config.architecture == "gemma3" and not self.metadata
        _check(self, source)

    def tensor(self, role: str, layer: int | None = None) -> TensorInfo:
        """What the file says of a tensor; ``output`` of a tied head is the embedding.

        Args:
            role: one of ``tidemill.models.roles.GGUF_NAMES``.
            layer: from 0, for the roles of a layer; None for the others.

        Raises:
            InputError: there is no such role, layer or (optional) tensor.
        """
        info = self.source.tensors[self._name(role, layer)]
        if self._synthesised(role):
            return TensorInfo(info.name, info.shape, GGMLType.F32, info.offset, 4 * info.shape[0])
        return info

    def has(self, role: str, layer: int | None = None) -> bool:
        """Whether the model has that tensor, which only biases and norms may lack."""
        if role in GGUF_NAMES and role not in self._names:  # the format has no name for it
            return False
        return self.file_name(role, layer) in self.source.tensors

    def raw(self, role: str, layer: int | None = None) -> NDArray[np.uint8]:
        """The bytes of a tensor as ``tensor`` describes them, shape (nbytes,); a view if stored."""
        if self._synthesised(role):
            return self.weight(role, layer).view(np.uint8)
        return self.source.raw(self._name(role, layer))

    def weight(self, role: str, layer: int | None = None) -> NDArray[np.float32]:
        """The weights of a tensor in float32, outputs first; a fresh array."""
        weight = self.source.dequantize(self._name(role, layer))
        return weight + np.float32(1) if self._synthesised(role) else weight

    def file_name(self, role: str, layer: int | None = None) -> str:
        """What the tensor is, or would be, named in the file."""
        if role == "output" and self.config.tied_head:
            role = "embedding"
        known = LAYER_ROLES if layer is not None else MODEL_ROLES
        if role not in known:
            where = "outside the layers" if layer is None else "in a layer"
            raise InputError(
                f"role {role!r} with layer {layer} — is not known; {where}: {', '.join(known)}."
            )
        if layer is not None and not 0 <= layer < self.config.layers:
            raise InputError(f"layer {layer} — must be from 0 to {self.config.layers - 1}.")
        return self._names[role].format(layer)

    def _name(self, role: str, layer: int | None) -> str:
        name = self.file_name(role, layer)
        if name not in self.source.tensors:
            raise InputError(f"{self.path} — has no {role} in layer {layer} ({name}).")
        return name

    def _synthesised(self, role: str) -> bool:
        return self._adds_one and role.endswith("norm")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the file, or the folder, holds.

        Raises:
            UnsupportedModel: there is none, or it is of a kind that is not implemented.
            CorruptFile: it is damaged.
        """
        if not self.metadata:
            from tidemill.models.folder_tokenizer import FolderTokenizer

            return FolderTokenizer(self._folder, embeddings=self.config.vocab_size)
        from tidemill.models.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self.metadata)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """How the file, or the folder, says that conversations are written.

        Raises:
            UnsupportedModel: it does not say.
            CorruptFile: what it says is no template.
        """
        if not self.metadata:
            from tidemill.models.folder_tokenizer import folder_chat_template

            return folder_chat_template(self._folder)
        from tidemill.models.chat_template import ChatTemplate

        return ChatTemplate.from_gguf(self.metadata)

    def template(self, source: str) -> ChatTemplate:
        """A chat template of the user's own, with the special tokens of this model.

        Raises:
            CorruptFile: it is no template.
        """
        from tidemill.models.chat_template import ChatTemplate

        if self.metadata:
            return ChatTemplate(source, special_tokens=ChatTemplate.special_tokens(self.metadata))
        from tidemill.models.folder_tokenizer import folder_special_tokens

        return ChatTemplate(source, special_tokens=folder_special_tokens(self._folder))

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def weight_bytes(self) -> int:
        """Bytes that all tensors take in the file."""
        return sum(info.nbytes for info in self.source.tensors.values())

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ModelFile({self.name!r}, {self.config.architecture}, {str(self.path)!r})"


def open_model(name_or_path: str | Path, *, report: Report | None = None) -> ModelFile:
    """Open a model of the catalogue (pulled if need be), a GGUF file, or a safetensors folder.

    ``report`` is told of a pull's progress: bytes that are there, bytes in all.

    Raises:
        InputError: there is no such model or file.
        CorruptFile: the file is damaged.
        UnsupportedModel: the file is of a kind that is not implemented.
        MissingCapability: the model must be pulled, and cannot be.
    """
    from tidemill.models.store import ModelStore

    path = ModelStore().pull(name_or_path, report)
    name = str(name_or_path) if path != Path(name_or_path) else path.stem
    if path.is_dir() or path.suffix == ".safetensors":
        return ModelFile(SafetensorsFile.open(path), path=path, name=name)
    return ModelFile(GGUFFile.open(path), path=path, name=name)


def _hf_names(source: SafetensorsFile, config: DecoderConfig) -> dict[str, str]:
    """Names in this file, which may all stand under the name of a larger, multimodal model."""
    names = HF_NAMES | (HF_POST_NORM_NAMES if config.post_norms else {})
    embedding = names["embedding"]
    for name in source.tensors:
        prefix = name.removesuffix(embedding)
        if prefix != name:
            return {role: prefix + plain for role, plain in names.items()}
    return names


def _check(model: ModelFile, source: WeightFile) -> None:
    """Refuse a tensor that is missing, misshapen, or would silently be left out."""
    wanted = {_IGNORED[0]}
    for slot in slots(model.config):
        name = model.file_name(slot.role, slot.layer)
        wanted.add(name)
        info = source.tensors.get(name)
        if info is None:
            if slot.optional:
                continue
            raise CorruptFile(f"{model.path} — lacks the tensor {name}; pull or copy it again.")
        if info.shape != slot.shape:
            raise CorruptFile(
                f"{model.path} — {name} has the shape {info.shape}, the configuration asks for "
                f"{slot.shape}; pull or copy it again."
            )
    if model.config.tied_head:
        wanted.add(model.file_name("embedding"))
        wanted.add("lm_head.weight")
    extra = [
        name
        for name in source.tensors
        if name not in wanted
        and not name.endswith(_IGNORED_SUFFIXES)
        and name.partition(".")[0] in ("blk", "model", "output")
    ]
    if extra:
        raise UnsupportedModel(
            f"{model.path} — has {len(extra)} tensors that {model.config.architecture} does not "
            f"use, as {extra[0]}; it is a variation that is not implemented."
        )
