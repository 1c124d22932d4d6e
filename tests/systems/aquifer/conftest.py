"""Guests for the tests: Python handlers, and C programs that gcc builds here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tidemill.errors import MissingCapability
from tidemill.systems.aquifer import require_kvm

PYTHON = Path("/usr/bin/python3.11")
BuildC = Callable[..., Path]


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


def compile_guest(folder: Path, source: str, *options: str) -> Path:
    """A C program as an ELF file."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc to build a guest with")
    code = folder / "guest.c"
    code.write_text(PRELUDE + source)
    program = folder / "guest"
    command = [compiler, "-O1", "-w", *options, str(code), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return program


@pytest.fixture
def build_c(kvm: None, tmp_path: Path) -> BuildC:
    """``build_c(source)`` gives a static ELF file, ``build_c(source, "-pie")`` a dynamic one."""
    return lambda source, *options: compile_guest(tmp_path, source, *(options or ("-static",)))


PRELUDE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
"""
