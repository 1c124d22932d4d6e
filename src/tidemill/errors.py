"""Every error tidemill raises on purpose, as one tree.

    TidemillError
    ├── ConfigError            a setting is outside what is allowed
    ├── InputError             the data given cannot be used
    │   ├── CorruptFile        a file is damaged, truncated or not what it says it is
    │   └── UnsupportedModel   a well-formed file of a kind that is not implemented
    ├── ResourceError          the machine cannot give what was asked
    │   ├── OutOfPool          a memory pool, disk or queue is full
    │   └── MissingCapability  a device, kernel feature, program or package is not there
    ├── ProtocolError          a peer process answered something it must not
    └── ClaimError             a claim or its measurement contradicts itself

A message has four parts in one or two lines: what was asked, what was found, what is allowed, what
to do. The command line turns the classes into exit codes: ``exit_code``.
"""

from __future__ import annotations


class TidemillError(Exception):
    """Base of all errors raised on purpose; its text is meant for the user."""

    exit_code: int = 2
    """What the command line exits with: 1 failed claim, 2 user error, 3 missing capability."""


class ConfigError(TidemillError, ValueError):
    """A setting is outside what is allowed; the text names field, value and range."""

    @classmethod
    def of(cls, field: str, value: object, allowed: str, why: str = "") -> ConfigError:
        """Build the house form: ``hot_fraction=1.4 — must be in (0, 1]; it is the share …``."""
        return cls(f"{field}={value!r} — must be {allowed}" + (f"; {why}" if why else ""))


class InputError(TidemillError, ValueError):
    """The data given cannot be used."""


class CorruptFile(InputError):
    """A file is damaged, truncated or not what it says it is; nothing of it was used."""


class UnsupportedModel(InputError):
    """A well-formed file of a kind that is not implemented."""


class ResourceError(TidemillError, RuntimeError):
    """The machine cannot give what was asked."""


class OutOfPool(ResourceError):
    """A memory pool, a disk or a queue is full; what was stored before is intact."""


class MissingCapability(ResourceError):
    """A device, kernel feature, program or package is not there; the text says how to get it."""

    exit_code = 3


class ProtocolError(TidemillError, RuntimeError):
    """A peer process answered something it must not."""


class ClaimError(TidemillError, ValueError):
    """A claim or its measurement contradicts itself, as a quote that the abstract lacks."""

    exit_code = 1
