"""The suite: which checks there are, and all of them at once."""

from __future__ import annotations

import sys
import unittest
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from tidemill.bench.system import System
from tidemill.errors import ConfigError
from tidemill.testing import claim_checks, config_checks, document_checks, import_checks, run_checks
from tidemill.testing.subject import Check, CheckFailed, Named, Subject, reference_of

FIND = Path("where pyproject.toml is")
"""Stands for: look for documents in the nearest folder above the system with a pyproject.toml."""


def checks(
    system: System,
    *,
    docs: Path | None = FIND,
    known_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """The checks of one system, none of them run yet.

    Those that run the system share their observations: it runs about four times in all.

    Args:
        system: The system, an attribute of an importable module.
        docs: Folder with ``docs/systems/<name>.md`` and ``examples/<name>.py``; default: the
            nearest one above the system's module that has a ``pyproject.toml``; None: do not ask
            for documents.
        known_failures: Name of a check to why it fails; it then warns instead, and fails when it
            passes.

    Raises:
        ConfigError: A known failure that no check has, or a system that cannot be imported anew.
    """
    reference = reference_of(system)
    root = _project_of(reference) if docs is FIND else docs
    known = dict(known_failures or {})
    found = [
        Check(system.name, name, run, known.pop(name, None))
        for name, run in _all(Subject(system, reference, root))
    ]
    if known:
        names = ", ".join(check.name for check in found)
        raise ConfigError.of("known_failures", sorted(known), f"names of checks: {names}")
    return found


def check_system(
    system: System,
    *,
    docs: Path | None = FIND,
    known_failures: Mapping[str, str] | None = None,
) -> None:
    """Run every check of `checks`; those that this machine cannot tell are warned about.

    Raises:
        CheckFailed: Names each check that failed and what to do.
    """
    failures: list[str] = []
    for check in checks(system, docs=docs, known_failures=known_failures):
        try:
            check()
        except CheckFailed as error:
            failures.append(str(error))
        except unittest.SkipTest as error:
            warnings.warn(f"{check} was skipped: {error}", stacklevel=2)
    if failures:
        raise CheckFailed("\n".join(failures))


def _all(subject: Subject) -> Iterator[Named]:
    for module in (config_checks, claim_checks, import_checks, run_checks, document_checks):
        yield from module.checks_of(subject)


def _project_of(reference: str) -> Path | None:
    module = sys.modules[reference.partition(":")[0]]
    if module.__file__ is None or "site-packages" in module.__file__:
        return None
    for folder in Path(module.__file__).parents:
        if (folder / "pyproject.toml").is_file():
            return folder
    return None
