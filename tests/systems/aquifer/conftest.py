"""Guests for the tests: Python handlers, and C programs that gcc builds here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tidemill.errors import MissingCapability
from tidemill.systems.aquifer import require_kvm

from .c_guests import PYTHON, BuildC, compile_guest


@pytest.fixture
def kvm() -> Iterator[None]:
    """Skips where guests cannot run; no guest leaves a process or a KVM descriptor behind."""
    try:
        require_kvm()
    except MissingCapability as error:
        pytest.skip(str(error))
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if "kvm" in link]


@pytest.fixture
def python(kvm: None) -> Path:
    """An unmodified dynamic CPython of the distribution."""
    if not PYTHON.is_file():
        pytest.skip(f"there is no {PYTHON} to run in a guest")
    return PYTHON


@pytest.fixture
def build_c(kvm: None, tmp_path: Path) -> BuildC:
    """``build_c(source)`` gives a static ELF file, ``build_c(source, "-pie")`` a dynamic one."""
    return lambda source, *options: compile_guest(tmp_path, source, *(options or ("-static",)))
