"""What is checked and what a check is."""

from __future__ import annotations

import sys
import unittest
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from tidemill.bench.claim import Text
from tidemill.bench.system import ENTRY_POINT_GROUP, System
from tidemill.errors import ClaimError, ConfigError

PLACEHOLDER = "REPLACE"
"""What ``tidemill new-system`` writes where only the author knows what to say."""


class CheckFailed(ClaimError, AssertionError):
    """A system does not do what every system must; the text names the check and what to do."""


class ConformanceWarning(UserWarning):
    """A check failed as its system had declared."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A system under check.

    Args:
        system: The system.
        reference: ``module:ATTRIBUTE`` by which a child process finds it.
        root: Folder with ``docs/systems/<name>.md`` and ``examples/<name>.py``, or None.
    """

    system: System
    reference: str
    root: Path | None


Named: TypeAlias = tuple[str, Callable[[], None]]
"""A name unique within the suite, and what raises if the system falls short."""


@dataclass(frozen=True, slots=True)
class Check:
    """One small check of one system; call it to run it.

    Raises:
        CheckFailed: The system falls short, or a known failure does not fail any more.
        unittest.SkipTest: It cannot be told on this machine; pytest shows it as skipped.
    """

    system: str
    name: str
    run: Callable[[], None]
    known_failure: str | None = None

    def __str__(self) -> str:
        return f"{self.system}-{self.name}"

    def __call__(self) -> None:
        """Run it; raises as the class says."""
        __tracebackhide__ = True  # pytest shows what is wrong with the system, not this code
        try:
            self.run()
        except unittest.SkipTest:
            raise
        except Exception as error:
            said = str(error) if isinstance(error, CheckFailed) else repr(error)
            if self.known_failure is None:
                cause = error.__cause__ if isinstance(error, CheckFailed) else error
                raise CheckFailed(f"{self}: {said}") from cause
            warnings.warn(
                f"{self} fails, as declared ({self.known_failure}): {said}",
                ConformanceWarning,
                stacklevel=2,
            )
            return
        if self.known_failure is not None:
            raise CheckFailed(
                f"{self}: passes, but known_failures says {self.known_failure!r}; remove it there."
            )


Made = TypeVar("Made")


class Once(Generic[Made]):
    """A value made when first asked for, and what making it raised as often as it is asked for."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._kept: list[Made] = []
        self._raised: Exception | None = None

    def __call__(self) -> Made:
        """The value, or its error again."""
        if self._raised is not None:
            raise self._raised
        if not self._kept:
            try:
                self._kept.append(self._make())
            except Exception as error:
                self._raised = error
                raise
        return self._kept[0]


def reference_of(system: System) -> str:
    """``module:ATTRIBUTE`` of a system that is a value of an importable module.

    Raises:
        ConfigError: It is not; child processes could not find it.
    """
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == system.name and entry.load() is system:
            return entry.value
    modules = [*_enclosing(system.config.__module__), *_enclosing(system.run.__module__)]
    for name in dict.fromkeys(modules):
        for attribute, value in vars(sys.modules[name]).items():
            if value is system and name != "__main__":
                return f"{name}:{attribute}"
    raise ConfigError(
        f"system {system.name} — cannot be found by its own processes; it must be an attribute of "
        f"{system.config.__module__} or a package around it, such as SYSTEM in its __init__.py."
    )


def _enclosing(module: str) -> Iterator[str]:
    while module:
        if module in sys.modules:
            yield module
        module = module.rpartition(".")[0]


def must(condition: object, text: str) -> None:
    """Fail the check with ``text`` unless ``condition`` is true."""
    if not condition:
        raise CheckFailed(text)


def must_be_written(where: str, text: str) -> None:
    """Fail the check if ``text`` is empty or what the template left."""
    must(text.strip(), f"{where} is empty; write it.")
    left = [line.strip() for line in text.splitlines() if PLACEHOLDER in line]
    must(not left, f"{where} still says {left[:1]}; write what it asks for.")


def must_be_bilingual(where: str, text: Text) -> None:
    """Fail the check unless both languages are there, each in its own script."""
    must_be_written(f"{where}, English,", text.en)
    must_be_written(f"{where}, Chinese,", text.zh)
    must(
        any("\u4e00" <= mark <= "\u9fff" for mark in text.zh),
        f"{where} has no Chinese character in its Chinese form {text.zh!r}; translate it.",
    )
    must(
        not any("\u4e00" <= mark <= "\u9fff" for mark in text.en),
        f"{where} has Chinese characters in its English form {text.en!r}; translate it.",
    )
