"""Functions in the spirit of FunctionBench, in guests of their own, with two inputs each.

The code is ours (FunctionBench: Kim and Lee, IEEE CLOUD 2019, Apache-2.0, gave the list). Input A
is what a snapshot is recorded with, twice, the second half as large again; input B is what is
measured: other random numbers, and two and a half times the size of the smaller A.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import ConfigError, MissingCapability
from tidemill.systems.aquifer.microvm import GUEST_FOLDER, MicroVM

GUEST_PYTHON = Path("/usr/bin/python3.11")


@dataclass(frozen=True, slots=True)
class Function:
    """One function.

    Attributes:
        name: of its module in ``guest/functions``.
        memory: of its guest.
        size: what its input counts, by name.
        a: sizes of the inputs that it is recorded with.
        b: size of the input that is measured.
        needs_numpy: whether the guest must have NumPy.
    """

    name: str
    memory: str
    size: str
    a: tuple[int, ...]
    b: int
    needs_numpy: bool = False

    def recorded(self) -> list[bytes]:
        """The requests of input A, one for each recording."""
        return [self._request(size, seed) for seed, size in enumerate(self.a, start=1)]

    def measured(self) -> bytes:
        """The request of input B."""
        return self._request(self.b, 1000)

    def _request(self, size: int, seed: int) -> bytes:
        return json.dumps({self.size: size, "seed": seed}).encode()

    def boot(self) -> MicroVM:
        """A guest that serves it, at its ready point.

        Raises:
            MissingCapability: no KVM, no guest Python or no NumPy for it.
        """
        command = [guest_python(), GUEST_FOLDER / "run_function.py", self.name]
        packages = [numpy_folder()] if self.needs_numpy else []
        environment = {"PYTHONPATH": ":".join(map(str, packages))} if packages else None
        vm = MicroVM(command, memory=self.memory, roots=packages, environment=environment)
        try:
            return vm.run_to_ready()
        except BaseException:
            vm.close()
            raise


FUNCTIONS = (
    Function("json_document", "256M", "records", (30, 45), 75),
    Function("html_page", "256M", "rows", (50, 75), 125),
    Function("compression", "256M", "words", (1000, 1500), 2500),
    Function("regex_log", "256M", "lines", (80, 120), 200),
    Function("graph_paths", "256M", "nodes", (80, 120), 200),
    Function("aes_cipher", "256M", "blocks", (10, 15), 25),
    Function("sqlite_query", "256M", "rows", (200, 300), 500),
    Function("matmul", "512M", "size", (80, 120), 200, needs_numpy=True),
    Function("linpack", "512M", "size", (60, 90), 150, needs_numpy=True),
    Function("image_filter", "512M", "size", (40, 60), 100, needs_numpy=True),
    Function("lr_serving", "512M", "reviews", (30, 45), 75, needs_numpy=True),
    Function("mlp_serving", "512M", "batch", (16, 24), 40, needs_numpy=True),
    Function("fft_spectrum", "512M", "samples", (12_000, 18_000), 30_000, needs_numpy=True),
)
"""All functions; guests with NumPy have 512 MiB."""


def function(name: str) -> Function:
    """The function of that name.

    Raises:
        ConfigError: there is none.
    """
    for one in FUNCTIONS:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in FUNCTIONS)
    raise ConfigError.of("function", name, f"one of {names}")


def guest_python() -> Path:
    """The interpreter that guests run.

    Raises:
        MissingCapability: it is not there.
    """
    if not GUEST_PYTHON.is_file():
        raise MissingCapability(
            f"functions run {GUEST_PYTHON} in their guests; install it (Debian: apt-get install "
            "python3.11)"
        )
    return GUEST_PYTHON


def numpy_folder() -> Path:
    """The folder of a NumPy that the guests' interpreter can import.

    Raises:
        MissingCapability: the NumPy installed here is for another Python.
    """
    import numpy as np

    version = ".".join(map(str, sys.version_info[:2]))
    if f"python{version}" != GUEST_PYTHON.name:
        raise MissingCapability(
            f"guests run {GUEST_PYTHON.name}, but the NumPy here is for Python {version}; install "
            "tidemill for Python 3.11 to measure the functions that use it"
        )
    return Path(np.__file__).parents[1]
