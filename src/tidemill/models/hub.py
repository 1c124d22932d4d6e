"""Models of the Hugging Face hub, through its own client and into its own cache."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from tidemill.errors import InputError, MissingCapability

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>[\w./-]+\.gguf))?")
_WANTED = [
    *("config.json", "generation_config.json", "chat_template.jinja", "tokenizer*"),
    *("*.safetensors", "*.safetensors.index.json"),
]
_TIMEOUT_S = 10.0


def is_hub_id(name: str) -> bool:
    """Whether ``name`` looks like ``owner/name`` or ``owner/name/file.gguf``."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def pull_from_hub(name: str) -> Path:
    """The path of a hub model in the hub client's cache, downloaded if need be.

    Raises:
        InputError: the hub has no such model, or it may not be read.
        MissingCapability: the client is not installed, or reaches no hub.
    """
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise InputError(f"hub id {name[:80]!r} — must be owner/name or owner/name/file.gguf.")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise MissingCapability(
            f"model {name!r} — is of the Hugging Face hub, whose client is not installed; run "
            "`pip install huggingface_hub`, or give a path."
        ) from error
    if not sys.stderr.isatty():
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    try:
        if match["file"]:
            found = hub.hf_hub_download(match["repo"], match["file"], etag_timeout=_TIMEOUT_S)
        else:
            found = hub.snapshot_download(
                match["repo"], allow_patterns=_WANTED, etag_timeout=_TIMEOUT_S
            )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _unreachable(name, error) from error
    except (
        errors.RepositoryNotFoundError,
        errors.EntryNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise InputError(f"hub model {name!r} — cannot be had: {_first(error)}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise _unreachable(name, error) from error
    return _checked(name, Path(found))


def _checked(name: str, path: Path) -> Path:
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise InputError(
            f"hub model {name!r} — has no safetensors; name one of its GGUF files, as "
            f"{name}/model-q4_k_m.gguf."
        )
    return path


def _unreachable(name: str, error: Exception) -> MissingCapability:
    return MissingCapability(
        f"hub model {name!r} — the hub cannot be reached ({_first(error)}); try again with a "
        "network, or pull a model of the catalogue: `tidemill models list`."
    )


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
