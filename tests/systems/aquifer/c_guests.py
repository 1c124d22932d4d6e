"""C programs that gcc builds here, to run in guests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PYTHON = Path("/usr/bin/python3.11")
BuildC = Callable[..., Path]
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
