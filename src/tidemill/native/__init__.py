"""The C++ kernels of all rooms, compiled for two instruction sets and picked at import.

``kernels("cusbf")`` gives what ``systems/cusbf/kernels.cpp`` registers. On x86-64 the package holds
two builds of the same sources: ``_baseline`` (x86-64, SSE2) and ``_avx2`` (AVX2, FMA, F16C, BMI2);
elsewhere one ``_baseline`` for the compiler's default target. ``TIDEMILL_NATIVE`` set to
``baseline`` or ``avx2`` forces one. This package knows nothing about what the kernels compute.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

from tidemill.errors import ConfigError, MissingCapability

LEVELS = ("avx2", "baseline")
"""The builds there can be, best first."""


def available_levels() -> tuple[str, ...]:
    """The levels that are both compiled into this installation and run on this CPU, best first."""
    baseline = _load("baseline")
    cpu: tuple[str, ...] = tuple(baseline.cpu_levels())
    return tuple(name for name in LEVELS if name in cpu and _is_built(name))


def active_level() -> str:
    """The level in use: ``TIDEMILL_NATIVE`` if set, else the best available.

    Raises:
        ConfigError: ``TIDEMILL_NATIVE`` names no level.
        MissingCapability: the level named cannot run here.
    """
    available = available_levels()
    wanted = os.environ.get("TIDEMILL_NATIVE", "")
    if not wanted:
        return available[0]
    if wanted not in LEVELS:
        raise ConfigError.of("TIDEMILL_NATIVE", wanted, f"one of {', '.join(LEVELS)}")
    if wanted not in available:
        raise MissingCapability(
            f"TIDEMILL_NATIVE={wanted} — this CPU and this build offer only "
            f"{', '.join(available)}; "
            "unset it to use the best of them."
        )
    return wanted


def kernels(room: str, level: str | None = None) -> ModuleType:
    """The kernels that ``room`` registered, at ``level`` (default: the active one).

    Raises:
        MissingCapability: this installation was built without them.
    """
    module = _load(level or active_level())
    found: ModuleType | None = getattr(module, room, None)
    if found is None:
        raise MissingCapability(
            f"native kernels of {room!r} — not in this build; reinstall tidemill from source "
            "(pip install --force-reinstall --no-deps .)."
        )
    return found


def _is_built(level: str) -> bool:
    return importlib.util.find_spec(f"tidemill.native._{level}") is not None


def _load(level: str) -> ModuleType:
    try:
        return importlib.import_module(f"tidemill.native._{level}")
    except ImportError as error:
        raise MissingCapability(
            f"native kernels ({level}) — the compiled module cannot be imported: {error}; "
            "run `pip install .` in the source tree with a C++20 compiler."
        ) from error
