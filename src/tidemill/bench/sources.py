"""Which source files the figures of a system rest on, as one short hash.

A commit says too much: with it every figure would be of "older code" once a document or another
system changes. The hash covers the system's own package, the rooms below it that it imports, and
what measures it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache
from pathlib import Path

import tidemill
from tidemill.bench.environment import Environment
from tidemill.bench.system import System

UNMEASURED = ("cli.py", "run.py", "gpu.py", "triton_kernels.py")
"""Files of a system that no figure comes from: commands, the report of a run, other devices."""
MEASURE_WITH = ("bench/compare.py", "bench/counts.py")
"""Files of `tidemill` that turn runs into figures."""

_HOUSE = Path(tidemill.__file__).parent
_KINDS = frozenset({".py", ".cpp", ".hpp", ".cu", ".toml"})
_NOT_BELOW = frozenset({"bench", "cli", "errors", "feed", "native", "systems", "testing", "web"})
_IMPORT = re.compile(r'\btidemill\.(\w+)|"(?:\.\./)+(\w+)/')
"""``tidemill.models`` in Python and ``"../../models/linear.hpp"`` in C++."""


def sources_of(system: System) -> str:
    """Twelve hex digits that change when a file does that figures of ``system`` may depend on.

    The package is that of its configuration. Read once per process: a server goes on with the code
    it began with.
    """
    return _hash(system.config.__module__)


def is_current(environment: Environment, system: System) -> bool:
    """Whether what was measured in ``environment`` rests on the files of now.

    Figures stored before there was a hash are not.
    """
    return environment.sources == sources_of(system)


@cache
def _hash(name: str) -> str:
    module = sys.modules[name]
    file = Path(str(module.__file__))
    package = file.parent if module.__package__ else file
    digest = hashlib.sha256()
    for path in [*_sources(package), *_rooms_below(package), *(_HOUSE / f for f in MEASURE_WITH)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _rooms_below(package: Path) -> list[Path]:
    """The sources of the rooms of `tidemill` that those of ``package`` import."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in _sources(package))
    found = {one or other for text in texts for one, other in _IMPORT.findall(text)}
    rooms = sorted(_HOUSE / name for name in found - _NOT_BELOW)
    return [path for room in rooms if room.is_dir() for path in _sources(room)]


def _sources(package: Path) -> list[Path]:
    if package.is_file():
        return [package]
    return sorted(
        path
        for path in package.rglob("*")
        if path.suffix in _KINDS and path.name not in UNMEASURED and path.is_file()
    )
