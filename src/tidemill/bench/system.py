"""`System`: one paper as a working system, a plain value found through an entry point."""

from __future__ import annotations

import importlib
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from datetime import date
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.bench.claim import Claim, Text
from tidemill.bench.trial import Context, Report, Trial
from tidemill.errors import ClaimError, ConfigError

if TYPE_CHECKING:
    import typer

ENTRY_POINT_GROUP = "tidemill.systems"


@dataclass(frozen=True, slots=True)
class Paper:
    """The paper behind a system, as its digest entry prints it.

    Args:
        arxiv_id: Without version; "" where the announcement gives none: then the title says which.
        title: Of the paper.
        announced: The day of its announcement.
        abstract: All of it.
    """

    arxiv_id: str
    title: str
    announced: date
    abstract: str

    @classmethod
    def beside(cls, module_file: str) -> Paper:
        """Read ``paper.toml`` from the folder of ``module_file`` (pass ``__file__``)."""
        path = Path(module_file).with_name("paper.toml")
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(
            fields.get("arxiv_id", ""),
            fields["title"],
            fields["announced"],
            fields["abstract"].strip(),
        )

    @property
    def source(self) -> str:
        """Where it was announced, as the digest prints it: ``arXiv 2606.24417``, else the day."""
        return f"arXiv {self.arxiv_id or self.announced.isoformat()}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something of the machine that a system needs.

    Args:
        name: What it is ("KVM").
        missing: Gives None if it is there, else what is missing and how to get it.
    """

    name: str
    missing: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Plug:
    """A part that a system offers for a named socket of a substrate."""

    socket: str
    name: str
    summary: Text
    make: Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One paper as a working system.

    Args:
        name: Package name and first word of its commands.
        paper: The paper.
        summary: What the user gets, one sentence, both languages.
        config: A frozen slotted dataclass; each field has a default and a ``help`` in its metadata.
        run: Runs the system on its default real input.
        claims: What the abstract claims and how it is measured here.
        requires: What the machine must have.
        plugs: Parts offered to substrates.
        cli: Gives the system's own commands; called only when one is used.
    """

    name: str
    paper: Paper
    summary: Text
    config: type[Any]
    run: Callable[[Context], Report]
    claims: tuple[Claim, ...]
    requires: tuple[Requirement, ...] = ()
    plugs: tuple[Plug, ...] = ()
    cli: Callable[[], typer.Typer] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ConfigError.of("name", self.name, "a lower-case Python identifier")
        if not is_dataclass(self.config):
            raise ConfigError.of("config", self.config, "a frozen dataclass")
        seen: set[str] = set()
        for claim in self.claims:
            if claim.quote not in self.paper.abstract:
                raise ClaimError(
                    f"claim {self.name}/{claim.id}: its quote is not in the abstract of "
                    f"{self.paper.title!r}: {claim.quote!r}."
                )
            if claim.id in seen:
                raise ClaimError(f"claim {self.name}/{claim.id}: the id is used twice.")
            seen.add(claim.id)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of all claims, each once, in the order of the claims."""
        return tuple({claim.trial.name: claim.trial for claim in self.claims}.values())

    def claim(self, claim_id: str) -> Claim:
        """The claim with that id.

        Raises:
            ConfigError: There is none.
        """
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        raise ConfigError.of("claim", claim_id, f"one of {', '.join(c.id for c in self.claims)}")

    def missing(self) -> list[str]:
        """What this machine lacks, one sentence per requirement; empty if nothing."""
        return [text for requirement in self.requires if (text := requirement.missing())]


def installed() -> list[str]:
    """The names of all installed systems; none is imported."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def discover() -> Iterator[System]:
    """All installed systems by name, from the entry points of group ``tidemill.systems``."""
    for name in installed():
        yield find(name)


def usable() -> Iterator[System]:
    """As `discover`, but one that cannot be imported is warned about and left out.

    For pages and lists, which one broken package must not take down.
    """
    for name in installed():
        try:
            yield find(name)
        except ConfigError as error:
            warnings.warn(str(error), stacklevel=2)


def find(name: str) -> System:
    """The installed system called ``name``, or the one at ``package.module:ATTRIBUTE``.

    Only that system is imported.

    Raises:
        ConfigError: There is none; the text lists those there are.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        return _at(module, attribute)
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in entries:
        known = ", ".join(installed()) or "(none installed)"
        raise ConfigError.of("system", name, f"one of {known}")
    return _loaded(entries[name])


def _loaded(entry: EntryPoint) -> System:
    where = f"entry point {entry.name} = {entry.value}"
    try:
        found: object = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where} — cannot be imported: {error}; reinstall the package it comes from."
        ) from error
    return _checked(found, where)


def _at(module: str, attribute: str) -> System:
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"system {module}:{attribute} — cannot be imported: {error}; "
            "give package.module:ATTRIBUTE of a tidemill.bench.System."
        ) from error
    return _checked(found, f"{module}:{attribute}")


def _checked(found: object, where: str) -> System:
    if not isinstance(found, System):
        raise ConfigError(
            f"{where} — gives {type(found).__name__}, must be a tidemill.bench.System."
        )
    return found
